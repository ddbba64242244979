//! The fields of a body, read with Go's leniency and refused with Go's error texts.

use crate::go_json::{self, Json};

/// The fields of a body, with Go's error texts about values of the wrong type.
#[derive(Debug)]
pub(crate) struct Fields {
    /// Go's name of the structure.
    of: &'static str,
    members: Vec<(String, Json)>,
}

impl Fields {
    pub(crate) fn decode(of: &'static str, body: &[u8]) -> Result<Self, String> {
        match go_json::decode(body)? {
            Some(Json::Object(members)) => Ok(Self { of, members }),
            Some(Json::Null) => Ok(Self { of, members: Vec::new() }),
            Some(other) => Err(format!("json: cannot unmarshal {} into Go value of type {of}", other.kind())),
            None => Err("EOF".to_owned()),
        }
    }

    /// The last value of a field, unless it is null.
    pub(crate) fn get(&self, field: &str) -> Option<&Json> {
        let (_, value) = self.members.iter().rev().find(|(key, _)| go_json::folds_to(key, field))?;
        (*value != Json::Null).then_some(value)
    }

    pub(crate) fn text(&self, field: &str) -> Result<String, String> {
        match self.get(field) {
            None => Ok(String::new()),
            Some(Json::String(text)) => Ok(text.clone()),
            Some(other) => self.wrong(field, other, "string"),
        }
    }

    pub(crate) fn flag(&self, field: &str) -> Result<bool, String> {
        match self.get(field) {
            None => Ok(false),
            Some(Json::Bool(truth)) => Ok(*truth),
            Some(other) => self.wrong(field, other, "bool"),
        }
    }

    pub(crate) fn integer(&self, field: &str) -> Result<Option<i64>, String> {
        match self.get(field) {
            None => Ok(None),
            Some(value @ Json::Number(number)) => match number.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => self.wrong(field, value, "int"),
            },
            Some(other) => self.wrong(field, other, "int"),
        }
    }

    pub(crate) fn float(&self, field: &str) -> Result<Option<f64>, String> {
        match self.get(field) {
            None => Ok(None),
            Some(value @ Json::Number(number)) => match number.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => self.wrong(field, value, "float64"),
            },
            Some(other) => self.wrong(field, other, "float64"),
        }
    }

    pub(crate) fn list(&self, field: &str, wanted: &str) -> Result<&[Json], String> {
        match self.get(field) {
            None => Ok(&[]),
            Some(Json::Array(items)) => Ok(items),
            Some(other) => self.wrong(field, other, wanted),
        }
    }

    /// The options of Ollama that have the same meaning here, each as `(field, option)`.
    pub(crate) fn options(
        &self,
        integers: &[(&str, &str)],
        floats: &[&str],
    ) -> Result<Vec<(String, Json)>, String> {
        let mut options = Vec::new();
        for (field, option) in integers {
            if let Some(number) = self.integer(field)? {
                options.push(((*option).to_owned(), Json::Number(number.to_string())));
            }
        }
        for field in floats {
            if let Some(number) = self.float(field)? {
                options.push(((*field).to_owned(), Json::Number(number.to_string())));
            }
        }
        Ok(options)
    }

    /// The words at which an answer stops: one, or a list.
    pub(crate) fn stop(&self) -> Option<(String, Json)> {
        let words = match self.get("stop")? {
            word @ Json::String(_) => vec![word.clone()],
            Json::Array(words) => words.iter().filter(|word| word.as_str().is_some()).cloned().collect(),
            _ => return None,
        };
        Some(("stop".to_owned(), Json::Array(words)))
    }

    fn wrong<T>(&self, field: &str, value: &Json, wanted: &str) -> Result<T, String> {
        let what = match value {
            Json::Number(number) if wanted == "int" => format!("number {number}"),
            other => other.kind().to_owned(),
        };
        let shape = self.of.rsplit_once('.').map_or(self.of, |(_, name)| name);
        Err(format!("json: cannot unmarshal {what} into Go struct field {shape}.{field} of type {wanted}"))
    }
}
