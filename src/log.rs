//! Log lines: set-up, the two forms, and a brake for lines that repeat.
//!
//! Fields carry Tyk's names (`prefix`, `api_id`, `api_name`, `org_id`, `mw`, `key`, `path`,
//! `origin`, `user_id`, `user_ip`, `server_name`, `status`, `err`); `prefix` defaults to the module
//! that speaks. Lines go to stderr: for people on a terminal, JSON with Tyk's keys (`level`, `msg`,
//! `time`) elsewhere.

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal as _},
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::{Map, Value};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    filter::Targets,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `12:00:00Z INFO main: text key=value`.
    Human,
    /// One object per line.
    Json,
    /// The same with the keys of Logstash (Tyk: `logrus-logstash-hook`).
    Logstash,
}

impl Form {
    /// The form that `log_format` (or `TYK_LOGFORMAT`) names; else by whether stderr is a terminal.
    #[must_use]
    pub fn choose(configured: &str) -> Self {
        match configured {
            "json" => Self::Json,
            "text" | "default" => Self::Human,
            _ if std::io::stderr().is_terminal() => Self::Human,
            _ => Self::Json,
        }
    }
}

/// The level that counts: `TYK_LOGLEVEL` where it is set (words it does not know are `info`, as in
/// Tyk), else `log_level`, else `info`.
#[must_use]
pub fn choose_level(configured: &str, variable: Option<&str>) -> Level {
    let known = |word: &str| match word.to_ascii_lowercase().as_str() {
        word @ ("error" | "warn" | "debug") => Level::from_str(word).unwrap_or(Level::INFO),
        _ => Level::INFO,
    };
    known(
        variable
            .filter(|word| !word.is_empty())
            .unwrap_or(configured),
    )
}

/// Gets every line beside stderr, with its level. Called by whoever logs: it must not wait.
pub type Hook = Box<dyn Fn(Level, &str) + Send + Sync>;

/// Sends the log lines of this process to stderr, and to whoever listens in, such as a syslog
/// daemon, in a form of its own. The first call counts.
pub fn start(level: Level, form: Form, hooks: Vec<(Form, Hook)>) {
    // What libraries have to say is only of interest when something is wrong.
    let targets = Targets::new()
        .with_default(Level::WARN.min(level))
        .with_target("penstock", level);
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Lines(form))
        .with_writer(std::io::stderr);
    let hooked = hooks.into_iter().map(|(form, hook)| {
        tracing_subscriber::fmt::layer()
            .event_format(Lines(form))
            .with_ansi(false)
            .with_writer(Hooked(hook))
    });
    let hooked: Vec<_> = hooked.collect();
    // A list of no layers would let nothing through to the others.
    let hooked = (!hooked.is_empty()).then_some(hooked);
    // An error says that lines already go somewhere: that is fine.
    let _ = tracing_subscriber::registry()
        .with(targets)
        .with(lines)
        .with(hooked)
        .try_init();
}

/// Somewhere else for log lines to go, whatever the level of the process: an object per line. Counts
/// where it is made the default of a thread.
#[must_use]
pub fn capture(hook: Hook) -> tracing::Dispatch {
    let targets = Targets::new()
        .with_default(Level::WARN)
        .with_target("penstock", Level::DEBUG);
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Lines(Form::Json))
        .with_ansi(false)
        .with_writer(Hooked(hook));
    tracing_subscriber::registry()
        .with(targets)
        .with(lines)
        .into()
}

struct Hooked(Hook);

/// Passes a line on to a hook. A line comes in one piece.
struct HookWriter<'a>(&'a Hook, Level);

impl<'a> MakeWriter<'a> for Hooked {
    type Writer = HookWriter<'a>;

    fn make_writer(&'a self) -> HookWriter<'a> {
        HookWriter(&self.0, Level::INFO)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> HookWriter<'a> {
        HookWriter(&self.0, *metadata.level())
    }
}

impl io::Write for HookWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        (self.0)(self.1, &String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Lines(Form);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let metadata = event.metadata();
        let message = fields.0.shift_remove("message").unwrap_or_default();
        let prefix = fields
            .0
            .shift_remove("prefix")
            .unwrap_or_else(|| module_prefix(metadata.target()).into());
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        match self.0 {
            Form::Human => {
                write!(writer, "{time} {:>5} ", metadata.level().as_str())?;
                write!(writer, "{}: {}", Shown(&prefix), Printable(&message))?;
                for (name, value) in &fields.0 {
                    write!(writer, " {name}={}", Shown(value))?;
                }
                writeln!(writer)
            }
            Form::Json | Form::Logstash => {
                let mut line = Map::new();
                let level = metadata.level().as_str().to_ascii_lowercase();
                // Tyk's logrus says "warning".
                let level = if level == "warn" {
                    "warning".to_owned()
                } else {
                    level
                };
                let (message_key, time_key) = match self.0 {
                    Form::Logstash => ("message", "@timestamp"),
                    _ => ("msg", "time"),
                };
                line.insert("level".to_owned(), level.into());
                line.insert(message_key.to_owned(), message);
                line.insert("prefix".to_owned(), prefix);
                line.insert(time_key.to_owned(), time.into());
                if self.0 == Form::Logstash {
                    line.insert("@version".to_owned(), "1".into());
                    line.insert("type".to_owned(), "tyk-gateway".into());
                }
                line.extend(fields.0);
                writeln!(writer, "{}", Value::Object(line))
            }
        }
    }
}

