//! From a configuration to a serving process.

use std::process::ExitCode;

use crate::config::Loaded;

/// What the command line asks for.
pub struct Options {
    pub config: Loaded,
    /// Starts the built-in origin and prints what to try.
    pub quickstart: bool,
}

/// Serves until a signal ends the process.
#[must_use]
pub fn run(options: Options) -> ExitCode {
    drop(options);
    ExitCode::SUCCESS
}
