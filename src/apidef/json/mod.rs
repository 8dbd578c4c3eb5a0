//! JSON read by Go's rules, with the place of every fault.
//!
//! Tyk's files were written against Go's `encoding/json`: keys match a field whatever their case,
//! `null` is the zero value, unknown fields are ignored, a repeated key wins or is merged, and a
//! number with a fraction is no integer. serde_json differs in each of these (and takes an array
//! for a struct), so a document is first parsed into a flat list of nodes (`parse`), from which
//! serde types are read by those rules (`decode`).
//!
//! Cost: one pass over the text and one vector per document; texts without escapes are borrowed.

mod decode;
mod parse;
mod print;
mod schema;

use std::fmt;

pub use decode::Member;
pub use parse::Document;
pub use print::{go_number, to_go_string, to_go_string_pretty};
pub use schema::{SchemaError, Schemas};

use super::fault::push_token;

/// Deepest nesting of arrays and objects in a document.
pub const DEPTH_MAX: usize = 128;
/// Largest document.
pub const DOCUMENT_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Why a document could not be read. Never quotes a text of the document: it may be a secret.
#[derive(Debug)]
pub struct JsonError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    /// Byte position in the document, when known.
    offset: Option<usize>,
    /// Keys and indices from the inside out.
    path: Vec<String>,
    reason: String,
}

impl JsonError {
    fn new(offset: Option<usize>, reason: String) -> Self {
        Self(Box::new(Inner {
            offset,
            path: Vec::new(),
            reason,
        }))
    }

    /// Sets the place unless something further inside has done so.
    fn or_at(mut self, offset: usize) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    fn within(mut self, token: impl Into<String>) -> Self {
        self.0.path.push(token.into());
        self
    }

    /// Byte position in the document; its start when the place is not known.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.0.offset.unwrap_or_default()
    }

    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// JSON pointer (RFC 6901) of the value at fault.
    #[must_use]
    pub fn pointer(&self) -> String {
        let mut pointer = String::new();
        for token in self.0.path.iter().rev() {
            push_token(&mut pointer, token);
        }
        pointer
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pointer(), self.0.reason)
    }
}

impl std::error::Error for JsonError {}

/// Line and column of a byte, both 1-based, the column in bytes.
#[must_use]
pub fn line_and_column(bytes: &[u8], offset: usize) -> (u32, u32) {
    let before = bytes.get(..offset).unwrap_or(bytes);
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    let start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
    let column = before.len() - start + 1;
    (clamp(line), clamp(column))
}

fn clamp(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
