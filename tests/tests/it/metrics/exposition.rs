//! Prometheus' text format, read strictly: whatever Prometheus would stumble over fails the test.

use std::collections::{BTreeMap, BTreeSet};

use foreman_tests::http;

pub(super) type Labels = BTreeMap<String, String>;

/// One scrape.
#[derive(Debug)]
pub(crate) struct Exposition(BTreeMap<String, Family>);

#[derive(Debug)]
pub(super) struct Family {
    pub(super) kind: String,
    samples: Vec<Sample>,
}

#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: Labels,
    value: f64,
}

impl Exposition {
    pub(crate) async fn scrape(ops_url: &str) -> Self {
        let answer = http().get(format!("{ops_url}/metrics")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
        Self::parse(&answer.text().await.unwrap())
    }

    fn parse(text: &str) -> Self {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with("# HELP ")) {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declared.split_once(' ').unwrap();
                let family = Family { kind: kind.to_owned(), samples: Vec::new() };
                assert!(families.insert(name.to_owned(), family).is_none(), "{name} is declared twice");
                continue;
            }
            let sample = Sample::parse(line);
            let family = families
                .iter_mut()
                .find(|(name, family)| family.owns(name, &sample.name))
                .unwrap_or_else(|| panic!("{line}: its family is not declared before it"));
            let twin = family
                .1
                .samples
                .iter()
                .find(|twin| (&twin.name, &twin.labels) == (&sample.name, &sample.labels));
            assert_eq!(twin, None, "a series stands there twice");
            family.1.samples.push(sample);
        }
        families.values().for_each(Family::check);
        Self(families)
    }

    pub(super) fn names(&self) -> BTreeSet<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    pub(super) fn family(&self, name: &str) -> &Family {
        self.0.get(name).unwrap_or_else(|| panic!("{name} is not exported, but {:?}", self.names()))
    }

    /// The sum over the series of a counter or gauge that have these labels; `None` if there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let family = self.0.get(name)?;
        let values: Vec<f64> = family.of(name, labels).map(|sample| sample.value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// How often a histogram was given a value.
    pub(super) fn count(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let counts: Vec<f64> =
            self.0.get(name)?.of(&format!("{name}_count"), labels).map(|sample| sample.value).collect();
        (!counts.is_empty()).then(|| counts.iter().sum())
    }
}

impl Family {
    /// The names of the labels of each series, without the histogram's own.
    pub(super) fn label_names(&self) -> BTreeSet<Vec<&str>> {
        self.samples
            .iter()
            .map(|sample| sample.labels.keys().map(String::as_str).filter(|name| *name != "le").collect())
            .collect()
    }

    fn of<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        let wanted = move |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value))
        };
        self.samples.iter().filter(wanted)
    }

    fn owns(&self, family: &str, sample: &str) -> bool {
        match sample.strip_prefix(family) {
            Some("") => self.kind != "histogram",
            Some("_bucket" | "_sum" | "_count") => self.kind == "histogram",
            _ => false,
        }
    }

    /// The buckets of a histogram add up, and end with all there is.
    fn check(&self) {
        let mut last: BTreeMap<Labels, f64> = BTreeMap::new();
        for sample in &self.samples {
            let mut labels = sample.labels.clone();
            let bound = labels.remove("le");
            if sample.name.ends_with("_bucket") {
                let before = last.insert(labels, sample.value).unwrap_or(0.0);
                assert!(bound.is_some() && before <= sample.value, "{sample:?} after {before}");
            } else if sample.name.ends_with("_count") && self.kind == "histogram" {
                assert_eq!(last.get(&labels), Some(&sample.value), "{sample:?} is what the last bucket says");
            }
        }
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value = value.parse().unwrap_or_else(|_| panic!("{line}: not a number"));
        let (name, labels) = match series.split_once('{') {
            None => (series, Labels::new()),
            Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}').unwrap())),
        };
        Self { name: name.to_owned(), labels, value }
    }
}

/// No label of ours holds a quote.
fn parse_labels(text: &str) -> Labels {
    text.trim_end_matches('"')
        .split("\",")
        .map(|label| label.split_once("=\"").unwrap_or_else(|| panic!("{text}: not labels")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
