//! Broken in the tables: their schema, the rights on them, and what stands in them.

use super::House;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_never_migrated() {
    let house = House::sound().await;
    let name = format!("{}_empty", house.db.name());
    house.db.run(&format!("CREATE DATABASE {name}")).await;
    let url = house.db.url().replace(house.db.name(), &name);
    house.examined(&[("DATABASE_URL", &url)]).await.only_trouble("schema", "no schema", "foreman migrate");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_not_ours() {
    let house = House::sound().await;
    let newest = "(SELECT max(version) FROM _sqlx_migrations)";
    for (breaking, what, mend, undo) in [
        (
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'from the future', true, '', 0)"
                .to_owned(),
            "a newer one has migrated it",
            "install that newer release",
            "DELETE FROM _sqlx_migrations WHERE version = 9999".to_owned(),
        ),
        (
            format!("UPDATE _sqlx_migrations SET success = false WHERE version = {newest}"),
            "began and did not end",
            "DELETE FROM _sqlx_migrations",
            "UPDATE _sqlx_migrations SET success = true".to_owned(),
        ),
        (
            format!("UPDATE _sqlx_migrations SET checksum = checksum || '\\x00' WHERE version = {newest}"),
            "in another form",
            "install the release",
            format!("DELETE FROM _sqlx_migrations WHERE version = {newest}"),
        ),
    ] {
        house.db.run(&breaking).await;
        house.examined(&[]).await.only_trouble("schema", what, mend);
        house.db.run(&undo).await;
    }
    // The last undoing has taken a migration away.
    house.examined(&[]).await.only_trouble("schema", "was not applied", "foreman migrate");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_on_the_tables() {
    let house = House::sound().await;
    let role = format!("stranger_{}", house.db.name());
    house.db.run(&format!("CREATE ROLE {role} LOGIN")).await;
    let timeout = "idle_in_transaction_session_timeout = '5s'";
    house.db.run(&format!("ALTER ROLE {role} IN DATABASE {} SET {timeout}", house.db.name())).await;
    let url = house.db.url().replace("//foreman@", &format!("//{role}@"));
    let settings = [("DATABASE_URL", url.as_str())];
    // Not even whether it was migrated.
    let examined = house.examined(&settings).await;
    examined.trouble("rights", "lacks", "GRANT ALL ON ALL TABLES");
    examined.trouble("rights", "belong to foreman", "GRANT foreman TO");

    house.db.run(&format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")).await;
    house.examined(&settings).await.only_trouble("rights", "partitions", "GRANT foreman TO");

    house.db.run(&format!("GRANT foreman TO {role}")).await;
    assert_eq!(house.examined(&settings).await.checks("trouble"), Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_make_no_table() {
    let house = House::sound().await;
    let (role, name) = (format!("newcomer_{}", house.db.name()), format!("{}_new", house.db.name()));
    house.db.run(&format!("CREATE ROLE {role} LOGIN")).await;
    house.db.run(&format!("CREATE DATABASE {name}")).await;
    let url = house.db.url().replace(house.db.name(), &name).replace("//foreman@", &format!("//{role}@"));
    let examined = house.examined(&[("DATABASE_URL", &url)]).await;
    examined.trouble("rights", "may make no table", "GRANT CREATE ON SCHEMA public");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_run_out() {
    let house = House::sound().await;
    house
        .db
        .run(
            "DO $$ DECLARE day text; BEGIN
                 FOR day IN SELECT to_char(now() AT TIME ZONE 'UTC' + make_interval(days => n), 'YYYYMMDD')
                            FROM generate_series(2, 14) AS n LOOP
                     EXECUTE format('DROP TABLE job_%s', day);
                 END LOOP;
             END $$",
        )
        .await;
    house.examined(&[]).await.only_trouble("partitions", "1 day", "foreman migrate");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_in_two_rooms() {
    let house = House::sound().await;
    let holder = house.db.holder().await;
    let id = house.db.accept(1).await[0];
    house
        .db
        .run(
            "INSERT INTO job_scheduled (client_id, job_id, load_key, priority, seq, bytes, due_at, eligible_at, expires_at)
             SELECT client_id, job_id, load_key, priority, seq, bytes, now() + interval '1 day', eligible_at, expires_at
             FROM job_ready",
        )
        .await;
    house.speaks_for(&holder).await;
    let examined = house.examined(&[]).await;
    examined.only_trouble("rooms", &format!("{id} in ready and scheduled"), "restore a backup");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_in_no_room() {
    let house = House::sound().await;
    let id = house.db.accept(1).await[0];
    house.db.run("DELETE FROM job_ready").await;
    house.db.run("DELETE FROM outbox").await;
    let examined = house.examined(&[]).await;
    examined.only_trouble("rooms", &format!("{id} in none"), "restore a backup");
}
