//! `store`: looks at the embedded store of a gateway that is not running, and repairs it.

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;

use crate::{
    config::{StoreKind, Vars},
    storage::embedded::{self, Content, Inspection, Repaired},
};

#[derive(Debug, clap::Args)]
pub(super) struct StoreArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reads every value of the store and of its copies; status 1 when something is damaged
    Check(Place),
    /// Saves what can be read of a damaged store, else goes back to a copy of it
    Repair(Place),
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Configuration file; else tyk.conf here, else /etc/tyk/tyk.conf
    #[arg(long, short, value_name = "FILE")]
    conf: Option<PathBuf>,
}

pub(super) fn run(name: &str, arguments: &StoreArguments, vars: &Vars) -> ExitCode {
    let (Command::Check(place) | Command::Repair(place)) = &arguments.command;
    let config = match super::start::find_and_load(place.conf.as_deref(), vars) {
        Ok(loaded) => loaded.config,
        Err(why) => return super::fail(name, &why.to_string()),
    };
    if config.storage.store_kind() != Some(StoreKind::Embedded) {
        let kind = &config.storage.kind;
        let why = format!("storage.type is {kind:?}: there is no embedded store to look at");
        return super::fail(name, &why);
    }
    let dir = config.penstock.store_dir(vars);
    match &arguments.command {
        Command::Check(_) => match embedded::check(&dir) {
            Ok(inspections) => tell(&inspections),
            Err(why) => super::fail(name, &why.to_string()),
        },
        Command::Repair(_) => match embedded::repair(&dir) {
            Ok(repaired) => super::print(format!("{}\n", say(&repaired)).as_bytes()),
            Err(why) => super::fail(name, &why.to_string()),
        },
    }
}

fn tell(inspections: &[Inspection]) -> ExitCode {
    let mut text = String::new();
    for Inspection {
        path,
        bytes,
        outcome,
    } in inspections
    {
        let line = match outcome {
            Ok(content) => format!(
                "{}: sound, {bytes} bytes, {}",
                path.display(),
                amount(content)
            ),
            Err(why) => why.clone(),
        };
        text.push_str(&line);
        text.push('\n');
    }
    let told = super::print(text.as_bytes());
    match inspections.iter().all(|one| one.outcome.is_ok()) {
        true => told,
        false => ExitCode::FAILURE,
    }
}

fn say(repaired: &Repaired) -> String {
    match repaired {
        Repaired::Sound(content) => format!("nothing to repair: sound, {}", amount(content)),
        Repaired::Saved { content, lost } => format!(
            "saved {}; {lost} lost; the damaged file is kept beside the store",
            amount(content)
        ),
        Repaired::WentBack { age } => format!(
            "a copy of {} s ago has taken its place; what was written since is lost, and removed \
             keys are back; the damaged file is kept beside the store",
            age.as_secs()
        ),
    }
}

fn amount(content: &Content) -> String {
    format!("{} values, {} lists", content.values, content.lists)
}
