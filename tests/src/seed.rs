//! The source of the random choices of a test.

use std::env;

use rand::{SeedableRng, rngs::StdRng};

/// Random numbers from a seed. The seed is printed if the test fails, and is taken from `FOREMAN_TEST_SEED` if that
/// is set.
#[expect(clippy::print_stderr, reason = "a test's output is shown when it fails")]
pub fn random() -> StdRng {
    let given = env::var("FOREMAN_TEST_SEED").ok();
    let seed = given.map_or_else(rand::random, |seed| seed.parse().expect("FOREMAN_TEST_SEED is a number"));
    eprintln!("the same moments again: FOREMAN_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
