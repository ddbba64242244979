//! The name of the Ollama host that a worker works for. Workers that give the same name take turns on the host
//! through one lease. So one name must never mean two hosts, and one host must never have two names.

use std::fmt;

use foreman_ollama::OllamaHost;

/// The longest name, in bytes. The name stands in logs and in every row of the host's models.
const MAX_BYTES: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostId(String);

/// The value cannot be the name of a host.
#[derive(Debug, thiserror::Error)]
#[error("expected a name of 1 to {MAX_BYTES} printable characters without spaces, such as gpu-box-1")]
pub(crate) struct InvalidHostId;

impl HostId {
    /// Reads the name that an operator has set.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidHostId> {
        let printable = text.chars().all(|c| !c.is_whitespace() && !c.is_control());
        if printable && (1..=MAX_BYTES).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidHostId)
        }
    }

    /// The name of a host if the operator has set none: the URL of its Ollama. A loopback address would be the same
    /// on every machine, so the name is then the machine's own name with the port.
    pub(crate) fn of(ollama: &OllamaHost) -> Self {
        Self::of_machine(ollama, &gethostname::gethostname().to_string_lossy())
    }

    fn of_machine(ollama: &OllamaHost, machine: &str) -> Self {
        if ollama.is_loopback() {
            Self(format!("{machine}:{}", ollama.port()))
        } else {
            Self(ollama.to_string())
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_in_any_form_is_the_machine_and_its_port() {
        for (value, id) in [
            ("", "box:11434"),
            ("localhost", "box:11434"),
            ("0.0.0.0:8000", "box:8000"),
            ("http://[::1]:8000", "box:8000"),
            ("http://127.0.0.1", "box:80"),
            ("10.0.0.7", "http://10.0.0.7:11434"),
            ("https://gpu.example.org/ollama", "https://gpu.example.org/ollama"),
        ] {
            assert_eq!(
                HostId::of_machine(&OllamaHost::parse(value).unwrap(), "box").as_str(),
                id,
                "{value:?}"
            );
        }
    }

    #[test]
    fn a_given_name_is_one_printable_word() {
        assert_eq!(HostId::parse("gpu-1").unwrap().as_str(), "gpu-1");
        for text in ["", "a b", "a\n", &"x".repeat(201)] {
            assert!(HostId::parse(text).is_err(), "{text:?}");
        }
    }
}
