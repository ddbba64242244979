//! The arguments that change on which terms a client is served.

use std::str::FromStr;

use bytesize::ByteSize;
use foreman_store::{Term, TermsChange};

/// The seconds that a thousand GPUs have in a day. Whoever asks for more has mistyped.
const MOST_GPU_SECONDS: f64 = 86_400_000.0;

/// Takes a term back to what every client has.
const DEFAULT: &str = "default";

#[derive(Debug, clap::Args)]
pub(crate) struct TermsArgs {
    /// Its part of the GPU beside the others, who have 1; 0.01 to 100
    #[arg(long, value_parser = weight, allow_negative_numbers = true)]
    weight: Option<Term<f64>>,
    /// How many jobs it may have queued [default: FOREMAN_CLIENT_MAX_QUEUED]
    #[arg(long, value_name = "N", value_parser = jobs, allow_negative_numbers = true)]
    max_queued: Option<Term<i64>>,
    /// How many bytes they may have, such as 1GiB [default: FOREMAN_CLIENT_MAX_QUEUED_BYTES]
    #[arg(long, value_name = "B", value_parser = bytes, allow_negative_numbers = true)]
    max_queued_bytes: Option<Term<i64>>,
    /// How many of its jobs may run at the same time on each host; the others wait. Less than the number of slots may cost it
    /// a part of its share, because a job that waits for a slot counts already
    #[arg(long, value_name = "N", value_parser = running, allow_negative_numbers = true)]
    max_running: Option<Term<i32>>,
    /// After this much of the GPU's time in a day it goes last
    #[arg(long, value_name = "S", value_parser = seconds, allow_negative_numbers = true)]
    gpu_seconds_a_day: Option<Term<f64>>,
}

impl TermsArgs {
    pub(super) fn change(&self) -> TermsChange {
        TermsChange {
            weight: self.weight,
            max_queued: self.max_queued,
            max_queued_bytes: self.max_queued_bytes,
            max_running: self.max_running,
            gpu_seconds_a_day: self.gpu_seconds_a_day,
        }
    }
}

fn weight(text: &str) -> Result<Term<f64>, String> {
    term(text, "a number from 0.01 to 100", |weight| (0.01..=100.0).contains(weight))
}

fn jobs(text: &str) -> Result<Term<i64>, String> {
    term(text, "a number of jobs", |jobs| *jobs >= 0)
}

fn bytes(text: &str) -> Result<Term<i64>, String> {
    let form = "a size such as 1GiB";
    match term(text, form, |_: &ByteSize| true)? {
        Term::Default => Ok(Term::Default),
        Term::Is(size) => i64::try_from(size.as_u64()).map(Term::Is).map_err(|_| must_be(form)),
    }
}

fn running(text: &str) -> Result<Term<i32>, String> {
    term(text, "a number of jobs from 1", |jobs| *jobs >= 1)
}

fn seconds(text: &str) -> Result<Term<f64>, String> {
    let form =
        format!("a number of seconds from 0 to {MOST_GPU_SECONDS}, which a thousand GPUs have in a day");
    term(text, &form, |seconds| (0.0..=MOST_GPU_SECONDS).contains(seconds))
}

fn term<T: FromStr>(text: &str, form: &str, is_valid: impl Fn(&T) -> bool) -> Result<Term<T>, String> {
    if text == DEFAULT {
        return Ok(Term::Default);
    }
    text.parse().ok().filter(is_valid).map(Term::Is).ok_or_else(|| must_be(form))
}

fn must_be(form: &str) -> String {
    format!("it must be {form}, or `{DEFAULT}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_is_a_value_in_its_range_or_the_default() {
        assert_eq!(weight("default"), Ok(Term::Default));
        assert_eq!(weight("0.01"), Ok(Term::Is(0.01)));
        assert_eq!(bytes("1GiB"), Ok(Term::Is(1 << 30)));
        assert_eq!(jobs("0"), Ok(Term::Is(0)));
        assert_eq!(seconds("3600.5"), Ok(Term::Is(3_600.5)));
        for refused in [
            weight("0"),
            weight("101"),
            weight("NaN"),
            weight("Default"),
            seconds("inf"),
            seconds("-1"),
            seconds("86400001"),
        ] {
            refused.unwrap_err();
        }
        running("0").unwrap_err();
        jobs("-1").unwrap_err();
        bytes("99999999999999999999").unwrap_err();
    }
}
