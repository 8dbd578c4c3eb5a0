//! What a process tree costs, read from /proc: CPU to the nanosecond, memory, descriptors, threads.

use std::{collections::BTreeMap, fs, io, time::Duration};

/// A process and its descendants at one moment, such as nginx's master and worker.
#[derive(Clone, Debug)]
pub struct Tree {
    pids: Vec<i32>,
}

/// Memory of a tree in bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Memory {
    pub rss: u64,
    /// Proportional set size: pages shared between the processes of the tree count once.
    pub pss: u64,
    /// Largest resident size so far, summed over the tree.
    pub peak: u64,
}

impl Tree {
    /// The tree below `root` as it stands now.
    pub fn of(root: i32) -> Self {
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for pid in numbered_entries("/proc") {
            if let Some(parent) = stat_field(pid, 4) {
                children.entry(parent as i32).or_default().push(pid);
            }
        }
        let mut pids = vec![root];
        let mut at = 0;
        while let Some(pid) = pids.get(at) {
            if let Some(below) = children.get(pid) {
                pids.extend(below);
            }
            at += 1;
        }
        Self { pids }
    }

    pub fn pids(&self) -> &[i32] {
        &self.pids
    }

    /// CPU nanoseconds of all threads alive now. A thread that ended takes its share with it.
    pub fn cpu_ns(&self) -> u64 {
        self.pids
            .iter()
            .flat_map(|pid| {
                let tasks = format!("/proc/{pid}/task");
                numbered_entries(&tasks)
                    .into_iter()
                    .map(move |task| format!("{tasks}/{task}/schedstat"))
            })
            .filter_map(|path| {
                let text = fs::read_to_string(path).ok()?;
                text.split(' ').next()?.parse::<u64>().ok()
            })
            .sum()
    }

    pub fn memory(&self) -> Memory {
        let mut sum = Memory::default();
        for pid in &self.pids {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
            let status = fs::read_to_string(format!("/proc/{pid}/status"));
            let rollup = rollup.unwrap_or_default();
            let status = status.unwrap_or_default();
            sum.rss += kilobytes(&status, "VmRSS:") * 1024;
            sum.pss += kilobytes(&rollup, "Pss:") * 1024;
            sum.peak += kilobytes(&status, "VmHWM:") * 1024;
        }
        sum
    }

    /// Forgets the peak so far; [`Memory::peak`] then counts from now.
    pub fn reset_peak(&self) {
        for pid in &self.pids {
            // Only a finer reading is lost when the kernel refuses.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }

    pub fn descriptors(&self) -> usize {
        self.pids
            .iter()
            .map(|pid| numbered_entries(&format!("/proc/{pid}/fd")).len())
            .sum()
    }

    pub fn threads(&self) -> usize {
        self.pids
            .iter()
            .map(|pid| numbered_entries(&format!("/proc/{pid}/task")).len())
            .sum()
    }
}

/// Whether a process exists and is not a zombie.
pub fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|text| text.rsplit_once(')').map(|(_, rest)| rest.to_owned()))
        .is_some_and(|rest| !rest.trim_start().starts_with('Z'))
}

/// Time all cores spent working (not idle, not waiting for a disk) and stolen, since boot.
#[derive(Clone, Copy, Debug)]
pub struct MachineCpu {
    pub busy: Duration,
    pub stolen: Duration,
}

/// Reads /proc/stat; its resolution is 10 ms per core.
pub fn machine_cpu() -> io::Result<MachineCpu> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .skip(1)
        .map(|t| t.parse().unwrap_or(0))
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else {
        return Err(io::Error::other("/proc/stat has an unknown form"));
    };
    let ms = |ticks: u64| Duration::from_millis(ticks * 10);
    Ok(MachineCpu {
        busy: ms(user + nice + system + irq + softirq),
        stolen: ms(steal),
    })
}

/// The 1-minute load average.
pub fn load_average() -> f64 {
    fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or(0.0)
}

fn numbered_entries(folder: &str) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Field of /proc/PID/stat by its number in proc(5), counted from 1; the command's name is skipped safely.
fn stat_field(pid: i32, number: usize) -> Option<i64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind_name) = text.rsplit_once(')')?;
    let value = behind_name.split_ascii_whitespace().nth(number - 3)?;
    value.parse().ok()
}

fn kilobytes(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_holds_its_root_and_children_and_costs_something() {
        let mut child = std::process::Command::new("sleep")
            .arg("30")
            .spawn()
            .unwrap();
        let tree = Tree::of(std::process::id() as i32);
        assert!(tree.pids().contains(&(child.id() as i32)));
        assert!(is_alive(child.id() as i32));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(child.id() as i32));
        assert!(tree.cpu_ns() > 0);
        let memory = tree.memory();
        assert!(memory.rss > 0 && memory.pss > 0 && memory.peak >= memory.rss);
        assert!(tree.descriptors() > 2 && tree.threads() > 0);
    }
}
