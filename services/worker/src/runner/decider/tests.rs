//! Runs the decider in virtual time against a scripted world ([`world`]). Each script says which jobs come, how long
//! loads and runs take, which answers of Postgres are late or lost, and when Ollama, the spell or the host lease goes
//! away. The world checks the rules of the floor after each decision.

mod script;
mod world;

use proptest::prelude::*;

use script::scripts;
use world::World;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    /// [`World::check`] has the rules that hold after each decision. In the end every claimed job is settled or
    /// handed back. If the script does not stop the process, every job has ended.
    #[test]
    fn whatever_happens_the_rules_of_the_floor_hold(script in scripts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async { World::new(script).run().await });
    }
}
