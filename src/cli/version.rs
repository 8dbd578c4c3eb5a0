//! `version`: what this build is, in Tyk's two forms (`internal/build`, `cli/version`).

use std::process::ExitCode;

use serde_json::json;

/// As `--version` prints it.
pub(super) const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));
const BUILT_BY: &str = match option_env!("PENSTOCK_BUILT_BY") {
    Some(text) => text,
    None => "source",
};
const BUILD_DATE: &str = match option_env!("PENSTOCK_BUILD_DATE") {
    Some(text) => text,
    None => "",
};
const COMMIT: &str = match option_env!("PENSTOCK_COMMIT") {
    Some(text) => text,
    None => "",
};
/// Stands where Tyk shows its Go version.
const COMPILER: &str = concat!("rust", env!("CARGO_PKG_RUST_VERSION"));

#[derive(Debug, clap::Args)]
pub(super) struct VersionArguments {
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &VersionArguments) -> ExitCode {
    super::print(render(arguments.json).as_bytes())
}

fn render(as_json: bool) -> String {
    let (os, arch) = platform();
    if as_json {
        let value = json!({
            "Version": VERSION,
            "BuiltBy": BUILT_BY,
            "BuildDate": BUILD_DATE,
            "Commit": COMMIT,
            "Go": {"Os": os, "Arch": arch, "Version": COMPILER},
        });
        return indented(&value);
    }
    format!(
        "Release version: {VERSION}\n\
         Built by:        {BUILT_BY}\n\
         Build date:      {BUILD_DATE}\n\
         Commit:          {COMMIT}\n\
         Go version:      {COMPILER}\n\
         OS/Arch:         {os}/{arch}\n\n"
    )
}

/// Go's names.
fn platform() -> (&'static str, &'static str) {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    (std::env::consts::OS, arch)
}

/// JSON with Tyk's four spaces.
fn indented(value: &serde_json::Value) -> String {
    let text = format!("{value:#}\n");
    let line = |line: &str| {
        let depth = line.len() - line.trim_start_matches(' ').len();
        format!("{}{line}\n", " ".repeat(depth))
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_lines_of_tyk() {
        let text = render(false);
        let names: Vec<&str> = text
            .lines()
            .map(|line| line.split(':').next().unwrap_or(""))
            .collect();
        let expected = [
            "Release version",
            "Built by",
            "Build date",
            "Commit",
            "Go version",
            "OS/Arch",
            "",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn json_has_the_keys_and_indentation_of_tyk() {
        let text = render(true);
        assert!(text.starts_with("{\n    \"Version\": \"v"), "{text}");
        assert!(text.contains("\n    \"Go\": {\n        \"Os\": "), "{text}");
        assert!(text.ends_with("\n    }\n}\n"), "{text}");
    }
}
