//! `db_app_conf_options`: the Dashboard as a source of API definitions.

use crate::config::field::section;

section! {
    /// `db_app_conf_options`.
    pub struct DbAppConfOptions {
        connection_string: String => CONNECTIONSTRING,
        /// Seconds; 0 means 30.
        connection_timeout: i64 => CONNECTIONTIMEOUT,
        node_is_segmented: bool => NODEISSEGMENTED,
        tags: Vec<String> => TAGS,
    }
}