/// `gateway` for `penstock::gateway::reload`, `main` for the crate itself.
fn module_prefix(target: &str) -> &str {
    let mut parts = target.split("::");
    match (parts.next(), parts.next()) {
        (Some("penstock"), None) => "main",
        (Some("penstock"), Some(module)) => module,
        _ => target,
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

/// A value as one word: quoted where it would read as several, or could fake a line.
struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '=');
        match self.0 {
            Value::String(text) if text.is_empty() || text.contains(odd) => write!(f, "{text:?}"),
            Value::String(text) => f.write_str(text),
            other => write!(f, "{other}"),
        }
    }
}

/// A text with its control characters escaped.
struct Printable<'a>(&'a Value);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.as_str().unwrap_or_default().chars() {
            match c.is_control() {
                true => write!(f, "{}", c.escape_default())?,
                false => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Lets one line of a kind through per interval and counts the others. One `static` per line.
#[derive(Debug)]
pub struct Brake {
    interval_ms: u64,
    next_at_ms: AtomicU64,
    held_count: AtomicU64,
}

impl Brake {
    #[must_use]
    pub const fn new(interval_ms: u64) -> Self {
        Self {
            interval_ms,
            next_at_ms: AtomicU64::new(0),
            held_count: AtomicU64::new(0),
        }
    }

    /// How many lines were held back since the last one, when this one may be written. `now_ms` is
    /// any clock that does not go back.
    pub fn admit(&self, now_ms: u64) -> Option<u64> {
        let next = self.next_at_ms.load(Ordering::Relaxed);
        let after = now_ms.saturating_add(self.interval_ms);
        let ours = now_ms >= next
            && self
                .next_at_ms
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if ours {
            return Some(self.held_count.swap(0, Ordering::Relaxed));
        }
        self.held_count.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(form: Form, speak: impl FnOnce()) -> String {
        let sink = Sink::default();
        let out = sink.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Lines(form))
            .with_writer(move || out.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, speak);
        let kept = sink.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(kept.clone()).expect("UTF-8")
    }

    #[test]
    fn json_lines_have_the_keys_of_tyk() {
        let text = lines(Form::Json, || {
            tracing::warn!(
                prefix = "api",
                api_id = "a1",
                status = 499,
                ok = true,
                "loaded {}",
                3
            );
        });
        let line: Value = serde_json::from_str(&text).expect("one JSON line");
        assert_eq!(line["level"], "warning");
        assert_eq!(line["msg"], "loaded 3");
        assert_eq!(line["prefix"], "api");
        assert_eq!(line["api_id"], "a1");
        assert_eq!(line["status"], 499);
        assert_eq!(line["ok"], true);
        assert!(
            line["time"]
                .as_str()
                .is_some_and(|time| time.ends_with('Z'))
        );
    }

    #[test]
    fn lines_for_logstash_have_its_keys() {
        let text = lines(Form::Logstash, || {
            tracing::info!(prefix = "main", api_id = "a1", "up");
        });
        let line: Value = serde_json::from_str(&text).expect("one JSON line");
        assert_eq!(line["message"], "up");
        assert_eq!(line["@version"], "1");
        assert_eq!(line["type"], "tyk-gateway");
        assert_eq!(line["api_id"], "a1");
        assert!(line["@timestamp"].is_string() && line["msg"].is_null());
    }

    #[test]
    fn human_lines_cannot_be_faked_by_what_they_quote() {
        let text = lines(Form::Human, || {
            let path = "/x\n2026 ERROR main: all lost";
            tracing::info!(path, key = %"a b", "asked\nfor");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.ends_with(
            " INFO log: asked\\nfor path=\"/x\\n2026 ERROR main: all lost\" key=\"a b\"\n"
        ));
    }

    #[test]
    fn a_hook_gets_each_line_with_its_level() {
        let heard: Arc<Mutex<Vec<(Level, String)>>> = Arc::default();
        let ears = Arc::clone(&heard);
        let hook: Hook = Box::new(move |level, line| {
            ears.lock().unwrap().push((level, line.to_owned()));
        });
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Lines(Form::Human))
            .with_writer(Hooked(hook));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(prefix = "main", "one");
            tracing::error!(prefix = "main", "two");
        });
        let heard = heard.lock().unwrap();
        assert_eq!(heard.len(), 2);
        assert!(heard[0].0 == Level::WARN && heard[0].1.ends_with("main: one\n"));
        assert!(heard[1].0 == Level::ERROR && heard[1].1.ends_with("main: two\n"));
    }

    #[test]
    fn the_variable_wins_over_the_configured_level() {
        assert_eq!(choose_level("", None), Level::INFO);
        assert_eq!(choose_level("debug", None), Level::DEBUG);
        assert_eq!(choose_level("debug", Some("")), Level::DEBUG);
        assert_eq!(choose_level("debug", Some("ERROR")), Level::ERROR);
        assert_eq!(choose_level("debug", Some("bogus")), Level::INFO);
    }

    #[test]
    fn a_brake_lets_one_line_through_and_counts_the_rest() {
        let brake = Brake::new(1000);
        assert_eq!(brake.admit(5), Some(0));
        assert_eq!(brake.admit(1004), None);
        assert_eq!(brake.admit(1004), None);
        assert_eq!(brake.admit(1005), Some(2));
        assert_eq!(brake.admit(1006), None);
    }
}
