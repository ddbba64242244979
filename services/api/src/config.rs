//! The settings of the api. They are read once. A setting that cannot be obeyed stops the process here.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::http::Uri;
use chrono::TimeDelta;
use foreman_runtime::config::{SecretKeys, form};
use foreman_runtime::settings::{api, shared};
use foreman_runtime::{ConfigError, Env};
use foreman_store::ClientBacklog;
use foreman_webhook::{Allow, Nameservers, Policy, SigningSecret};
use ipnet::IpNet;

use crate::access::bound::Bound;
use crate::access::site::{Site, SiteName};
use crate::live::Signs;

/// The largest value of FOREMAN_MAX_BODY. Postgres stores no text of more than 1 GB, and no request to Ollama is that large.
const LARGEST_BODY: u64 = 512 << 20;

/// The range of the times between signs of life. A client that gives up in less than a minute would need one within that
/// minute, and no proxy waits longer than an hour.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(100);
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) database: shared::Database,
    pub(crate) addr: SocketAddr,
    pub(crate) ops_addr: SocketAddr,
    pub(crate) access: Access,
    /// Further addresses, each with the client that its callers are.
    pub(crate) bound: Vec<(SocketAddr, Bound)>,
    pub(crate) embeddings: Embeddings,
    /// Has no slash at its end.
    pub(crate) public_url: Option<String>,
    pub(crate) max_body: usize,
    pub(crate) max_queued: ClientBacklog,
    pub(crate) max_daily_bytes: u64,
    pub(crate) max_streams: usize,
    pub(crate) job_ttl: TimeDelta,
    pub(crate) inline_limit: u64,
    /// Which receivers may be called.
    pub(crate) receivers: Policy,
    pub(crate) secret_keys: Option<SecretKeys>,
    pub(crate) signs_of_streams: Signs,
    pub(crate) signs_of_others: Signs,
}

/// How embeddings come to a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Embeddings {
    /// Straight to a host that has the model.
    Direct,
    /// Through the queue, as sync calls.
    Queued,
}

/// How clients are told apart.
#[derive(Debug)]
pub(crate) enum Access {
    /// By their keys.
    Keys,
    /// By their addresses, with authentication off.
    Addresses { site: Site, proxies: Vec<IpNet> },
}

impl Config {
    pub(crate) fn read(env: &Env) -> Result<Self, ConfigError> {
        let addr = env.read(&api::ADDR, form::socket_addr)?;
        let public_url = env.read_optional(&shared::PUBLIC_URL, public_url)?;
        let (access, bound) = access(env, addr, public_url.as_deref())?;
        let every = env.read(&api::HEARTBEAT, form::duration(SHORTEST_HEARTBEAT..=LONGEST_HEARTBEAT))?;
        let first_of_others =
            env.read(&api::HEARTBEAT_UNSTREAMED, form::duration(SHORTEST_HEARTBEAT..=LONGEST_HEARTBEAT))?;
        let config = Self {
            database: shared::Database::read(env)?,
            addr,
            ops_addr: env.read(&api::OPS_ADDR, form::socket_addr)?,
            access,
            bound,
            embeddings: env.read(
                &api::EMBED,
                form::choice(&[("direct", Embeddings::Direct), ("queued", Embeddings::Queued)]),
            )?,
            public_url,
            max_body: usize::try_from(env.read(&api::MAX_BODY, form::byte_size(1 << 10..=LARGEST_BODY))?)
                .unwrap_or(usize::MAX),
            max_queued: ClientBacklog {
                jobs: env.read(&api::CLIENT_MAX_QUEUED, form::integer(1..=10_000_000))?,
                bytes: env.read(&api::CLIENT_MAX_QUEUED_BYTES, form::byte_size(1 << 10..=1 << 50))?,
            },
            max_daily_bytes: env.read(&api::CLIENT_MAX_DAILY_BYTES, form::byte_size(1 << 10..=1 << 50))?,
            max_streams: env.read(&api::CLIENT_MAX_STREAMS, form::integer(1..=100_000))?,
            job_ttl: TimeDelta::from_std(shared::job_ttl(env)?).unwrap_or(TimeDelta::MAX),
            inline_limit: shared::artifact_inline_limit(env)?,
            receivers: Policy {
                allow: env.read_optional(&shared::WEBHOOK_ALLOW, Allow::parse)?.unwrap_or_default(),
                require_https: env.read(&shared::WEBHOOK_REQUIRE_HTTPS, form::yes_no)?,
                nameservers: env.read_optional(&shared::WEBHOOK_NAMESERVERS, Nameservers::parse)?,
            },
            secret_keys: shared::secret_keys(env)?,
            signs_of_streams: Signs { first_after: every, every },
            signs_of_others: Signs { first_after: first_of_others, every },
        };
        // Only workers use it. A wrong value is reported here too, so that nobody learns of it from the first webhook.
        env.read_optional(&shared::WEBHOOK_SECRET, SigningSecret::parse)?;
        Ok(config)
    }
}

