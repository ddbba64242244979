//! Reads bodies that are one small JSON object. The body of a job is none of them: `foreman_ollama` reads that one.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::values;
use crate::refusal::Refusal;

/// The body of a request, which must be a JSON object.
pub(crate) fn read(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if body.is_empty() {
        return Err(invalid("the request has no body: send one JSON object"));
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        invalid(format!("the body is not UTF-8 from byte {} on: encode it as UTF-8", error.valid_up_to()))
    })?;
    let mut repeated = None;
    let mut json = serde_json::Deserializer::from_str(text);
    let read = Unrepeated(&mut repeated).deserialize(&mut json);
    let read = read.and_then(|value| json.end().map(|()| value));
    match (read, repeated) {
        (_, Some(key)) => {
            let error = format!("the key `{}` is given more than once: give it once", values::excerpt(&key));
            Err(Refusal::bad_request("repeated_key", error))
        }
        (Ok(Value::Object(object)), None) => Ok(object),
        (Ok(_), None) => Err(invalid("the body must be a JSON object")),
        (Err(error), None) => Err(invalid(format!("the body is not JSON: {error}"))),
    }
}

fn invalid(error: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::bad_request("invalid_json", error)
}

/// The same for a request that needs no body.
pub(crate) fn read_optional(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if body.is_empty() { Ok(Map::new()) } else { read(body) }
}

/// The same for Foreman's own routes, where the body must have no other fields than these.
pub(crate) fn optional_fields(body: &[u8], names: &[&str]) -> Result<Map<String, Value>, Refusal> {
    only(read_optional(body)?, names)
}

/// A misspelt field would otherwise be taken for one that is missing, and the request would do what nobody asked for.
pub(crate) fn only(body: Map<String, Value>, names: &[&str]) -> Result<Map<String, Value>, Refusal> {
    let Some(name) = body.keys().find(|name| !names.contains(&name.as_str())) else { return Ok(body) };
    let name = values::excerpt(name);
    let error = if names.is_empty() {
        format!("the field {name:?} is unknown here; send no body")
    } else {
        format!("the field {name:?} is unknown here; the body may have {}", names.join(", "))
    };
    Err(Refusal::bad_request("unknown_field", error))
}

/// Reads a value as serde_json does, but ends at a key that its object has already, and keeps that key. serde_json would take the
/// last of them, and the sender may mean the first.
struct Unrepeated<'a>(&'a mut Option<String>);

impl<'de> DeserializeSeed<'de> for Unrepeated<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unrepeated<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = array.next_element_seed(Unrepeated(self.0))? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            if members.contains_key(&key) {
                *self.0 = Some(key);
                return Err(A::Error::custom("a key is repeated"));
            }
            let value = object.next_value_seed(Unrepeated(self.0))?;
            members.insert(key, value);
        }
        Ok(members.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_where_the_json_breaks() {
        for (body, sentence) in [
            (&b""[..], "the request has no body: send one JSON object"),
            (b"{\"a\": 1,}", "the body is not JSON: trailing comma at line 1 column 9"),
            (b"{\n\"a\": 1} x", "the body is not JSON: trailing characters at line 2 column 9"),
            (b"{\"a\": \"\xe9\"}", "the body is not UTF-8 from byte 7 on: encode it as UTF-8"),
            (b"[]", "the body must be a JSON object"),
        ] {
            let refusal = read(body).unwrap_err();
            assert_eq!((refusal.code(), refusal.sentence()), ("invalid_json", sentence));
        }
    }
}
