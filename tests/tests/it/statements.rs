//! Every statement of the store, explained on a full database: it reads the rows it names and hardly any other, whatever
//! Postgres knew of the tables when it planned the statement.
//!
//! The statements come from `.sqlx`, so that none can be left out. One that is new here needs its values in
//! `statements/values.rs`.

mod plan;
mod values;

use foreman_store::{Conn, Store};
use foreman_tests::Db;
use sqlx::{AssertSqlSafe, Row as _};

use plan::Plan;
use values::{VALUES, Values};

/// Fills a database with 200,000 jobs of one client and four of another.
const FILL: &str = include_str!("statements/fill.sql");

/// Where its rows begin.
const ROWS: &str = "-- Rows.";

/// A checked statement.
struct Statement {
    name: String,
    sql: String,
    types: Vec<&'static str>,
}

/// What `.sqlx` holds, in the order of the names.
fn statements() -> Vec<Statement> {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.sqlx")).unwrap();
    let mut statements: Vec<Statement> = files
        .map(|file| {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let query: serde_json::Value = serde_json::from_str(&text).unwrap();
            let sql = query["query"].as_str().unwrap().to_owned();
            let first = sql.lines().next().unwrap();
            let name = first.strip_prefix("-- ").unwrap_or_else(|| panic!("a statement has no name: {sql}"));
            let types = query["describe"]["parameters"]["Left"].as_array().unwrap();
            let types = types.iter().map(|name| sql_type(name.as_str().unwrap())).collect();
            Statement { name: name.to_owned(), sql, types }
        })
        .collect();
    statements.sort_by(|one, other| one.name.cmp(&other.name));
    statements
}

fn sql_type(name: &str) -> &'static str {
    match name {
        "Uuid" => "uuid",
        "UuidArray" => "uuid[]",
        "Text" => "text",
        "TextArray" => "text[]",
        "Int2" => "smallint",
        "Int2Array" => "smallint[]",
        "Int4" => "integer",
        "Int4Array" => "integer[]",
        "Int8" => "bigint",
        "Int8Array" => "bigint[]",
        "Float8" => "float8",
        "Float8Array" => "float8[]",
        "Bool" => "boolean",
        "BoolArray" => "boolean[]",
        "Bytea" => "bytea",
        "ByteaArray" => "bytea[]",
        "Date" => "date",
        "Timestamptz" => "timestamptz",
        "TimestamptzArray" => "timestamptz[]",
        other => panic!("say what {other} is in SQL"),
    }
}

impl Statement {
    fn values(&self) -> &'static Values {
        let found = VALUES.iter().find(|values| values.statement == self.name);
        found.unwrap_or_else(|| panic!("give `{}` its values in statements/values.rs", self.name))
    }

    fn prepare(&self) -> String {
        let types =
            if self.types.is_empty() { String::new() } else { format!("({})", self.types.join(", ")) };
        format!("PREPARE {} {types} AS {}", self.name, self.sql)
    }

    /// Every set of values with which it is tried.
    fn executions(&self) -> Vec<String> {
        let call = |values: &&str| match *values {
            "" => format!("EXECUTE {}", self.name),
            values => format!("EXECUTE {}({values})", self.name),
        };
        self.values().sets.iter().map(call).collect()
    }
}

/// What a statement does here is undone.
async fn begin(store: &Store) -> Conn {
    store.open_transaction().await.unwrap()
}

