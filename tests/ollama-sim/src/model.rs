//! The models of a simulator, and Ollama's rule for which names mean the same model.

use std::collections::BTreeMap;

use crate::go_json;

/// A model on the simulator's disk.
#[derive(Clone, Debug)]
pub struct Model {
    /// With its tag, as `/api/tags` shows it.
    pub name: String,
    /// The digest of the manifest.
    pub digest: String,
    /// The digest of the weights. Two models with the same weights share one runner.
    pub weights: String,
    pub modified_at: String,
    /// Bytes on disk.
    pub size: u64,
    pub parameter_count: u64,
    pub parameter_size: String,
    pub quantization: String,
    /// The model's own limit of `num_ctx`.
    pub context_length: i64,
    pub embedding_length: u64,
    pub feed_forward_length: u64,
    pub vocabulary: u64,
    pub blocks: u64,
    /// The abilities that `/api/tags` lists.
    pub capabilities: Vec<String>,
    /// Whether the model can only embed, so that chat and generate are refused, whatever `capabilities` lists.
    pub embeds_only: bool,
    /// Whether the last letter of the prompt chooses the answer, as in the model with which the recordings were made.
    pub scripted: bool,
    pub template: String,
    /// The parameters of its Modelfile.
    pub parameters: BTreeMap<String, i64>,
}

impl Model {
    /// A small completion model with weights of its own.
    pub fn new(name: &str) -> Self {
        let name = canonical(name).unwrap_or_else(|| name.to_owned());
        Self {
            digest: digest(&name, 1),
            weights: digest(&name, 2),
            modified_at: "2026-11-22T06:06:58.083658825Z".to_owned(),
            size: 1_851_508,
            parameter_count: 459_392,
            parameter_size: "459K".to_owned(),
            quantization: "F32".to_owned(),
            context_length: 2048,
            embedding_length: 128,
            feed_forward_length: 256,
            vocabulary: 512,
            blocks: 2,
            capabilities: vec!["completion".to_owned()],
            embeds_only: false,
            scripted: false,
            template: "{{ if .System }}{{ .System }} {{ end }}{{ .Prompt }}".to_owned(),
            parameters: BTreeMap::new(),
            name,
        }
    }

    /// Parses the form of the command line: a name followed by its abilities, as in `qwen3:4b+tools+thinking`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split('+');
        let name = parts.next().unwrap_or_default();
        let name = canonical(name).ok_or_else(|| format!("{name:?} is not the name of a model"))?;
        let mut model = Self::new(&name);
        for part in parts {
            match part {
                "tools" | "thinking" | "vision" | "insert" => model.capabilities.push(part.to_owned()),
                "embedding" => {
                    model.capabilities = vec!["embedding".to_owned()];
                    model.embeds_only = true;
                }
                "scripted" => model.scripted = true,
                other => {
                    return Err(format!(
                        "a model cannot be {other:?}: take tools, thinking, vision, insert or embedding"
                    ));
                }
            }
        }
        Ok(model)
    }

    pub fn with(mut self, capability: &str) -> Self {
        self.capabilities.push(capability.to_owned());
        self
    }

    /// Uses the weights of another model, under this model's own name.
    pub fn on_the_weights_of(mut self, other: &Model) -> Self {
        self.weights.clone_from(&other.weights);
        self
    }

    /// The abilities that `/api/show` tells, by which Ollama decides. `/api/tags` was seen to list others.
    fn shown_capabilities(&self) -> Vec<String> {
        if self.embeds_only { vec!["embedding".to_owned()] } else { self.capabilities.clone() }
    }

    pub(crate) fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|known| known == capability)
    }

    /// The name with registry and namespace, which some of Ollama's errors contain.
    pub(crate) fn full_name(&self) -> String {
        match self.name.matches('/').count() {
            0 => format!("registry.ollama.ai/library/{}", self.name),
            1 => format!("registry.ollama.ai/{}", self.name),
            _ => self.name.clone(),
        }
    }
}

