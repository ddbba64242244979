//! What ARCHITECTURE says of the files: that no two of a crate import each other, that what it names exists, and that its
//! glossary is true.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, UseTree};

const CRATES: [&str; 8] = [
    "services/api",
    "services/worker",
    "services/cli",
    "shared/store",
    "shared/live",
    "shared/ollama",
    "shared/webhook",
    "shared/runtime",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.append(&mut rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// A module by the names of its parents and its own; the crate itself is empty.
type Module = Vec<String>;

/// The modules of a crate that have files, each with its file. Those for tests alone are left out.
fn modules(source: &Path) -> BTreeMap<Module, PathBuf> {
    let module = |file: &PathBuf| -> Module {
        let path = file.strip_prefix(source).unwrap().with_extension("");
        path.iter().map(|part| part.to_str().unwrap().to_owned()).collect()
    };
    let files = rust_files(source).into_iter().map(|file| (module(&file), file));
    let files = files.filter(|(module, _)| !module.iter().any(|name| name == "tests"));
    files
        .map(|(module, file)| if is_root(&module) { (Module::new(), file) } else { (module, file) })
        .collect()
}

fn is_root(module: &Module) -> bool {
    matches!(&**module, [name] if name == "main" || name == "lib")
}

/// The modules of its crate that a file names, in `use` and in paths.
struct Named<'a> {
    own: &'a Module,
    all: &'a BTreeMap<Module, PathBuf>,
    found: BTreeSet<Module>,
}

impl Named<'_> {
    fn path(&mut self, parts: &[String]) {
        let supers = parts.iter().take_while(|part| *part == "super").count();
        let base: &[String] = match parts.first().map(String::as_str) {
            Some("crate") => &[],
            Some("super") => &self.own[..self.own.len() - supers.min(self.own.len())],
            _ => self.own,
        };
        let rest = parts[supers..].iter().skip_while(|part| *part == "crate" || *part == "self");
        let mut module: Module = base.iter().chain(rest).cloned().collect();
        while !self.all.contains_key(&module) {
            module.pop();
        }
        self.found.insert(module);
    }

    fn tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: String| before.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.tree(&with(path.ident.to_string()), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(before, item)),
            UseTree::Name(name) => self.path(&with(name.ident.to_string())),
            UseTree::Rename(rename) => self.path(&with(rename.ident.to_string())),
            UseTree::Glob(_) => self.path(before),
        }
    }
}

impl<'a> Visit<'a> for Named<'_> {
    fn visit_item_use(&mut self, item: &'a ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let parts: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if parts.len() > 1 {
            self.path(&parts);
        }
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        let is_for_tests = |attribute: &Attribute| attribute.path().is_ident("cfg");
        if !item.attrs.iter().any(is_for_tests) {
            visit::visit_item_mod(self, item);
        }
    }
}

fn are_kin(one: &Module, other: &Module) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Whom each module imports from, but for its parents and children.
fn imports(source: &Path) -> BTreeMap<Module, BTreeSet<Module>> {
    let all = modules(source);
    let named = |(own, file): (&Module, &PathBuf)| {
        let parsed = syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap();
        let mut named = Named { own, all: &all, found: BTreeSet::new() };
        named.visit_file(&parsed);
        named.found.retain(|found| !are_kin(found, own));
        (own.clone(), named.found)
    };
    all.iter().map(named).collect()
}

/// What is left once every module is taken away, over and over, that imports from none of those left or that none of those
/// left imports from.
fn in_circles(mut imports: BTreeMap<Module, BTreeSet<Module>>) -> BTreeMap<Module, BTreeSet<Module>> {
    loop {
        let (before, importing) = (imports.len(), imports.keys().cloned().collect::<BTreeSet<_>>());
        imports.values_mut().for_each(|from| from.retain(|module| importing.contains(module)));
        let imported: BTreeSet<Module> = imports.values().flatten().cloned().collect();
        imports.retain(|module, from| !from.is_empty() && imported.contains(module));
        if imports.len() == before {
            return imports;
        }
    }
}

#[test]
fn no_two_files_import_each_other_but_a_parent_and_its_child() {
    let mut importing = 0;
    for name in CRATES {
        let imports = imports(&root().join(name).join("src"));
        assert!(imports.len() > 2, "{name}: nothing was read");
        importing += imports.values().filter(|from| !from.is_empty()).count();
        let circles = in_circles(imports);
        assert!(circles.is_empty(), "{name}: {circles:#?}");
    }
    assert!(importing > 100, "no imports were read");
}

fn architecture() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_file_and_folder_that_architecture_names_exists() {
    let files: BTreeSet<String> = ["services", "shared", "tests"]
        .iter()
        .flat_map(|folder| rust_files(&root().join(folder)))
        .filter(|file| !file.components().any(|part| part.as_os_str() == "target"))
        .map(|file| file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned())
        .collect();
    let text = architecture();
    // The name may leave out the folders before it.
    let is_there = |name: &str| {
        if name.ends_with('/') {
            return files.iter().any(|file| format!("/{file}").contains(&format!("/{name}")));
        }
        files.iter().any(|file| format!("/{file}").ends_with(&format!("/{name}")))
    };
    let is_path = |name: &&str| {
        let ending = Path::new(name).extension();
        let is_plain = name.chars().all(|sign| sign.is_ascii_alphanumeric() || "/_-.".contains(sign));
        is_plain && (ending.is_some_and(|ending| ending == "rs") || (name.ends_with('/') && name.len() > 1))
    };
    let named: Vec<&str> = quoted(&text).filter(is_path).collect();
    assert!(named.len() > 20, "nothing was read");
    let missing: Vec<&&str> =
        named.iter().filter(|name| !is_there(name) && !root().join(name).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Whether a text has this word, also as part of a name: `ready group` stands in `ReadyGroup` and in `ready_groups`.
fn has_word(text: &str, word: &str) -> bool {
    let letters = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
    };
    letters(text).contains(&letters(word))
}

#[test]
fn every_word_of_the_glossary_stands_in_its_home() {
    let text = architecture();
    let glossary = text.split("\n## ").find(|part| part.starts_with("Glossary")).unwrap();
    let files: Vec<PathBuf> =
        CRATES.iter().flat_map(|name| rust_files(&root().join(name).join("src"))).collect();
    let mut words = BTreeSet::new();
    for row in glossary.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let (word, home) = (cells.next().unwrap(), cells.nth(1).unwrap().trim_matches('`'));
        assert!(words.insert(word.to_owned()), "{word} stands there twice");
        let homes: Vec<_> = files.iter().filter(|file| file.ends_with(home)).collect();
        assert_eq!(homes.len(), 1, "{word}: {home} is {homes:?}");
        let home = fs::read_to_string(homes[0]).unwrap();
        assert!(has_word(&home, word), "{word} does not stand in {}", homes[0].display());
    }
    assert!(words.len() > 40, "{words:?}");
}