async fn run(conn: &mut Conn, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Prepares every statement on the one connection of this handle.
async fn prepare(store: &Store, statements: &[Statement]) {
    let mut conn = begin(store).await;
    for statement in statements {
        run(&mut conn, &statement.prepare()).await;
    }
    conn.done().await.unwrap();
}

/// Makes Postgres plan every statement, without running any.
async fn plan(store: &Store, statements: &[Statement]) {
    for execution in statements.iter().flat_map(Statement::executions) {
        let mut conn = begin(store).await;
        run(&mut conn, &format!("EXPLAIN {execution}")).await;
        conn.done().await.unwrap();
    }
}

/// Runs every statement but those that read whole rooms, and returns what is wrong with the way it went.
async fn faults(store: &Store, statements: &[Statement], when: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for statement in statements {
        let Some(pages) = statement.values().reads.pages() else { continue };
        for execution in statement.executions() {
            let mut conn = begin(store).await;
            let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {execution}");
            run(&mut conn, "SET LOCAL statement_timeout = '5s'").await;
            let explained = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_one(&mut conn).await;
            let found = match explained {
                Ok(row) => Plan::read(row.try_get_unchecked(0).unwrap()).faults(pages),
                Err(error) => vec![error.to_string()],
            };
            faults.extend(found.iter().map(|fault| format!("{when}: {execution}\n        {fault}")));
        }
    }
    faults
}

#[test]
fn every_statement_has_a_name_of_its_own_and_values() {
    let statements = statements();
    let names: std::collections::BTreeSet<_> = statements.iter().map(|statement| &statement.name).collect();
    assert_eq!(names.len(), statements.len(), "two statements have one name");
    for statement in &statements {
        statement.values();
    }
    for values in VALUES {
        assert!(
            names.iter().any(|name| *name == values.statement),
            "there is no `{}` any more",
            values.statement
        );
    }
}

/// A database in which only we decide what Postgres knows, with words for the rows to come.
async fn empty() -> Db {
    let db = Db::fresh().await;
    for_each_table(&db, "ALTER TABLE %s SET (autovacuum_enabled = off)").await;
    db.run(FILL.split_once(ROWS).unwrap().0).await;
    db
}

async fn fill(db: &Db) {
    db.run(FILL.split_once(ROWS).unwrap().1).await;
}

/// Autovacuum's way: it passes the partitioned tables over.
async fn for_each_table(db: &Db, sql: &str) {
    db.run(&format!(
        "DO $$ DECLARE name regclass; BEGIN
             FOR name IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace LOOP
                 EXECUTE format('{sql}', name);
             END LOOP;
         END $$"
    ))
    .await;
}

#[tokio::test]
async fn every_statement_reads_what_it_names_whatever_postgres_knew_of_the_tables() {
    let db = empty().await;
    let statements = statements();
    let veteran = db.one_connection();
    prepare(&veteran, &statements).await;
    plan(&veteran, &statements).await;
    fill(&db).await;
    let mut found = faults(&veteran, &statements, "planned while there was nothing").await;

    let newcomer = db.one_connection();
    prepare(&newcomer, &statements).await;
    found.extend(faults(&newcomer, &statements, "planned without statistics").await);
    for_each_table(&db, "ANALYZE %s").await;
    found.extend(faults(&newcomer, &statements, "planned with statistics of each day").await);
    db.run("ANALYZE").await;
    found.extend(faults(&newcomer, &statements, "planned with all statistics").await);
    assert!(found.is_empty(), "{} faults:\n{}", found.len(), found.join("\n"));
}

/// As autovacuum leaves a hot table that was drained, and a day that has not come yet.
#[tokio::test]
async fn plans_made_for_tables_known_to_be_empty_go_when_the_tables_have_grown() {
    let db = empty().await;
    db.run("ANALYZE").await;
    let statements = statements();
    let veteran = db.one_connection();
    prepare(&veteran, &statements).await;
    plan(&veteran, &statements).await;
    assert_eq!(db.store.analyse_outgrown().await.unwrap(), 0);
    fill(&db).await;
    assert!(db.store.analyse_outgrown().await.unwrap() > 10);
    assert_eq!(db.store.analyse_outgrown().await.unwrap(), 0, "once is enough");
    let found = faults(&veteran, &statements, "planned for empty tables").await;
    assert!(found.is_empty(), "{} faults:\n{}", found.len(), found.join("\n"));
}
