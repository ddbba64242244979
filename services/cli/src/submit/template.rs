//! Makes a job of a line: adds missing defaults, and an idempotency key by which the api recognises the line next time.
//!
//! A line is never decoded and encoded again. What it lacks is put before its first key.

use std::collections::{BTreeMap, HashMap};

use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::Args;

const KEY: &str = "idempotency_key";

/// Equal lines are counted within this many lines, which bounds the memory for an endless pipe.
const BLOCK: u64 = 1_000_000;

pub(super) struct Template {
    /// Top-level keys and their JSON, for lines without them.
    defaults: Vec<(&'static str, String)>,
    run: String,
    /// How many keys were made so far.
    jobs: u64,
    /// How often each line occurred in this block, by the first bytes of its digest. Two lines with the same first bytes
    /// are counted together; their keys still differ, because a key covers the whole digest.
    seen: HashMap<u64, u32>,
}

impl Template {
    pub(super) fn of(args: &Args) -> serde_json::Result<Self> {
        let text = |text: &Option<String>| text.as_ref().map(serde_json::to_string).transpose();
        let defaults = [
            ("model", text(&args.model)?),
            ("state_webhook_url", text(&args.webhook)?),
            ("priority", args.priority.map(|priority| priority.to_string())),
            ("metadata", args.metadata.as_ref().map(|metadata| metadata.get().to_owned())),
        ];
        Ok(Self {
            defaults: defaults.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
            run: args.run.clone().unwrap_or_default(),
            jobs: 0,
            seen: HashMap::new(),
        })
    }

    /// The job to send, or what is wrong with the line. The api judges the values.
    pub(super) fn job(&mut self, line: &[u8]) -> Result<String, String> {
        let line = std::str::from_utf8(line).map_err(|error| {
            format!("it is not UTF-8 from byte {} on; encode the file as UTF-8", error.valid_up_to() + 1)
        })?;
        let line = line.trim_start_matches('\u{feff}').trim();
        let members: BTreeMap<String, &RawValue> =
            serde_json::from_str(line).map_err(|error| wrong(&error))?;
        let mut job = String::from("{");
        for (name, value) in &self.defaults {
            if !members.contains_key(*name) {
                job.push_str(&format!("\"{name}\":{value},"));
            }
        }
        // Only an object can be read into a map, so the line begins with a brace.
        let rest = line.strip_prefix('{').unwrap_or(line).trim_start();
        match members.get(KEY) {
            Some(key) if key.get() == "null" => {
                return Err(format!("`{KEY}` is null; give it a value, or leave it out"));
            }
            Some(_) => {}
            None => {
                let body = job.clone() + rest;
                let key = self.key(&body);
                job.push_str(&format!("\"{KEY}\":\"{key}\","));
            }
        }
        if members.is_empty() {
            job.pop();
        }
        job.push_str(rest);
        Ok(job)
    }

    /// Depends on the line and on how many equal lines came before it, and on nothing else around it. So a file can be
    /// appended to, sorted and mended between two runs.
    fn key(&mut self, body: &str) -> String {
        let digest = Sha256::digest(body);
        let block = self.jobs / BLOCK;
        if self.jobs.is_multiple_of(BLOCK) {
            self.seen.clear();
        }
        self.jobs += 1;
        let beginning = digest.iter().take(8).fold(0, |beginning, byte| beginning << 8 | u64::from(*byte));
        let nth = self.seen.entry(beginning).or_default();
        *nth += 1;
        let key = Sha256::new()
            .chain_update(digest)
            .chain_update(block.to_be_bytes())
            .chain_update(nth.to_be_bytes())
            .chain_update(&self.run)
            .finalize();
        format!("file-{}", hex::encode(&key[..16]))
    }
}

fn wrong(error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "it ends in the middle of a job; write each job on one line (`jq -c .` does it)".to_owned();
    }
    if error.is_data() {
        return "it is not a JSON object; write one job a line (`jq -c '.[]'` makes lines of an array)"
            .to_owned();
    }
    let error = error.to_string();
    // serde_json sees one line at a time, so its line number is always 1.
    format!("it is not JSON: {}", error.replace(" at line 1 column ", " at column "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(defaults: &[(&'static str, &str)], run: &str) -> Template {
        Template {
            defaults: defaults.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            run: run.to_owned(),
            jobs: 0,
            seen: HashMap::new(),
        }
    }

    fn keys(template: &mut Template, lines: &[&str]) -> Vec<String> {
        let key = |line: &&str| {
            let job: serde_json::Value =
                serde_json::from_str(&template.job(line.as_bytes()).unwrap()).unwrap();
            job[KEY].as_str().unwrap().to_owned()
        };
        lines.iter().map(key).collect()
    }

    #[test]
    fn a_line_gets_what_it_lacks_and_keeps_its_bytes() {
        let mut template = template(&[("model", "\"m\""), ("priority", "5")], "");
        let job = template.job(b" {\"prompt\" : \"x\",\"priority\":1.0} \r").unwrap();
        assert!(job.starts_with(r#"{"model":"m","idempotency_key":"file-"#), "{job}");
        assert!(job.ends_with(r#","prompt" : "x","priority":1.0}"#), "{job}");
        let own = template.job(br#"{"idempotency_key":"k","model":"n","priority":0}"#).unwrap();
        assert_eq!(own, r#"{"idempotency_key":"k","model":"n","priority":0}"#);
        let empty: serde_json::Value = serde_json::from_str(&template.job(b"{ }").unwrap()).unwrap();
        assert_eq!(empty["model"], "m");
    }

    #[test]
    fn keys_follow_the_lines_wherever_they_stand() {
        let (one, two, other) = (r#"{"prompt":"a"}"#, r#"{"prompt":"b"}"#, r#"{"prompt":"c"}"#);
        let before = keys(&mut template(&[], ""), &[one, two, two]);
        assert_ne!(before[1], before[2], "equal lines are two jobs");
        let appended = keys(&mut template(&[], ""), &[one, two, two, other]);
        assert_eq!(before, appended[..3]);
        let moved = keys(&mut template(&[], ""), &[other, two, one, two]);
        assert_eq!([&moved[2], &moved[1], &moved[3]], [&before[0], &before[1], &before[2]]);
        assert_ne!(keys(&mut template(&[], "again"), &[one]), before[..1]);
        assert_ne!(keys(&mut template(&[("model", "\"m\"")], ""), &[one]), before[..1]);
    }

    #[test]
    fn equal_lines_of_two_blocks_are_two_jobs() {
        let mut template = template(&[], "");
        let first = keys(&mut template, &["{}"]);
        template.jobs = BLOCK;
        assert_ne!(keys(&mut template, &["{}"]), first);
        assert_eq!(template.seen.len(), 1);
    }

    #[test]
    fn a_line_that_is_no_job_says_why() {
        for (line, why) in [
            (&b"{\"prompt\": \"x\""[..], "ends in the middle"),
            (b"[{}]", "not a JSON object"),
            (b"7", "not a JSON object"),
            (b"hello", "not JSON: expected value at column 1"),
            (b"{} {}", "not JSON: trailing characters"),
            (b"{\"prompt\":\"\xff\"}", "not UTF-8 from byte 12"),
            (b"{\"idempotency_key\":null}", "is null"),
        ] {
            let error = template(&[], "").job(line).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
