//! The program's command line, run as a process.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

/// Runs the program in an empty folder, with no variable of the gateway set.
fn run(test: &str, arguments: &[&str]) -> (Output, PathBuf) {
    let folder = std::env::temp_dir().join(format!("penstock-cli-{test}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("temporary folder");
    let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .args(arguments)
        .current_dir(&folder)
        .env_clear()
        .output()
        .expect("the program runs");
    (output, folder)
}

#[track_caller]
fn check(test: &str, arguments: &[&str], status: i32, stdout: &str, stderr: &str) {
    let (output, folder) = run(test, arguments);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{out}{err}");
    assert!(out.contains(stdout), "{out}");
    assert!(err.contains(stderr), "{err}");
    assert_eq!(stdout.is_empty(), out.is_empty(), "{out}");
    assert_eq!(stderr.is_empty(), err.is_empty(), "{err}");
    let left: Vec<_> = fs::read_dir(&folder).expect("folder").collect();
    assert!(left.is_empty(), "the command left files: {left:?}");
    fs::remove_dir_all(&folder).expect("clean up");
}

#[test]
fn commands_answer_as_those_of_tyk() {
    let version = concat!("v", env!("CARGO_PKG_VERSION"), "\n");
    check("flag", &["--version"], 0, "", version);
    check("version", &["version"], 0, "Release version: v", "");
    check(
        "json",
        &["version", "--json"],
        0,
        "\n    \"Version\": \"v",
        "",
    );
    check("help", &["--help"], 0, "quickstart", "");
    check("help-of", &["help", "start"], 0, "--conf", "");
    check(
        "bash",
        &["completions", "bash"],
        0,
        "complete -F _penstock",
        "",
    );
    check("man", &["man"], 0, ".TH penstock 1", "");
    let refused = "penstock: error: unexpected bogus, try --help\n";
    check("bogus", &["bogus"], 1, "", refused);
}

#[test]
fn a_missing_configuration_is_named_and_never_created() {
    let remedy = "name the configuration with --conf FILE, or try `penstock quickstart`\n";
    check("none", &[], 1, "", remedy);
    check(
        "named",
        &["--conf", "x.conf"],
        1,
        "",
        "x.conf: no such file",
    );
}

#[test]
fn a_configuration_that_may_not_start_is_refused_with_its_place() {
    let (_, folder) = run("bad", &["version"]);
    let conf = folder.join("tyk.conf");
    let start = |text: &str| {
        fs::write(&conf, text).expect("write");
        let (output, _) = run("bad", &["start"]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let wrong = start("{\n  \"listen_port\": \"x\"\n}");
    assert_eq!(
        wrong,
        "penstock: error: tyk.conf:2:18: /listen_port: found a string, expected a whole number\n"
    );
    let open = start("{\"listen_prt\": 1}");
    assert!(open.contains("did you mean `listen_port`?"), "{open}");
    assert!(
        open.contains("penstock: error: tyk.conf: /secret: is empty"),
        "{open}"
    );
    fs::remove_dir_all(&folder).expect("clean up");
}
