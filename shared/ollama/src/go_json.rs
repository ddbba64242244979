//! Reads JSON as Go's `encoding/json` does, because Ollama reads every request with it: it takes the first value and ignores
//! whatever follows, accepts invalid UTF-8 and lone surrogates, and compares the keys of a request without regard to case.
//!
//! An error has Go's own text, which Ollama would answer. Must never accept what Go refuses, and never build a tree: a body
//! may be very large.

use std::ops::Range;

/// Go refuses values that are nested deeper.
const MAX_DEPTH: usize = 10_000;

/// A member of an object, as positions in the body.
#[derive(Debug)]
pub(crate) struct GoMember {
    /// With its escapes resolved.
    pub(crate) key: String,
    pub(crate) value: Range<usize>,
    /// Everything between the commas or braces around the member.
    pub(crate) place: Range<usize>,
}

/// What the first value of a body is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GoValue {
    /// The body has no value. Go calls that EOF.
    Missing,
    /// An object, and where its text lies.
    Object(Range<usize>),
    /// A value of another kind, by Go's name for it.
    Other(&'static str),
}

/// Reads the first value of a body. If it is an object, `each` gets its members in their order.
pub(crate) fn read(body: &[u8], mut each: impl FnMut(GoMember)) -> Result<GoValue, String> {
    let mut reader = Reader { body, at: 0 };
    reader.space();
    let start = reader.at;
    let Some(first) = reader.peek() else { return Ok(GoValue::Missing) };
    // Go reports an error in the text before it looks at any member, so the whole value is read first.
    reader.skip()?;
    let end = reader.at;
    if first != b'{' {
        return Ok(GoValue::Other(kind(&body[start..end])));
    }
    reader.at = start;
    reader.members(&mut each)?;
    Ok(GoValue::Object(start..end))
}

/// Reads the members of an object in one pass, and returns where the object lies. `None` if the body is no object, or is not
/// valid: `each` may have got some members then.
pub(crate) fn members(body: &[u8], mut each: impl FnMut(GoMember)) -> Option<Range<usize>> {
    let mut reader = Reader { body, at: 0 };
    reader.space();
    let start = reader.at;
    if reader.peek() != Some(b'{') {
        return None;
    }
    reader.members(&mut each).ok()?;
    Some(start..reader.at)
}

/// Go's name for the kind of a valid value, in its error texts.
pub(crate) fn kind(value: &[u8]) -> &'static str {
    match value.first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        Some(b'n') | None => "null",
        Some(_) => "number",
    }
}

/// The text of a valid value, if it is a string.
pub(crate) fn string(value: &[u8]) -> Option<String> {
    let mut reader = Reader { body: value, at: 0 };
    (reader.peek() == Some(b'"')).then(|| reader.text().ok()).flatten()
}

/// A number as Ollama turns it into a whole number: it drops the fraction. `None` for any other value.
pub(crate) fn integer(value: &str) -> Option<i64> {
    if let Ok(number) = value.parse() {
        return Some(number);
    }
    // Exact in binary. Go does not define the conversion of larger numbers, so no value could be compared.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    let number = serde_json::from_str::<f64>(value).ok()?.trunc();
    #[expect(clippy::cast_possible_truncation, reason = "checked against the limits just before")]
    (-LIMIT..LIMIT).contains(&number).then_some(number as i64)
}

