//! What one attempt has used.

use std::time::Duration;

/// What an attempt has used by its end, whatever becomes of its job. The default is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// The GPU's time.
    pub gpu: Duration,
    /// How many loads of a model it caused.
    pub loads: i32,
}