/// How callers are told apart at the main address, and at the further ones.
fn access(
    env: &Env,
    addr: SocketAddr,
    public_url: Option<&str>,
) -> Result<(Access, Vec<(SocketAddr, Bound)>), ConfigError> {
    let keys = env.read(&api::AUTH, form::choice(&[("required", true), ("off", false)]))?;
    let anywhere = env.read(&api::AUTH_OFF_ANYWHERE, form::yes_no)?;
    let mut names = env.read_optional(&api::ORIGINS, form::list(SiteName::parse))?.unwrap_or_default();
    // A browser that follows the links in our answers calls us by this name.
    names.extend(public_url.and_then(SiteName::of_url));
    let proxies = env.read_optional(&api::TRUSTED_PROXIES, form::list(network))?.unwrap_or_default();
    let is_open = |addr: SocketAddr| !addr.ip().to_canonical().is_loopback() && !anywhere;
    let mut bound = Vec::new();
    for (addr, client) in env.read_optional(&api::BOUND, form::list(bound_address))?.unwrap_or_default() {
        if is_open(addr) {
            return Err(ConfigError::refused(
                &api::BOUND,
                format!(
                    "everybody who reaches {addr} would be the client {client}; listen on loopback, or accept that with \
                     FOREMAN_AUTH_OFF_ANYWHERE=yes"
                ),
            ));
        }
        bound.push((addr, Bound::new(client, Site::new(addr.ip(), names.clone()))));
    }
    if keys {
        return Ok((Access::Keys, bound));
    }
    if is_open(addr) {
        return Err(ConfigError::refused(
            &api::AUTH,
            format!(
                "off lets everybody who reaches {addr} run jobs; listen on loopback, set it to required, \
                 or accept that with FOREMAN_AUTH_OFF_ANYWHERE=yes"
            ),
        ));
    }
    Ok((Access::Addresses { site: Site::new(addr.ip(), names), proxies }, bound))
}

/// `ADDR=CLIENT`.
fn bound_address(text: &str) -> Result<(SocketAddr, String), String> {
    let (addr, client) =
        text.split_once('=').map(|(addr, client)| (addr.trim(), client.trim())).unwrap_or_default();
    match addr.parse() {
        Ok(addr) if !client.is_empty() => Ok((addr, client.to_owned())),
        _ => Err(format!(
            "expected an address and the name of a client, such as 127.0.0.1:11435=laptop; {text:?} is not"
        )),
    }
}

/// A CIDR, or a single address.
fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        format!("expected addresses and CIDRs such as 10.0.0.0/8, separated by commas; {text:?} is neither")
    })
}

fn public_url(text: &str) -> Result<String, String> {
    let mend =
        || "expected a URL such as https://jobs.example.org, without user, query and fragment".to_owned();
    let uri: Uri = text.parse().map_err(|_| mend())?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    if !is_http || uri.host().is_none_or(str::is_empty) || uri.query().is_some() || text.contains(['#', '@'])
    {
        return Err(mend());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let env =
            Env::from_pairs([("DATABASE_URL", "postgres://x")].into_iter().chain(pairs.iter().copied()));
        Config::read(&env).map_err(|error| error.to_string())
    }

    #[test]
    fn authentication_is_off_on_loopback_alone_unless_one_says_anywhere() {
        assert!(matches!(read(&[]).unwrap().access, Access::Keys));
        for addr in ["127.0.0.1:8080", "[::1]:8080", "127.9.9.9:1"] {
            assert!(read(&[("FOREMAN_AUTH", "off"), ("FOREMAN_API_ADDR", addr)]).is_ok(), "{addr}");
        }
        for addr in ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:8080"] {
            let off = [("FOREMAN_AUTH", "off"), ("FOREMAN_API_ADDR", addr)];
            let refused = read(&off).unwrap_err();
            assert!(refused.contains("FOREMAN_AUTH_OFF_ANYWHERE=yes"), "{refused}");
            assert!(read(&[&off[..], &[("FOREMAN_AUTH_OFF_ANYWHERE", "yes")]].concat()).is_ok());
        }
    }

    #[test]
    fn a_bound_address_is_on_loopback_unless_one_says_anywhere() {
        let bound = |addresses: &str, anywhere| {
            read(&[("FOREMAN_API_BOUND", addresses), ("FOREMAN_AUTH_OFF_ANYWHERE", anywhere)])
                .map(|config| config.bound.iter().map(|(addr, _)| addr.port()).collect::<Vec<_>>())
        };
        assert_eq!(bound("127.0.0.1:1=team, [::1]:2=the chat server", "no"), Ok(vec![1, 2]));
        let refused = bound("127.0.0.1:1=team,10.0.0.1:2=team", "no").unwrap_err();
        assert!(
            refused.contains("10.0.0.1:2") && refused.contains("FOREMAN_AUTH_OFF_ANYWHERE=yes"),
            "{refused}"
        );
        assert_eq!(bound("10.0.0.1:2=team", "yes"), Ok(vec![2]));
    }

    #[test]
    fn wrong_values_name_the_variable() {
        for (name, value) in [
            ("FOREMAN_AUTH", "no"),
            ("FOREMAN_API_BOUND", "127.0.0.1:1"),
            ("FOREMAN_API_BOUND", "127.0.0.1:1="),
            ("FOREMAN_API_BOUND", "localhost:1=team"),
            ("FOREMAN_API_BOUND", "127.0.0.1:1=team,"),
            ("FOREMAN_TRUSTED_PROXIES", "10.0.0.0/33"),
            ("FOREMAN_ORIGINS", "http://"),
            ("FOREMAN_PUBLIC_URL", "jobs.example.org"),
            ("FOREMAN_PUBLIC_URL", "ftp://jobs.example.org"),
            ("FOREMAN_PUBLIC_URL", "https://jobs.example.org?x=1"),
            ("FOREMAN_PUBLIC_URL", "https://me:hush@jobs.example.org"),
            ("FOREMAN_MAX_BODY", "0"),
            ("FOREMAN_CLIENT_MAX_QUEUED", "0"),
            ("FOREMAN_SECRET_KEY", "short"),
            ("FOREMAN_WEBHOOK_SECRET", "whsec_no base64"),
            ("FOREMAN_WEBHOOK_ALLOW", "everything"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.starts_with(name) && !error.contains("hush"), "{error}");
        }
        assert_eq!(
            read(&[("FOREMAN_PUBLIC_URL", "https://a/b/")]).unwrap().public_url.as_deref(),
            Some("https://a/b")
        );
    }
}
