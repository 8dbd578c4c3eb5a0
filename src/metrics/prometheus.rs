//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write as _};

use crate::metrics::names::{Kind, Name};

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
            let text = label_value.to_string();
            let text = text
                .replace('\\', r"\\")
                .replace('"', r#"\""#)
                .replace('\n', r"\n");
            let _ = writeln!(self.0, "{}{{{label}=\"{text}\"}} {value}", name.name);
        }
    }

    pub(super) fn finish(self) -> String {
        self.0
    }

    fn announce(&mut self, name: Name) {
        let kind = match name.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(
            self.0,
            "# HELP {0} {1}\n# TYPE {0} {kind}",
            name.name, name.help
        );
    }
}
