//! The command line, as Tyk's (`cli/cli.go`): `start` is the default command, so
//! `tyk --conf FILE --port N` starts a gateway.
//!
//! Refusals have Tyk's form, `tyk: error: unexpected bogus, try --help`, and status 1. The program's
//! own name stands in front: `tyk` when called by that name.

mod completions;
mod man;
mod quickstart;
mod start;
mod store;
mod version;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use clap::{
    CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::config::Vars;

/// An API gateway that takes a Tyk Gateway's place.
#[derive(Debug, Parser)]
#[command(
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    disable_version_flag = true
)]
struct Line {
    /// Prints the version and exits
    #[arg(long, global = false)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    start: start::StartArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the gateway (the default command)
    Start(start::StartArguments),
    /// Starts a gateway with nothing but itself: a random secret, one API, a small origin
    Quickstart,
    /// Looks at the embedded store of a gateway that is not running
    Store(store::StoreArguments),
    /// Shows the version of this build
    Version(version::VersionArguments),
    /// Prints a completion script for a shell
    Completions(completions::CompletionsArguments),
    /// Prints the manual page, in roff
    Man,
    /// Shows help of a command
    Help { command: Option<String> },
}

/// Runs the command that the arguments name.
#[must_use]
pub fn run() -> ExitCode {
    // A variable that is not UTF-8 cannot be one of ours.
    let vars = std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
        .collect();
    run_with(std::env::args_os().collect(), &vars)
}

fn run_with(arguments: Vec<OsString>, vars: &Vars) -> ExitCode {
    let name = program_name(arguments.first());
    let arguments = match parse(name, arguments) {
        Ok(arguments) => arguments,
        Err(why) if why.use_stderr() => return fail(name, &format!("{}, try --help", text(&why))),
        Err(why) => return print(why.render().to_string().as_bytes()),
    };
    if arguments.version {
        // Tyk prints it to stderr as well.
        eprintln!("{}", version::VERSION);
        return ExitCode::SUCCESS;
    }
    match arguments.command {
        None => start::run(name, &arguments.start, vars),
        Some(Command::Start(start)) => start::run(name, &start, vars),
        Some(Command::Quickstart) => quickstart::run(name, vars),
        Some(Command::Store(store)) => store::run(name, &store, vars),
        Some(Command::Version(version)) => version::run(&version),
        Some(Command::Completions(completions)) => completions::run(name, &completions),
        Some(Command::Man) => man::run(name),
        Some(Command::Help { command }) => help(name, command.as_deref()),
    }
}

fn program_name(argument: Option<&OsString>) -> &'static str {
    let stem = argument.and_then(|path| Path::new(path).file_stem());
    match stem.and_then(|stem| stem.to_str()) {
        Some(stem) if stem.ends_with("tyk") => "tyk",
        _ => "penstock",
    }
}

fn command(name: &'static str) -> clap::Command {
    Line::command().name(name).bin_name(name)
}

fn parse(name: &'static str, arguments: Vec<OsString>) -> Result<Line, clap::Error> {
    let mut matches = command(name).try_get_matches_from(arguments)?;
    Line::from_arg_matches_mut(&mut matches)
}

fn help(name: &'static str, of: Option<&str>) -> ExitCode {
    let mut command = command(name);
    command.build();
    let command = match of {
        None => &mut command,
        Some(of) => match command.find_subcommand_mut(of) {
            Some(command) => command,
            None => return fail(name, &format!("unexpected {of}, try --help")),
        },
    };
    print(command.render_long_help().to_string().as_bytes())
}

/// What is wrong with the arguments, in the words of Tyk's kingpin.
fn text(why: &clap::Error) -> String {
    let context = |kind| match why.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let argument = context(ContextKind::InvalidArg).or(context(ContextKind::InvalidSubcommand));
    match (why.kind(), argument) {
        (ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand, Some(argument)) => {
            let flag = argument.split('=').next().unwrap_or(argument);
            match argument {
                long if long.starts_with("--") => format!("unknown long flag '{flag}'"),
                short if short.starts_with('-') => format!("unknown short flag '{flag}'"),
                word => format!("unexpected {word}"),
            }
        }
        (ErrorKind::InvalidValue, Some(argument))
            if context(ContextKind::InvalidValue) == Some("") =>
        {
            let flag = argument.split(' ').next().unwrap_or(argument);
            format!("expected argument for flag '{flag}'")
        }
        _ => {
            let text = why.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.trim_start_matches("error: ").to_owned()
        }
    }
}

/// One line on stderr, status 1.
fn fail(name: &str, why: &str) -> ExitCode {
    eprintln!("{name}: error: {why}");
    ExitCode::FAILURE
}

/// Writes to stdout; a reader that has gone away is no failure of ours.
fn print(bytes: &[u8]) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Line, String> {
        parse("tyk", line.split_whitespace().map(OsString::from).collect())
            .map_err(|why| text(&why))
    }

    #[test]
    fn arguments_are_well_formed() {
        command("tyk").debug_assert();
    }

    #[track_caller]
    fn starts(line: &str, conf: Option<&str>, port: Option<&str>) {
        let arguments = parsed(line).expect(line);
        let start = match arguments.command {
            None => arguments.start,
            Some(Command::Start(start)) => start,
            other => panic!("{other:?}"),
        };
        assert_eq!(start.conf.as_deref(), conf.map(Path::new), "{line}");
        assert_eq!(start.port.as_deref(), port, "{line}");
    }

    #[test]
    fn start_is_the_default_command() {
        starts("tyk", None, None);
        starts("tyk start", None, None);
        starts("tyk --conf a --port 9000", Some("a"), Some("9000"));
        starts("tyk start --conf=a --port=9000", Some("a"), Some("9000"));
        starts("tyk -c a --debug --httpprofile", Some("a"), None);
        starts(
            "tyk start --memprofile --cpuprofile --blockprofile --mutexprofile --log-instrumentation",
            None,
            None,
        );
        starts("tyk --port nine", None, Some("nine"));
    }

    #[track_caller]
    fn refused(line: &str, expected: &str) {
        assert_eq!(parsed(line).expect_err(line), expected, "{line}");
    }

    #[test]
    fn refusals_have_the_words_of_tyk() {
        refused("tyk bogus", "unexpected bogus");
        refused("tyk start bogus", "unexpected bogus");
        refused("tyk --bogus", "unknown long flag '--bogus'");
        refused("tyk --bogus=1", "unknown long flag '--bogus'");
        refused("tyk version --conf x", "unknown long flag '--conf'");
        refused("tyk -x", "unknown short flag '-x'");
        refused("tyk --conf", "expected argument for flag '--conf'");
        refused(
            "tyk completions",
            "the following required arguments were not provided:",
        );
    }

    #[test]
    fn the_name_is_tyk_when_called_so() {
        let name = |path: &str| program_name(Some(&path.into()));
        assert_eq!(name("/opt/tyk-gateway/tyk"), "tyk");
        assert_eq!(name("tyk"), "tyk");
        assert_eq!(name("target/debug/penstock"), "penstock");
        assert_eq!(program_name(None), "penstock");
    }
}
