//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write as _};

use crate::metrics::{
    histogram::{BOUNDS, Spans},
    names::{Kind, Name},
};

/// Text in the making.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    /// A metric without labels.
    pub(super) fn value(&mut self, name: Name, value: impl Display) {
        self.announce(name);
        let _ = writeln!(self.0, "{} {value}", name.name);
    }

    /// A metric with one label, one sample per value of it.
    pub(super) fn labelled<L: Display, V: Display>(
        &mut self,
        name: Name,
        label: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) {
        self.announce(name);
        for (label_value, value) in samples {
            let text = Escaped(&label_value.to_string()).to_string();
            let _ = writeln!(self.0, "{}{{{label}=\"{text}\"}} {value}", name.name);
        }
    }

    /// A metric with two labels.
    pub(super) fn twice_labelled<A: AsRef<str>, B: AsRef<str>, V: Display>(
        &mut self,
        name: Name,
        labels: [&str; 2],
        samples: impl IntoIterator<Item = (A, B, V)>,
    ) {
        self.announce(name);
        let [one, other] = labels;
        for (a, b, value) in samples {
            let (a, b) = (Escaped(a.as_ref()), Escaped(b.as_ref()));
            let _ = writeln!(
                self.0,
                "{}{{{one}=\"{a}\",{other}=\"{b}\"}} {value}",
                name.name
            );
        }
    }

    /// A histogram of spans, in seconds.
    pub(super) fn histogram(&mut self, name: Name, spans: &Spans) {
        self.announce(name);
        let name = name.name;
        let mut sum = 0;
        let bounds = BOUNDS.iter().map(|(_, bound)| *bound).chain(["+Inf"]);
        for (bound, count) in bounds.zip(spans.counts) {
            sum += count;
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let _ = writeln!(self.0, "{name}_sum {}", Seconds(spans.sum_us));
        let _ = writeln!(self.0, "{name}_count {sum}");
    }

    pub(super) fn finish(self) -> String {
        self.0
    }

    fn announce(&mut self, name: Name) {
        let kind = match name.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(
            self.0,
            "# HELP {0} {1}\n# TYPE {0} {kind}",
            name.name, name.help
        );
    }
}

/// Microseconds in seconds.
pub(super) struct Seconds(pub(super) u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// A label's value.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str(r"\\")?,
                '"' => f.write_str(r#"\""#)?,
                '\n' => f.write_str(r"\n")?,
                _ => f.write_char(c)?,
            }
        }
        Ok(())
    }
}
