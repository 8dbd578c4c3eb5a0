//! `completions`: a script that lets a shell complete our arguments.

use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArguments {
    shell: clap_complete::Shell,
}

pub(super) fn run(name: &'static str, arguments: &CompletionsArguments) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut super::command(name),
        name,
        &mut script,
    );
    super::print(&script)
}
