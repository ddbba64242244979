//! The one TLS provider of the process: rustls with ring.

/// Makes ring the process's provider. Call it before anything builds a TLS client; more than once is harmless.
pub fn install() {
    // An error means that a provider is already there, and this crate graph has no other.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
}
