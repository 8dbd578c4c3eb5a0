//! `oas_config`: how strictly OpenAPI documents are read.

use crate::config::field::section;

section! {
    /// `oas_config`.
    pub struct OasConfig {
        validate_examples: bool => VALIDATEEXAMPLES,
        validate_schema_defaults: bool => VALIDATESCHEMADEFAULTS,
    }
}
