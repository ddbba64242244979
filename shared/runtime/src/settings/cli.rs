//! Settings of the command line.

use crate::config::Setting;

pub const URL: Setting = Setting::with_default("FOREMAN_URL", "http://127.0.0.1:8080", "the api to talk to");
pub const API_KEY: Setting =
    Setting::optional("FOREMAN_API_KEY", "none", "the key that client create printed").secret();
pub const HOME: Setting = Setting::optional(
    "FOREMAN_HOME",
    "the user's data directory; /var/lib/foreman as root",
    "where foreman up keeps its Postgres and secrets",
);

pub const ALL: &[Setting] = &[URL, API_KEY, HOME];