/// A name with its tag and without the default registry and namespace, or `None` if Ollama calls the name invalid.
/// The case is kept; names are compared without regard to case.
pub(crate) fn canonical(name: &str) -> Option<String> {
    let bare = name.split_once("://").map_or(name, |(_, rest)| rest);
    let (path, tag) = match bare.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (bare, "latest"),
    };
    let mut parts = path.rsplitn(3, '/');
    let model = parts.next()?;
    let namespace = parts.next().unwrap_or("library");
    let host = parts.next().unwrap_or("registry.ollama.ai");
    let fits = |part: &str, longest: usize, marks: &str| {
        (1..=longest).contains(&part.len())
            && part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
    };
    let valid = fits(host, 350, "_-.:")
        && fits(namespace, 80, "_-")
        && fits(model, 80, "_-.")
        && fits(tag, 80, "_-.");
    if !valid || host.contains('/') {
        return None;
    }
    let host =
        if host.eq_ignore_ascii_case("registry.ollama.ai") { String::new() } else { format!("{host}/") };
    let namespace = match (host.is_empty(), namespace.eq_ignore_ascii_case("library")) {
        (true, true) => String::new(),
        _ => format!("{namespace}/"),
    };
    Some(format!("{host}{namespace}{model}:{tag}"))
}

/// Whether Ollama would send requests for this name to its cloud.
pub(crate) fn is_cloud(canonical: &str) -> bool {
    let tag = canonical.rsplit_once(':').map_or("", |(_, tag)| tag);
    tag == "cloud" || tag.ends_with("-cloud")
}

/// A constant text that looks like a SHA-256.
fn digest(name: &str, salt: u64) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ salt;
    let mut out = String::new();
    for _ in 0..4 {
        for byte in name.to_ascii_lowercase().bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        out.push_str(&format!("{hash:016x}"));
    }
    out
}

