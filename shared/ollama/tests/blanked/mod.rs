//! Makes two answers to the same request comparable.

/// Blanks the values that differ between any two answers: times, durations and the ids of tool calls.
pub(crate) fn comparable(body: &str) -> String {
    const KEYS: [&str; 6] =
        ["created_at", "id", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration"];
    KEYS.iter().fold(body.to_owned(), |body, key| {
        let key = format!("\"{key}\":");
        let mut parts = body.split(&key);
        let mut blanked = parts.next().unwrap().to_owned();
        for part in parts {
            let end = part.find([',', '}']).unwrap();
            blanked.push_str(&key);
            blanked.push_str(&part[end..]);
        }
        blanked
    })
}
