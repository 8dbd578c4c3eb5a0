//! What is wrong with a definition, and where: one finding about one place.
//!
//! `load_faults`, the parser and the reference resolver all speak in faults; the loader adds the
//! file name and makes them [`LoadError`]s.

use std::{fmt, path::PathBuf};

use crate::error::LoadError;

/// What a fault does to the definition it was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Served; the operator is told.
    Warn,
    /// Not served, as in Tyk (`Spec not valid, skipped!`): no route, but listed by the REST API.
    Skip,
    /// Not served: its route, where readable, answers 404 so that its traffic never falls through
    /// to another API.
    Refuse,
}

/// One finding. Carries no field contents that may be secret: texts are named by their kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub severity: Severity,
    /// 1-based; 0 when the place is not known.
    pub line: u32,
    /// 1-based, in bytes; 0 when the place is not known.
    pub column: u32,
    /// JSON pointer (RFC 6901); empty for the whole document.
    pub pointer: String,
    /// What was found and what was expected.
    pub reason: String,
}

impl Fault {
    /// A refusal about the value at `pointer`; line and column not known.
    pub fn refuse(pointer: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(Severity::Refuse, pointer, reason)
    }

    /// As [`Fault::refuse`], but served all the same.
    pub fn warn(pointer: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(Severity::Warn, pointer, reason)
    }

    /// As [`Fault::refuse`], with any severity.
    pub fn new(severity: Severity, pointer: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            severity,
            line: 0,
            column: 0,
            pointer: pointer.into(),
            reason: reason.into(),
        }
    }

    /// Adds the file name.
    pub fn in_file(self, file: impl Into<PathBuf>) -> LoadError {
        LoadError {
            file: file.into(),
            line: self.line,
            column: self.column,
            pointer: self.pointer,
            reason: self.reason,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.pointer)?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Fault {}

/// Appends one reference token to a pointer (RFC 6901 §3: `~` as `~0`, `/` as `~1`).
pub(crate) fn push_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    for c in token.chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            c => pointer.push(c),
        }
    }
}
