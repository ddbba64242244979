//! How this machine looks up names: `/etc/hosts` first, then the nameservers of `/etc/resolv.conf`. Both files are read again
//! when they change.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};

use super::nameservers::{Nameservers, PORT, server};

/// How long one nameserver may take for one question. With the repetitions this stays below the time of a look-up.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_500);

/// How often a question is repeated that no nameserver answered.
const REPETITIONS: usize = 2;

/// Questions that one connection to a nameserver may carry at the same time. Only answers that are too long for a datagram
/// need a connection.
const MAX_PER_CONNECTION: usize = 512;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The files of this machine.
#[derive(Debug, Clone, Copy)]
struct Files {
    hosts: &'static str,
    resolv_conf: &'static str,
}

const FILES: Files = Files { hosts: "/etc/hosts", resolv_conf: "/etc/resolv.conf" };

pub(super) struct Found {
    /// At least one.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl: Duration,
}

#[derive(Debug)]
pub(super) struct System {
    files: Files,
    nameservers: Option<Nameservers>,
    loaded: Mutex<Option<Loaded>>,
}

#[derive(Debug, Clone)]
struct Loaded {
    reader: Arc<Reader>,
    /// When each file was changed last; `None` for one that is missing.
    changed: [Option<SystemTime>; 2],
    looked: Instant,
}

struct Reader {
    hosts: Hosts,
    resolver: TokioResolver,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl System {
    pub(super) fn new(nameservers: Option<Nameservers>) -> Self {
        Self { files: FILES, nameservers, loaded: Mutex::default() }
    }

    pub(super) async fn look_up(&self, host: &str) -> Result<Found, NetError> {
        let reader = self.reader()?;
        let name = Name::from_str_relaxed(host)?;
        if let Some(found) = reader.in_hosts(&name) {
            return Ok(found);
        }
        let answer = reader.resolver.lookup_ip(name).await?;
        let ttl = answer.valid_until().saturating_duration_since(Instant::now());
        let addresses: Vec<IpAddr> = answer.iter().collect();
        if addresses.is_empty() { Err(NetError::NoConnections) } else { Ok(Found { addresses, ttl }) }
    }

    fn reader(&self) -> Result<Arc<Reader>, NetError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = &mut *loaded {
            if loaded.looked.elapsed() < LOOK_EVERY {
                return Ok(Arc::clone(&loaded.reader));
            }
            loaded.looked = Instant::now();
            if loaded.changed == self.files.changed() {
                return Ok(Arc::clone(&loaded.reader));
            }
        }
        let fresh = Loaded {
            changed: self.files.changed(),
            looked: Instant::now(),
            reader: Arc::new(Reader::new(self.files, self.nameservers.as_ref())?),
        };
        let reader = Arc::clone(&fresh.reader);
        *loaded = Some(fresh);
        Ok(reader)
    }
}

impl Reader {
    fn new(files: Files, nameservers: Option<&Nameservers>) -> Result<Self, NetError> {
        let file = read_resolv_conf(files.resolv_conf);
        let mut servers = match nameservers {
            Some(nameservers) => nameservers.config(),
            None => file.nameservers.iter().map(|ip| server((IpAddr::from(ip), PORT).into())).collect(),
        };
        // As other resolvers do: without the file, or with one that names nobody, ask this machine.
        if servers.is_empty() {
            servers.push(server((Ipv4Addr::LOCALHOST, PORT).into()));
        }
        let search = file.get_last_search_or_domain().filter_map(|name| Name::from_str_relaxed(name).ok());
        let config = ResolverConfig::from_parts(None, search.collect(), servers);
        let mut options = ResolverOpts::default();
        options.ndots = file.ndots as usize;
        options.timeout = Duration::from_secs(file.timeout.into()).min(ANSWER_TIMEOUT);
        options.attempts = REPETITIONS.min(file.attempts as usize);
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.max_active_requests = MAX_PER_CONNECTION;
        // We remember answers ourselves, and read the hosts ourselves.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        Ok(Self { hosts: read_hosts(files.hosts), resolver: builder.build()? })
    }

