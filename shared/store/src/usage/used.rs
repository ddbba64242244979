//! What one attempt has used, and with which context it ran.

use std::time::Duration;

/// What an attempt has used by its end, whatever becomes of its job. The default is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// The GPU's time, that of the load which it caused included.
    pub gpu: Duration,
    /// How many loads of a model it caused.
    pub loads: i32,
    /// The context length of its runner in tokens, if it ran on the GPU and Ollama has told the length.
    pub context: Option<i64>,
}