/// Whether Go accepts `key` for the lower-case ASCII name `field`.
///
/// Go treats two letters outside ASCII as equal to ASCII letters: the long s and the Kelvin sign.
pub(crate) fn folds_to(key: &str, field: &str) -> bool {
    let folded = key.chars().map(|c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    folded.eq(field.chars())
}

/// The text that Go reads from these bytes: each byte that is not UTF-8 becomes a replacement character of its own.
pub(crate) fn utf8(mut bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    loop {
        match std::str::from_utf8(bytes) {
            Ok(rest) => {
                text.push_str(rest);
                return text;
            }
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                text.push(char::REPLACEMENT_CHARACTER);
                bytes = &rest[1..];
            }
        }
    }
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Go's error for the byte at the current position.
    fn complain<T>(&self, place: &str) -> Result<T, String> {
        let byte = match self.peek() {
            None => return Err("unexpected EOF".to_owned()),
            Some(b'\'') => "\\'".to_owned(),
            Some(b'\\') => "\\\\".to_owned(),
            Some(0x07) => "\\a".to_owned(),
            Some(0x08) => "\\b".to_owned(),
            Some(0x0b) => "\\v".to_owned(),
            Some(0x0c) => "\\f".to_owned(),
            Some(b'\n') => "\\n".to_owned(),
            Some(b'\r') => "\\r".to_owned(),
            Some(b'\t') => "\\t".to_owned(),
            Some(byte @ (0x00..=0x1f | 0x7f)) => format!("\\x{byte:02x}"),
            // Go takes the byte for a character, and these are not printable.
            Some(byte @ (0x80..=0xa0 | 0xad)) => format!("\\u{byte:04x}"),
            Some(byte) => char::from(byte).to_string(),
        };
        Err(format!("invalid character '{byte}' {place}"))
    }

    /// Skips one value, however deep it is, without recursion.
    fn skip(&mut self) -> Result<(), String> {
        let mut open = Vec::new();
        loop {
            // A value begins here.
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    if open.len() == MAX_DEPTH {
                        return self.complain("exceeded max depth");
                    }
                    self.at += 1;
                    self.space();
                    if self.peek() == Some(bracket + 2) {
                        self.at += 1;
                    } else {
                        open.push(bracket);
                        if bracket == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => self.quoted()?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.literal("true")?,
                Some(b'f') => self.literal("false")?,
                Some(b'n') => self.literal("null")?,
                _ => return self.complain("looking for beginning of value"),
            }
            // A value has ended here, and perhaps some of those around it end too.
            loop {
                let Some(bracket) = open.last().copied() else { return Ok(()) };
                self.space();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.space();
                        if bracket == b'{' {
                            self.key()?;
                        }
                        break;
                    }
                    // In ASCII the closing bracket is two after the opening one.
                    Some(byte) if byte == bracket + 2 => {
                        self.at += 1;
                        open.pop();
                    }
                    _ if bracket == b'{' => return self.complain("after object key:value pair"),
                    _ => return self.complain("after array element"),
                }
            }
        }
    }

    /// Skips a key, its colon, and the space around them.
    fn key(&mut self) -> Result<(), String> {
        if self.peek() != Some(b'"') {
            return self.complain("looking for beginning of object key string");
        }
        self.quoted()?;
        self.space();
        if self.peek() != Some(b':') {
            return self.complain("after object key");
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    /// Gives the members of the object that begins here.
    fn members(&mut self, each: &mut impl FnMut(GoMember)) -> Result<(), String> {
        self.at += 1;
        let mut place = self.at;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            let key = self.at;
            self.key()?;
            let value = self.at;
            self.skip()?;
            let end = self.at;
            self.space();
            let key = string(&self.body[key..]).unwrap_or_default();
            let last = match self.peek() {
                Some(b',') => false,
                Some(b'}') => true,
                _ => return self.complain("after object key:value pair"),
            };
            each(GoMember { key, value: value..end, place: place..self.at });
            self.at += 1;
            if last {
                return Ok(());
            }
            place = self.at;
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for expected in word.bytes() {
            if self.peek() != Some(expected) {
                return self.complain(&format!("in literal {word} (expecting '{}')", char::from(expected)));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.complain("in numeric literal"),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn some_digits(&mut self, place: &str) -> Result<(), String> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return self.complain(place);
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    /// Skips a string.
    fn quoted(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            match self.peek() {
                None | Some(0..=0x1f) => return self.complain("in string literal"),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                        Some(b'u') => {
                            self.at += 1;
                            self.hex()?;
                        }
                        _ => return self.complain("in string escape code"),
                    }
                }
                Some(_) => self.at += 1,
            }
        }
    }

    fn hex(&mut self) -> Result<u32, String> {
        let mut code = 0;
        for _ in 0..4 {
            match self.peek().and_then(|byte| char::from(byte).to_digit(16)) {
                Some(digit) => code = code * 16 + digit,
                None => return self.complain("in \\u hexadecimal character escape"),
            }
            self.at += 1;
        }
        Ok(code)
    }

    /// Reads the string that begins here.
    fn text(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut text = String::new();
        let mut plain = self.at;
        loop {
            match self.peek() {
                None => return self.complain("in string literal"),
                Some(b'"') => {
                    text.push_str(&utf8(&self.body[plain..self.at]));
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    text.push_str(&utf8(&self.body[plain..self.at]));
                    self.at += 1;
                    let escape = self.peek();
                    self.at += 1;
                    text.push(match escape {
                        Some(b'b') => '\u{8}',
                        Some(b'f') => '\u{c}',
                        Some(b'n') => '\n',
                        Some(b'r') => '\r',
                        Some(b't') => '\t',
                        Some(b'u') => self.unicode()?,
                        Some(other) => char::from(other),
                        None => return self.complain("in string escape code"),
                    });
                    plain = self.at;
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// Reads the code of a `\u` escape, and a second one if the two are a pair of surrogates.
    fn unicode(&mut self) -> Result<char, String> {
        let first = self.hex()?;
        if let 0xd800..=0xdbff = first
            && self.body.get(self.at..self.at + 2) == Some(b"\\u")
        {
            let before = self.at;
            self.at += 2;
            if let second @ 0xdc00..=0xdfff = self.hex()? {
                let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            // Only a full pair is one character. The text after a lone half is read on its own.
            self.at = before;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(body: &str) -> Vec<(String, String)> {
        let mut members = Vec::new();
        let read = read(body.as_bytes(), |member| members.push((member.key, body[member.value].to_owned())));
        assert!(matches!(read, Ok(GoValue::Object(_))), "{body}: {read:?}");
        members
    }

    #[test]
    fn members_keep_their_order_their_repeats_and_their_bytes() {
        let seen = members(
            r#" { "b" : 1.50e+3 , "a\u0041" : [ {"x":1} ,2 ] , "b":"\ud800\u0000", "c":{}} trailing"#,
        );
        let seen: Vec<_> = seen.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(
            seen,
            [("b", "1.50e+3"), ("aA", r#"[ {"x":1} ,2 ]"#), ("b", r#""\ud800\u0000""#), ("c", "{}")]
        );
        assert!(members("{ }").is_empty());
    }

    #[test]
    fn strings_are_read_as_go_reads_them() {
        for (json, text) in [
            (&br#""a\n\"\u00e4\/""#[..], "a\n\"\u{e4}/"),
            (br#""\ud83d\ude00""#, "\u{1f600}"),
            (br#""\ud83dx\ude00\ud800\u0041""#, "\u{fffd}x\u{fffd}\u{fffd}A"),
            (b"\"\xff\xe4\xbd\"", "\u{fffd}\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(string(json).as_deref(), Some(text), "{}", String::from_utf8_lossy(json));
        }
        assert_eq!(string(b"5"), None);
    }

    #[test]
    fn errors_have_the_words_of_go() {
        let deep = "[".repeat(MAX_DEPTH + 1);
        for (body, error) in [
            ("hello", "invalid character 'h' looking for beginning of value"),
            ("{", "unexpected EOF"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\":2}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{\"a\":nul}", "invalid character '}' in literal null (expecting 'l')"),
            ("{\"a\":-}", "invalid character '}' in numeric literal"),
            ("{\"a\":1.}", "invalid character '}' after decimal point in numeric literal"),
            ("{\"a\":1e}", "invalid character '}' in exponent of numeric literal"),
            ("{\"a\":\"\n\"}", "invalid character '\\n' in string literal"),
            ("{\"a\":\"\u{b}\"}", "invalid character '\\v' in string literal"),
            ("\u{7f}", "invalid character '\\x7f' looking for beginning of value"),
            ("\u{b0}", "invalid character 'Â' looking for beginning of value"),
            ("{\"a\":\"\\x\"}", "invalid character 'x' in string escape code"),
            ("{\"a\":\"\\u00zz\"}", "invalid character 'z' in \\u hexadecimal character escape"),
            ("\u{feff}{}", "invalid character 'ï' looking for beginning of value"),
            (&deep, "invalid character '[' exceeded max depth"),
        ] {
            assert_eq!(
                read(body.as_bytes(), |_| {}),
                Err(error.to_owned()),
                "{}",
                body.get(..20).unwrap_or(body)
            );
        }
    }

    #[test]
    fn other_values_are_named_and_an_empty_body_is_missing() {
        for (body, kind) in
            [("[1]", "array"), ("null x", "null"), ("tru", ""), ("\"x\"", "string"), ("-1", "number")]
        {
            let read = read(body.as_bytes(), |_| {});
            if kind.is_empty() {
                assert_eq!(read, Err("unexpected EOF".to_owned()));
            } else {
                assert_eq!(read, Ok(GoValue::Other(kind)), "{body}");
            }
        }
        assert_eq!(read(b" \n", |_| {}), Ok(GoValue::Missing));
    }
}
