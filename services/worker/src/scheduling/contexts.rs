//! Which runner serves a job, where jobs of one model ask for contexts of different lengths. Ollama reloads a model
//! whenever the length changes. So a job may run with a longer context than it asks for, and never with a shorter one.
//! Pure.
//!
//! A job's `num_ctx` is its need. A job without one needs the automatic length, which Ollama chooses by itself for the
//! machine; we learn it after the first automatic load. A runner serves every job whose need is at most its length,
//! with two exceptions: a job whose body can carry no `num_ctx` runs on the automatic runner alone, and while the
//! automatic length is not known, the automatic runner serves only jobs without a need.

use std::collections::HashMap;
use std::sync::Arc;

use foreman_ollama::Context;

use super::key::Key;

/// With more models than this, forget all lengths and learn them again: clients can make up load keys without end.
const MAX_MODELS: usize = 4_096;

#[derive(Debug, Clone)]
pub(crate) struct Contexts {
    /// `false` sends every `num_ctx` to Ollama as it came, and each length is a runner of its own.
    fits: bool,
    /// The longest context that is loaded for several jobs. A job that needs more gets a runner of its own.
    largest: Option<i64>,
    /// By load key without its context.
    learned: HashMap<Key, Lengths>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lengths {
    pub(crate) automatic: Option<i64>,
    /// The longest context that the model has. Ollama shortens what asks for more.
    pub(crate) longest: Option<i64>,
}

impl Contexts {
    pub(crate) fn new(fits: bool, largest: Option<i64>) -> Self {
        Self { fits, largest, learned: HashMap::new() }
    }

    /// Ollama says that this runner has a context of this length.
    pub(crate) fn learn(&mut self, runner: &Key, length: i64) {
        let base = base(runner);
        if self.learned.len() >= MAX_MODELS && !self.learned.contains_key(&base) {
            self.learned.clear();
        }
        let lengths = self.learned.entry(base).or_default();
        match runner.context() {
            Context::Length(asked) if asked > length => lengths.longest = Some(length),
            Context::Length(_) => {}
            Context::Automatic | Context::Any => lengths.automatic = Some(length),
        }
    }

    /// Ollama may have been started again, with another automatic length.
    pub(crate) fn doubt(&mut self) {
        self.learned.values_mut().for_each(|lengths| lengths.automatic = None);
    }

    /// Everything that was learned, by load key without its context.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Key, &Lengths)> {
        self.learned.iter()
    }

    /// Takes what an earlier holder has learned, unless this one knows the model itself.
    pub(crate) fn remember(&mut self, base: Key, lengths: Lengths) {
        if self.learned.len() < MAX_MODELS {
            self.learned.entry(base).or_insert(lengths);
        }
    }

    /// The automatic length of this key's model, where it is known.
    pub(crate) fn automatic(&self, base: &Key) -> Option<i64> {
        self.learned.get(base).and_then(|lengths| lengths.automatic)
    }

    /// How long the context of a runner is, as far as Ollama has told it.
    pub(crate) fn length(&self, runner: &Key) -> Option<i64> {
        let base = base(runner);
        match runner.context() {
            Context::Length(asked) => Some(self.need(&base, asked)),
            Context::Automatic | Context::Any => self.automatic(&base),
        }
    }

    /// What Ollama would load for a job of this load key without us.
    pub(crate) fn straight(&self, job: &Key) -> Key {
        let base = base(job);
        match job.context() {
            Context::Length(asked) if self.automatic(&base) != Some(asked) => {
                with(&base, Context::Length(self.need(&base, asked)))
            }
            _ => base,
        }
    }

    /// Whether a runner with this context serves jobs that ask for that one. Both are of the load key `base`.
    pub(crate) fn serves(&self, base: &Key, runner: Context, job: Context) -> bool {
        match (runner, job) {
            (Context::Automatic | Context::Any, Context::Automatic | Context::Any) => true,
            (Context::Length(_), Context::Automatic) => false,
            (Context::Length(runner), Context::Length(job)) if runner == job => true,
            _ if !self.fits => false,
            (Context::Length(runner), Context::Any) => {
                self.automatic(base).is_some_and(|automatic| automatic <= runner)
            }
            (Context::Length(runner), Context::Length(job)) => self.need(base, job) <= runner,
            (Context::Automatic | Context::Any, Context::Length(job)) => {
                self.automatic(base).is_some_and(|automatic| job <= automatic)
            }
        }
    }

