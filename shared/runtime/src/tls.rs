//! The one TLS provider of the process: rustls with ring.

/// Makes ring the provider of the process. Call it before anything builds a TLS client. Calling it again is harmless.
pub fn install() {
    // An error means that a provider is installed already. It is ring too, because our dependencies have no other.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
}
