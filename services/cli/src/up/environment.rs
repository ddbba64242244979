//! What the services under `foreman up` find in their environment: what the user set, and defaults for the rest.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use foreman_runtime::Setting;

#[derive(Clone, Default)]
pub(super) struct Environment {
    /// None where nothing is inherited.
    cleared: bool,
    set: BTreeMap<String, OsString>,
    removed: Vec<OsString>,
}

impl Environment {
    /// The user's own, to begin with.
    pub(super) fn inherited() -> Self {
        Self::default()
    }

    /// These variables and no others.
    pub(super) fn only(variables: impl IntoIterator<Item = (&'static str, OsString)>) -> Self {
        let set = variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { cleared: true, set, removed: Vec::new() }
    }

    /// Whatever the user says.
    pub(super) fn set(&mut self, setting: &Setting, value: impl Into<OsString>) {
        self.remove(setting);
        self.removed.retain(|name| name.as_os_str() != setting.name);
        self.set.insert(setting.name.to_owned(), value.into());
    }

    /// Where the user says nothing.
    pub(super) fn set_default(&mut self, setting: &Setting, value: impl Into<OsString>) {
        if !is_set(setting) {
            self.set(setting, value);
        }
    }

    /// The same for a value that stands in a file.
    pub(super) fn set_default_file(&mut self, setting: &Setting, path: &Path) {
        if !is_set(setting) {
            self.remove(setting);
            self.removed.retain(|name| name.as_os_str() != file_name(setting).as_str());
            self.set.insert(file_name(setting), path.into());
        }
    }

    pub(super) fn remove(&mut self, setting: &Setting) {
        self.removed.extend([setting.name.into(), file_name(setting).into()]);
    }

    /// Nothing that tells Postgres' clients of another server.
    pub(super) fn remove_postgres(&mut self) {
        let names = env::vars_os().map(|(name, _)| name);
        self.removed.extend(names.filter(|name| name.to_string_lossy().starts_with("PG")));
    }

    pub(super) fn apply(&self, command: &mut Command) {
        if self.cleared {
            command.env_clear();
        }
        for name in &self.removed {
            command.env_remove(name);
        }
        command.envs(&self.set);
    }
}

/// Whether the user set it, itself or as a file.
pub(crate) fn is_set(setting: &Setting) -> bool {
    [setting.name, &file_name(setting)]
        .iter()
        .any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn file_name(setting: &Setting) -> String {
    format!("{}_FILE", setting.name)
}
