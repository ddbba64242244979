//! Names of models, compared as Ollama compares them.
//!
//! A [`ModelName`] is always canonical: two names of the same model for Ollama are equal here. Must never be sent
//! instead of the name that the client wrote, because answers repeat the client's spelling.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const DEFAULT_HOST: &str = "registry.ollama.ai";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";

/// The longest host that Ollama accepts, in bytes.
const MAX_HOST: usize = 350;
/// The longest namespace, model or tag that Ollama accepts, in bytes.
const MAX_PART: usize = 80;

/// The canonical name of a model: in lower case, always with its tag, never with the default registry or namespace.
///
/// `Llama3.2`, `llama3.2:latest` and `registry.ollama.ai/library/llama3.2` are all `llama3.2:latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName(String);

/// Why a text is not the name of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelNameError {
    #[error("is empty")]
    Empty,
    #[error("has a part that is empty or too long")]
    Length,
    #[error("has a character that no model name may have")]
    Character,
}

impl ModelName {
    /// Parses a name in any form that Ollama accepts.
    pub fn parse(name: &str) -> Result<Self, ModelNameError> {
        if name.is_empty() {
            return Err(ModelNameError::Empty);
        }
        let bare = name.split_once("://").map_or(name, |(_scheme, rest)| rest);
        // A colon before the last slash belongs to the port of a registry.
        let (path, tag) = match bare.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (bare, DEFAULT_TAG),
        };
        let (rest, model) = path.rsplit_once('/').map_or((None, path), |(rest, model)| (Some(rest), model));
        let (host, namespace) = match rest {
            None => (DEFAULT_HOST, DEFAULT_NAMESPACE),
            Some(rest) => rest.rsplit_once('/').unwrap_or((DEFAULT_HOST, rest)),
        };
        check_part(host, MAX_HOST, &['_', '-', '.', ':'])?;
        check_part(namespace, MAX_PART, &['_', '-'])?;
        check_part(model, MAX_PART, &['_', '-', '.'])?;
        check_part(tag, MAX_PART, &['_', '-', '.'])?;

        let (host, namespace) = (host.to_ascii_lowercase(), namespace.to_ascii_lowercase());
        let prefix = match (host == DEFAULT_HOST, namespace == DEFAULT_NAMESPACE) {
            (true, true) => String::new(),
            (true, false) => format!("{namespace}/"),
            (false, _) => format!("{host}/{namespace}/"),
        };
        Ok(Self(format!("{prefix}{}:{}", model.to_ascii_lowercase(), tag.to_ascii_lowercase())))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in the form in which Ollama compares names; what is no name, as it is written.
    pub fn canonical(written: &str) -> String {
        Self::parse(written).map_or_else(|_| written.to_owned(), |name| name.0)
    }

    /// Whether Ollama sends this model's requests to its cloud, so that they never use the GPU of the host.
    pub fn is_cloud(&self) -> bool {
        let tag = self.0.rsplit_once(':').map_or("", |(_, tag)| tag);
        tag == "cloud" || tag.ends_with("-cloud")
    }
}

/// Ollama's rule for every part: it begins with a letter, a digit or `_`, and continues with those and `marks`.
fn check_part(part: &str, longest: usize, marks: &[char]) -> Result<(), ModelNameError> {
    if part.is_empty() || part.len() > longest {
        return Err(ModelNameError::Length);
    }
    let begins_well = part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if begins_well && part.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(&c)) {
        Ok(())
    } else {
        Err(ModelNameError::Character)
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ModelName {
    type Err = ModelNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

impl TryFrom<String> for ModelName {
    type Error = ModelNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::parse(&name)
    }
}

impl From<ModelName> for String {
    fn from(name: ModelName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_one_model_is_one_name() {
        for (written, canonical) in [
            ("llama3.2", "llama3.2:latest"),
            ("Llama3.2:LATEST", "llama3.2:latest"),
            ("library/llama3.2", "llama3.2:latest"),
            ("registry.ollama.ai/library/llama3.2:latest", "llama3.2:latest"),
            ("https://Registry.Ollama.ai/library/llama3.2", "llama3.2:latest"),
            ("llama3.2:1b", "llama3.2:1b"),
            ("me/mine", "me/mine:latest"),
            ("registry.ollama.ai/me/mine:x", "me/mine:x"),
            ("hf.co/Org/Repo-GGUF:Q4_K_M", "hf.co/org/repo-gguf:q4_k_m"),
            ("localhost:5000/library/m", "localhost:5000/library/m:latest"),
            ("_private", "_private:latest"),
        ] {
            let name = ModelName::parse(written).unwrap();
            assert_eq!(name.as_str(), canonical, "{written}");
            assert_eq!(ModelName::parse(name.as_str()).unwrap(), name, "canonical names stay as they are");
        }
    }

    #[test]
    fn what_ollama_calls_an_invalid_name_is_refused() {
        let long = "x".repeat(81);
        for name in [
            "",
            "a b/c d",
            "a:",
            ":a",
            "/a",
            "a/",
            "a//b",
            "-a",
            ".a",
            "a\0b",
            "ä",
            "a:b:c",
            "n.s/a",
            "a@sha256",
            "h/n/m/x/y:",
            &long,
            "a b",
            "a\nb",
        ] {
            assert!(ModelName::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn cloud_models_are_known_by_their_tag() {
        for (name, cloud) in [
            ("gpt-oss:120b-cloud", true),
            ("x:cloud", true),
            ("x:CLOUD", true),
            ("cloud", false),
            ("my-cloud:7b", false),
        ] {
            assert_eq!(ModelName::parse(name).unwrap().is_cloud(), cloud, "{name}");
        }
    }
}