    /// A name of `/etc/hosts` is no question to a nameserver, not even for its addresses of the other kind.
    fn in_hosts(&self, name: &Name) -> Option<Found> {
        let mut addresses = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            if let Some(found) = self.hosts.lookup_static_host(&Query::query(name.clone(), kind)) {
                addresses.extend(found.answers().iter().filter_map(|record| record.data.ip_addr()));
            }
        }
        // The file may change at any moment.
        (!addresses.is_empty()).then_some(Found { addresses, ttl: LOOK_EVERY })
    }
}

impl Files {
    fn changed(self) -> [Option<SystemTime>; 2] {
        [self.hosts, self.resolv_conf].map(|path| fs::metadata(path).and_then(|file| file.modified()).ok())
    }
}

/// A line that says nothing is skipped. A missing file is an empty one.
fn read_resolv_conf(path: impl AsRef<Path>) -> resolv_conf::Config {
    resolv_conf::Config::parse_with_errors(&fs::read(path).unwrap_or_default()).0
}

/// A file that is missing or damaged names no hosts from there on.
fn read_hosts(path: impl AsRef<Path>) -> Hosts {
    let mut hosts = Hosts::default();
    if let Err(error) = File::open(path).and_then(|file| hosts.read_hosts_conf(file)) {
        tracing::debug!(%error, "the file of hosts cannot be read");
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with these two files; `None` for a missing one.
    fn machine(hosts: Option<&str>, resolv_conf: Option<&str>) -> (tempfile::TempDir, System) {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: Option<&str>| {
            let path = folder.path().join(name);
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
            }
            &*path.to_str().unwrap().to_owned().leak()
        };
        let files = Files { hosts: write("hosts", hosts), resolv_conf: write("resolv.conf", resolv_conf) };
        (folder, System { files, nameservers: None, loaded: Mutex::default() })
    }

    async fn addresses(system: &System, host: &str) -> Vec<String> {
        let found = system.look_up(host).await;
        found.map(|found| found.addresses.iter().map(ToString::to_string).collect()).unwrap_or_default()
    }

    #[tokio::test]
    async fn the_hosts_come_first_and_need_no_nameserver() {
        let hosts = "10.0.0.7 db DB.example # of the team\nfd00::7 db\n2001:db8::9 six.example\n";
        let (_folder, system) = machine(Some(hosts), None);
        assert_eq!(addresses(&system, "db").await, ["10.0.0.7", "fd00::7"]);
        assert_eq!(addresses(&system, "db.EXAMPLE.").await, ["10.0.0.7"]);
        assert_eq!(addresses(&system, "six.example").await, ["2001:db8::9"]);
    }

    #[tokio::test]
    async fn localhost_is_known_though_both_files_are_missing() {
        let (_folder, system) = machine(None, None);
        assert_eq!(addresses(&system, "localhost").await, ["127.0.0.1", "::1"]);
        assert_eq!(addresses(&system, "a.localhost").await, ["127.0.0.1", "::1"]);
    }

    #[tokio::test]
    async fn a_file_that_changes_is_read_again() {
        let (folder, system) = machine(Some("10.0.0.7 db"), None);
        assert_eq!(addresses(&system, "db").await, ["10.0.0.7"]);
        let hosts = folder.path().join("hosts");
        fs::write(&hosts, "10.0.0.8 db").unwrap();
        File::open(&hosts).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let long_ago = Instant::now().checked_sub(LOOK_EVERY).unwrap();
        system.loaded.lock().unwrap().as_mut().unwrap().looked = long_ago;
        assert_eq!(addresses(&system, "db").await, ["10.0.0.8"]);
    }

    #[tokio::test]
    async fn any_list_of_nameservers_can_be_used() {
        for text in
            ["", "search example.org\n", "nameserver nonsense\n", "nameserver ::1\noptions timeout:0\n"]
        {
            let (_folder, system) = machine(None, Some(text));
            assert!(system.reader().is_ok(), "{text:?}");
        }
    }
}
