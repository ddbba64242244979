//! Where the services will listen. Each address is tried before anything starts, so that one that is taken is one
//! clear sentence and not a service that dies again and again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use anyhow::bail;
use foreman_runtime::config::form;
use foreman_runtime::{ConfigError, Env, Setting, settings};

use super::Kind;
use super::environment::{Environment, is_set};

pub(super) struct Addresses {
    pub(super) api: SocketAddr,
    pub(super) api_ops: SocketAddr,
    pub(super) worker_ops: SocketAddr,
    pub(super) worker_stream: SocketAddr,
}

impl Addresses {
    pub(super) fn choose(env: &Env, kind: Kind) -> anyhow::Result<Self> {
        // All of them stay bound until all are chosen, so that no two get the same free port.
        let api = try_address(env, &settings::api::ADDR, kind)?;
        let api_ops = try_address(env, &settings::api::OPS_ADDR, kind)?;
        let worker_ops = try_address(env, &settings::worker::OPS_ADDR, kind)?;
        let worker_stream = try_address(env, &settings::worker::STREAM_ADDR, kind)?;
        Ok(Self {
            api: api.local_addr()?,
            api_ops: api_ops.local_addr()?,
            worker_ops: worker_ops.local_addr()?,
            worker_stream: worker_stream.local_addr()?,
        })
    }

    pub(super) fn put_into(&self, environment: &mut Environment) {
        for (setting, address) in [
            (settings::api::ADDR, self.api),
            (settings::api::OPS_ADDR, self.api_ops),
            (settings::worker::OPS_ADDR, self.worker_ops),
            (settings::worker::STREAM_ADDR, self.worker_stream),
        ] {
            environment.set(&setting, address.to_string());
        }
    }

    /// Where a program on this machine finds the api.
    pub(super) fn url(&self) -> String {
        format!("http://{}", dialled(self.api))
    }
}

/// A port on loopback that nothing listens on.
pub(super) fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// "Every address of this machine" is one to listen on, not one to call.
pub(crate) fn dialled(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

fn try_address(env: &Env, setting: &Setting, kind: Kind) -> anyhow::Result<TcpListener> {
    let wanted = env.read(setting, form::socket_addr)?;
    match TcpListener::bind(wanted) {
        Ok(listener) => Ok(listener),
        // A demo must not be stopped by what else runs here.
        Err(error) if taken(&error) && kind == Kind::Demo && !is_set(setting) => {
            Ok(TcpListener::bind((wanted.ip(), 0))?)
        }
        Err(error) if taken(&error) => bail!(
            "{wanted} is taken by another program; end that, or set {} to another address",
            setting.name
        ),
        Err(error) => Err(ConfigError::refused(
            setting,
            format!("nothing can listen on {wanted} ({error}); use an address of this machine"),
        )
        .into()),
    }
}

fn taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}