    /// The longest need of jobs that wait, if the automatic runner does not serve them all. A job that gets a runner of
    /// its own does not count.
    pub(crate) fn longest_need(&self, base: &Key, waiting: impl Iterator<Item = Context>) -> Option<i64> {
        let needs = waiting.filter_map(|context| match context {
            Context::Length(_) if self.is_alone(base, context) => None,
            Context::Length(_) if self.serves(base, Context::Automatic, context) => None,
            Context::Length(length) => Some(self.need(base, length)),
            Context::Automatic | Context::Any => None,
        });
        needs.max()
    }

    /// The runner to load for a waiting job that asks for `job`, where this is the longest need of all that wait. It is
    /// the automatic one if that serves them all, and otherwise one for the longest need, rounded up to a power of two
    /// so that a little more soon after does not load again.
    pub(crate) fn runner_for(&self, base: &Key, job: Context, longest_need: Option<i64>) -> Context {
        match (job, longest_need) {
            (Context::Automatic, _) | (Context::Any, None) => Context::Automatic,
            (Context::Length(_), _) if self.is_alone(base, job) => job,
            (Context::Length(_), None) => Context::Automatic,
            (Context::Any, _) if self.automatic(base).is_none() => Context::Automatic,
            (Context::Any | Context::Length(_), Some(need)) => Context::Length(self.rung(base, need)),
        }
    }

    /// The length that must be written into the body of a job before it goes to this runner: `None` if the body is
    /// right as it is, `Some(None)` if its own `num_ctx` must be taken out.
    pub(crate) fn rewrite(runner: Context, job: Context) -> Option<Option<i64>> {
        match (runner, job) {
            (Context::Length(runner), Context::Length(job)) if runner == job => None,
            (Context::Length(runner), _) => Some(Some(runner)),
            (_, Context::Length(_)) => Some(None),
            (_, Context::Automatic | Context::Any) => None,
        }
    }

    fn need(&self, base: &Key, asked: i64) -> i64 {
        let longest = self.learned.get(base).and_then(|lengths| lengths.longest);
        longest.map_or(asked, |longest| asked.min(longest))
    }

    /// Whether a job that asks for this length gets a runner of its own.
    fn is_alone(&self, base: &Key, context: Context) -> bool {
        let Context::Length(asked) = context else { return false };
        !self.fits || self.largest.is_some_and(|largest| self.need(base, asked) > largest)
    }

    fn rung(&self, base: &Key, need: i64) -> i64 {
        let power = u64::try_from(need).ok().and_then(u64::checked_next_power_of_two);
        let power = power.and_then(|power| i64::try_from(power).ok()).unwrap_or(need);
        let power = self.largest.map_or(power, |largest| power.min(largest));
        self.need(base, power).max(need)
    }
}

/// The load key without its context.
pub(crate) fn base(key: &Key) -> Key {
    with(key, Context::Automatic)
}