/// The answer of `/api/show`.
pub(crate) fn show(model: &Model) -> String {
    let blob = format!("/models/blobs/sha256-{}", model.weights);
    let mut modelfile = format!(
        "# Modelfile generated by \"ollama show\"\n# To build a new Modelfile based on this, replace FROM with:\n\
         # FROM {}\n\nFROM {blob}\nTEMPLATE {}\n",
        model.name, model.template
    );
    let mut parameters = Vec::new();
    for (name, value) in &model.parameters {
        modelfile.push_str(&format!("PARAMETER {name} {value}\n"));
        parameters.push(format!("{name:<30} {value}"));
    }
    let string = go_json::string;
    let strings = |items: &[String]| {
        format!("[{}]", items.iter().map(|item| string(item)).collect::<Vec<_>>().join(","))
    };
    let (width, wide, words) = (model.embedding_length, model.feed_forward_length, model.vocabulary);
    let tensor = |name: &str, shape: &[u64]| {
        let shape: Vec<_> = shape.iter().map(u64::to_string).collect();
        format!(r#"{{"name":"{name}","type":"{}","shape":[{}]}}"#, model.quantization, shape.join(","))
    };
    let mut tensors = vec![tensor("token_embd.weight", &[width, words])];
    for block in 0..model.blocks {
        for (part, shape) in [
            ("attn_norm", &[width][..]),
            ("ffn_norm", &[width]),
            ("attn_q", &[width, width]),
            ("attn_k", &[width, width]),
            ("attn_v", &[width, width]),
            ("attn_output", &[width, width]),
            ("ffn_gate", &[width, wide]),
            ("ffn_up", &[width, wide]),
            ("ffn_down", &[wide, width]),
        ] {
            tensors.push(tensor(&format!("blk.{block}.{part}.weight"), shape));
        }
    }
    tensors.push(tensor("output_norm.weight", &[width]));
    tensors.push(tensor("output.weight", &[width, words]));
    let heads = (width / 64).max(1);
    let info = format!(
        concat!(
            r#"{{"general.architecture":"llama","general.file_type":0,"general.parameter_count":{},"#,
            r#""llama.attention.head_count":{heads},"llama.attention.head_count_kv":{heads},"#,
            r#""llama.attention.layer_norm_rms_epsilon":0.00001,"llama.block_count":{},"llama.context_length":{},"#,
            r#""llama.embedding_length":{width},"llama.feed_forward_length":{wide},"llama.rope.dimension_count":64,"#,
            r#""llama.vocab_size":{words},"tokenizer.ggml.add_bos_token":true,"tokenizer.ggml.add_eos_token":false,"#,
            r#""tokenizer.ggml.bos_token_id":1,"tokenizer.ggml.eos_token_id":2,"tokenizer.ggml.model":"llama","#,
            r#""tokenizer.ggml.pre":"default","tokenizer.ggml.scores":null,"tokenizer.ggml.token_type":null,"#,
            r#""tokenizer.ggml.tokens":null,"tokenizer.ggml.unknown_token_id":0}}"#,
        ),
        model.parameter_count,
        model.blocks,
        model.context_length,
        heads = heads,
        width = width,
        wide = wide,
        words = words,
    );
    let parameters = match parameters.is_empty() {
        true => String::new(),
        false => format!(r#""parameters":{},"#, string(&parameters.join("\n"))),
    };
    format!(
        r#"{{"modelfile":{},{parameters}"template":{},"details":{},"model_info":{info},"tensors":[{}],"capabilities":{},"modified_at":"{}"}}"#,
        string(&modelfile),
        string(&model.template),
        details(model, &blob, "unknown", false),
        tensors.join(","),
        strings(&model.shown_capabilities()),
        model.modified_at,
    )
}

/// The models in the order of every listing: by whole seconds.
pub(crate) fn newest_first(models: &[Model]) -> Vec<&Model> {
    let mut sorted: Vec<_> = models.iter().collect();
    let second = |model: &Model| model.modified_at.get(..19).map(str::to_owned);
    sorted.sort_by_key(|model| std::cmp::Reverse(second(model)));
    sorted
}

/// The answer of `/api/tags`.
pub(crate) fn tags(models: &[Model]) -> String {
    let entries: Vec<_> = newest_first(models)
        .into_iter()
        .map(|model| {
            let blob = format!("/models/blobs/sha256-{}", model.weights);
            let capabilities: Vec<_> = model.capabilities.iter().map(|one| go_json::string(one)).collect();
            format!(
                r#"{{"name":"{0}","model":"{0}","modified_at":"{1}","size":{2},"digest":"{3}","details":{4},"capabilities":[{5}]}}"#,
                model.name,
                model.modified_at,
                model.size,
                model.digest,
                details(model, &blob, &model.quantization, true),
                capabilities.join(","),
            )
        })
        .collect();
    format!(r#"{{"models":[{}]}}"#, entries.join(","))
}

/// One model of `/api/ps`.
pub(crate) fn running(model: &Model, expires_at: &str, context_length: i64) -> String {
    format!(
        r#"{{"name":"{0}","model":"{0}","size":0,"digest":"{1}","details":{2},"expires_at":"{expires_at}","size_vram":0,"context_length":{context_length}}}"#,
        model.name,
        model.digest,
        details(model, "", "unknown", false),
    )
}

fn details(model: &Model, parent: &str, quantization: &str, lengths: bool) -> String {
    let lengths = match lengths {
        true => {
            format!(
                r#","context_length":{},"embedding_length":{}"#,
                model.context_length, model.embedding_length
            )
        }
        false => String::new(),
    };
    format!(
        r#"{{"parent_model":"{parent}","format":"gguf","family":"llama","families":["llama"],"parameter_size":"{}","quantization_level":"{quantization}"{lengths}}}"#,
        model.parameter_size,
    )
}
