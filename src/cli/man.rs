//! `man`: the manual page.

use std::process::ExitCode;

pub(super) fn run(name: &'static str) -> ExitCode {
    let mut page = Vec::new();
    match clap_mangen::Man::new(super::command(name)).render(&mut page) {
        Ok(()) => super::print(&page),
        Err(why) => super::fail(name, &format!("the manual page cannot be rendered: {why}")),
    }
}