/// The load key with this context.
pub(crate) fn with(key: &Key, context: Context) -> Key {
    if key.context() == context { Key::clone(key) } else { Arc::new(key.with_context(context)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Context::{Any, Automatic, Length};
    use super::*;

    fn model() -> Key {
        Arc::new("one:latest".parse().unwrap())
    }

    fn knowing(automatic: Option<i64>) -> Contexts {
        let mut contexts = Contexts::new(true, None);
        if let Some(automatic) = automatic {
            contexts.learn(&model(), automatic);
        }
        contexts
    }

    fn load(contexts: &Contexts, job: Context, waiting: &[Context]) -> Context {
        let longest = contexts.longest_need(&model(), waiting.iter().copied());
        contexts.runner_for(&model(), job, longest)
    }

    #[test]
    fn a_runner_serves_every_job_that_needs_no_more_than_it_has() {
        let contexts = knowing(Some(4096));
        for (runner, job, serves) in [
            (Automatic, Any, true),
            (Automatic, Automatic, true),
            (Automatic, Length(512), true),
            (Automatic, Length(4096), true),
            (Automatic, Length(4097), false),
            (Length(8192), Length(8192), true),
            (Length(8192), Length(512), true),
            (Length(8192), Length(8193), false),
            (Length(8192), Any, true),
            (Length(2048), Any, false),
            (Length(2048), Length(1024), true),
            (Length(8192), Automatic, false),
        ] {
            assert_eq!(contexts.serves(&model(), runner, job), serves, "{runner:?} for {job:?}");
        }
    }

    #[test]
    fn until_the_automatic_length_is_known_nobody_relies_on_it() {
        let contexts = knowing(None);
        assert!(!contexts.serves(&model(), Automatic, Length(4)));
        assert!(!contexts.serves(&model(), Length(1 << 20), Any));
        assert!(contexts.serves(&model(), Length(8192), Length(512)));
        assert_eq!(load(&contexts, Any, &[Any, Length(512)]), Automatic);
        assert_eq!(load(&contexts, Length(512), &[Any, Length(512)]), Length(512));
    }

    #[test]
    fn an_ollama_that_was_away_may_have_another_automatic_length() {
        let mut contexts = knowing(Some(4096));
        contexts.doubt();
        assert!(!contexts.serves(&model(), Automatic, Length(512)));
        contexts.learn(&model(), 2048);
        assert!(contexts.serves(&model(), Automatic, Length(512)));
        assert!(!contexts.serves(&model(), Automatic, Length(4096)));
    }

    #[test]
    fn what_is_loaded_is_automatic_or_a_power_of_two_for_the_longest_need() {
        let mut contexts = knowing(Some(4096));
        assert_eq!(load(&contexts, Length(512), &[Length(512), Any, Length(4096)]), Automatic);
        assert_eq!(load(&contexts, Any, &[Length(512), Any, Length(5000), Length(6000)]), Length(8192));
        assert_eq!(load(&contexts, Automatic, &[Automatic, Length(6000)]), Automatic);
        contexts.learn(&Arc::new("one:latest num_ctx=100000".parse().unwrap()), 6144);
        assert_eq!(load(&contexts, Any, &[Any, Length(5000)]), Length(6144), "no more than the model has");
        assert_eq!(load(&contexts, Length(9000), &[Length(9000), Length(5000)]), Length(6144));
        assert!(contexts.serves(&model(), Length(6144), Length(9000)), "Ollama would shorten it as well");
    }

    #[test]
    fn a_need_beyond_the_largest_context_gets_a_runner_of_its_own() {
        let mut contexts = knowing(Some(4096));
        contexts.largest = Some(6000);
        let waiting = [Any, Length(5000), Length(7000)];
        assert_eq!(load(&contexts, Any, &waiting), Length(6000));
        assert_eq!(load(&contexts, Length(7000), &waiting), Length(7000));
    }

    #[test]
    fn without_fitting_each_length_is_a_runner_of_its_own() {
        let mut contexts = knowing(Some(4096));
        contexts.fits = false;
        assert!(
            contexts.serves(&model(), Automatic, Any) && !contexts.serves(&model(), Automatic, Length(512))
        );
        assert!(!contexts.serves(&model(), Length(8192), Length(512)));
        assert!(!contexts.serves(&model(), Length(8192), Any));
        let waiting = [Any, Length(512), Length(8192)];
        assert_eq!(load(&contexts, Length(512), &waiting), Length(512));
        assert_eq!(load(&contexts, Any, &waiting), Automatic);
    }

    #[test]
    fn a_body_is_written_only_where_the_runner_differs_from_what_it_asks_for() {
        assert_eq!(Contexts::rewrite(Automatic, Any), None);
        assert_eq!(Contexts::rewrite(Automatic, Length(512)), Some(None));
        assert_eq!(Contexts::rewrite(Length(8192), Any), Some(Some(8192)));
        assert_eq!(Contexts::rewrite(Length(8192), Length(512)), Some(Some(8192)));
        assert_eq!(Contexts::rewrite(Length(512), Length(512)), None);
    }

    fn asked() -> impl Strategy<Value = Context> {
        prop_oneof![Just(Any), Just(Automatic), (-1..200_000i64).prop_map(Length)]
    }

    proptest! {
        #[test]
        fn what_is_loaded_for_a_job_serves_it_and_few_loads_serve_all(
            waiting in prop::collection::vec(asked(), 1..50),
            automatic in prop::option::of(1_024..65_536i64),
            longest in prop::option::of(2_048..131_072i64),
            largest in prop::option::of(1_024..131_072i64),
        ) {
            let mut contexts = knowing(automatic);
            contexts.largest = largest;
            // The automatic length is never longer than what the model has.
            if let Some(longest) = longest.map(|longest| longest.max(automatic.unwrap_or(4_096))) {
                contexts.learn(&with(&model(), Length(i64::MAX)), longest);
            }
            let (mut left, mut loads) = (waiting.clone(), 0);
            while let Some(job) = left.first().copied() {
                let runner = load(&contexts, job, &left);
                prop_assert!(contexts.serves(&model(), runner, job), "{runner:?} for {job:?}");
                loads += usize::from(!contexts.is_alone(&model(), job));
                left.retain(|job| !contexts.serves(&model(), runner, *job));
                if matches!(runner, Automatic) {
                    contexts.learn(&model(), automatic.unwrap_or(4_096));
                }
            }
            prop_assert!(loads <= 3, "{loads} loads for needs that few runners serve");
        }
    }
}
