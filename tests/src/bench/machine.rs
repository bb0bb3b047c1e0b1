//! The machine, and what processes and threads cost on it. Linux: everything comes from /proc and getrusage.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

/// Cores, processor, kernel, memory, and the commit that is measured.
pub(crate) fn describe() -> Value {
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": field("/proc/cpuinfo", "model name"),
        "kernel": first_line("/proc/sys/kernel/osrelease"),
        "memory": field("/proc/meminfo", "MemTotal"),
        "net_core_rmem_max": first_line("/proc/sys/net/core/rmem_max").and_then(|text| text.parse::<u64>().ok()),
        "commit": commit(),
        "debug_build": cfg!(debug_assertions),
    })
}

fn commit() -> Option<String> {
    let output =
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]).output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn first_line(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned())
}

/// The value of a line `name : value`.
fn field(path: impl AsRef<Path>, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// Processor time a process has used, user and system, in microseconds. The kernel tells it in hundredths of a second.
pub(crate) fn process_cpu_us(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}: has the server ended?"))?;
    // The name stands in brackets and may hold anything; utime and stime are fields 14 and 15 of the whole line.
    let (_, rest) = text.rsplit_once(')').context("a stat line has a name")?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks * US_PER_TICK)
}

/// Resident memory of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident_kib: u64,
    pub(crate) peak_kib: u64,
}

pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let kib = |name| -> Result<u64> {
        let value =
            field(&path, name).with_context(|| format!("{path} has no {name}: has the server ended?"))?;
        value.trim_end_matches("kB").trim().parse().with_context(|| format!("{name} is {value:?}"))
    };
    Ok(Memory { resident_kib: kib("VmRSS")?, peak_kib: kib("VmHWM")? })
}

/// Processor time this thread has used, microseconds.
pub(crate) fn thread_cpu_us() -> u64 {
    used_us(UsageWho::RUSAGE_THREAD)
}

/// Processor time all threads of this process have used, microseconds.
pub(crate) fn own_cpu_us() -> u64 {
    used_us(UsageWho::RUSAGE_SELF)
}

fn used_us(who: UsageWho) -> u64 {
    let Ok(usage) = getrusage(who) else { return 0 };
    let us =
        |time: nix::sys::time::TimeVal| u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0);
    us(usage.user_time()) + us(usage.system_time())
}

/// `USER_HZ` is 100 on every Linux.
const US_PER_TICK: u64 = 10_000;
