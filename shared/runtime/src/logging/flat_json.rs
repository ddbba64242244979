//! A line of the log as one flat JSON object: time, level, the fields of the spans around the event, the event's own fields,
//! and the module that wrote it. The library's own format has two drawbacks. It nests the fields of a span. When a field is
//! recorded later, as every request does, it reads and writes all fields of the span again.

use std::fmt::{self, Write};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

pub(super) struct FlatJson;

impl<S> FormatEvent<S, FlatJson> for FlatJson
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, FlatJson>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::from(r#"{"timestamp":""#);
        SystemTime.format_time(&mut Writer::new(&mut line))?;
        write!(line, r#"","level":"{}","#, event.metadata().level())?;
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<FlatJson>>() {
                line.push_str(fields);
            }
        }
        context.format_fields(Writer::new(&mut line), event)?;
        write!(line, r#""target":"{}"}}"#, event.metadata().target())?;
        // If a span and the event have the same field, the line shows it once, with the innermost value.
        let line: Map<String, Value> = serde_json::from_str(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{}", Value::Object(line))
    }
}

impl<'writer> FormatFields<'writer> for FlatJson {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut members = Members { writer, written: Ok(()) };
        fields.record(&mut members);
        members.written
    }
}

/// Writes fields as members of an object. Each ends with a comma, so that more can follow.
struct Members<'writer> {
    writer: Writer<'writer>,
    written: fmt::Result,
}

impl Members<'_> {
    fn write(&mut self, field: &Field, value: impl Into<Value>) {
        self.written = self.written.and_then(|()| write!(self.writer, r#""{field}":{},"#, value.into()));
    }
}

impl Visit for Members<'_> {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.write(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing::field::Empty;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `work` logs, without their times.
    fn logged(work: impl FnOnce()) -> Vec<String> {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(FlatJson)
            .event_format(FlatJson)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, work);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let without_time = |line: &str| {
            let mut line: Map<String, Value> = serde_json::from_str(line).unwrap();
            assert!(line.shift_remove("timestamp").is_some());
            assert_eq!(line.shift_remove("target"), Some(module_path!().into()));
            Value::Object(line).to_string()
        };
        text.lines().map(without_time).collect()
    }

    #[test]
    fn a_line_has_the_fields_of_the_spans_around_it_at_its_top_and_each_of_them_once() {
        let lines = logged(|| {
            tracing::info!(port = 8080, "before");
            let request = tracing::error_span!("request", route = "/jobs", job.id = Empty).entered();
            tracing::info!("unknown yet");
            request.record("job.id", "J1");
            let _attempt = tracing::error_span!("attempt", attempt = 2).entered();
            tracing::warn!("failed");
            tracing::error!(job.id = "J2", ok = false, "of \"another\"\nline");
        });
        assert_eq!(
            lines,
            [
                r#"{"level":"INFO","message":"before","port":8080}"#,
                r#"{"level":"INFO","route":"/jobs","message":"unknown yet"}"#,
                r#"{"level":"WARN","route":"/jobs","job.id":"J1","attempt":2,"message":"failed"}"#,
                r#"{"level":"ERROR","route":"/jobs","job.id":"J2","attempt":2,"message":"of \"another\"\nline","ok":false}"#,
            ]
        );
    }
}
