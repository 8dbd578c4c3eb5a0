//! `override_messages`: other statuses and texts for refusals.

use crate::config::field::section;

section! {
    /// One refusal: 0 and an empty text leave Tyk's.
    pub struct MessageOverride {
        message: String => MESSAGE,
        code: i64 => CODE,
    }
}
