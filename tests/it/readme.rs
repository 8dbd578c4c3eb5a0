//! What README promises: the first command serves, and what it prints to try works.
//!
//! `quickstart` prints, for each thing to try, a line that starts with `curl ` and below it a line
//! `# → <text>`; the command must succeed and its output must contain the text.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use crate::harness::{PATIENCE, TempDir, built_binary};

/// A process that goes when the test does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let line = format!("kill -s KILL -- -{}", self.0.id());
        let _ = Command::new("sh").args(["-c", &line]).status();
        let _ = self.0.wait();
    }
}

/// The pairs of a command to try and the text it must show, in what quickstart printed.
fn to_try(printed: &[String]) -> Vec<(String, String)> {
    let lines: Vec<&str> = printed.iter().map(|l| l.trim()).collect();
    let mut found = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        if line.starts_with("curl ") {
            let answer = lines.get(n + 1).and_then(|l| l.strip_prefix("# → "));
            let answer = answer.unwrap_or_else(|| panic!("no `# → ` line below `{line}`"));
            found.push(((*line).to_owned(), answer.trim().to_owned()));
        }
    }
    found
}

#[test]
fn quickstart_prints_lines_that_work() {
    let folder = TempDir::new("quickstart");
    let mut child = Command::new(built_binary())
        .arg("quickstart")
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(folder.path().join("log")).expect("our own folder"))
        .process_group(0)
        .spawn()
        .expect("the built binary starts");
    let out = child.stdout.take().expect("a pipe");
    let running = Running(child);
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    // Everything is printed at once; the last line of it is the text of the last thing to try.
    let mut printed = Vec::new();
    let wanted = 3;
    while printed
        .iter()
        .filter(|l: &&String| l.trim().starts_with("# → "))
        .count()
        < wanted
    {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => printed.push(line),
            Err(_) => break,
        }
    }
    let commands = to_try(&printed);
    let log = || fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    assert!(
        commands.len() >= wanted,
        "printed: {printed:#?}\nlog: {}",
        log()
    );
    for (command, text) in commands {
        let done = Command::new("sh")
            .args(["-c", &command])
            .output()
            .expect("sh is there");
        let shown = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(
            done.status.success(),
            "{command}: {}\nlog: {}",
            done.status,
            log()
        );
        assert!(
            shown.contains(&text),
            "{command}\nshows {shown}\nand not {text}"
        );
    }
    drop(running);
}

/// README's two commands are these, word for word.
#[test]
fn readme_names_the_two_commands() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("README.md is there");
    for command in ["cargo run --release -- quickstart", "tests/run"] {
        assert!(
            readme.contains(command),
            "README.md does not name `{command}`"
        );
    }
    let ci = fs::read_to_string(root.join(".ci/run")).expect(".ci/run is there");
    assert!(
        ci.contains("tests/run"),
        ".ci/run does not run README's test command"
    );
}
