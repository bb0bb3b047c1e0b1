//! What is measured, how long and with how much.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Parser;

/// Measures `loam serve` on this machine and compares it with the floor of the machine.
#[derive(Debug, Parser)]
#[command(name = "loam-bench")]
pub(crate) struct Arguments {
    /// The server's binary.
    #[arg(long)]
    loam: PathBuf,
    /// Where the figures are written as JSON.
    #[arg(long)]
    json: PathBuf,
    /// A smoke test of about half a minute; its figures say little.
    #[arg(long)]
    quick: bool,
    /// Only these, separated by commas: floor, uplinks, latency, joins, shared, sizes, recovery.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Length of each step.
    #[arg(long)]
    seconds: Option<u32>,
    /// Uplinks a second to try, rising, separated by commas.
    #[arg(long, value_delimiter = ',')]
    rates: Vec<u32>,
    /// Devices of the memory and start-up figures, separated by commas.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<u32>,
}

/// The choices, complete.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) loam: PathBuf,
    pub(crate) json: PathBuf,
    /// Data directories are made here: beside the JSON file, where there is a disk and not a memory file system.
    pub(crate) work_dir: PathBuf,
    pub(crate) quick: bool,
    only: Vec<String>,
    pub(crate) seconds: u32,
    pub(crate) rates: Vec<u32>,
    /// The rate whose figures are compared with the targets.
    pub(crate) target_rate: u32,
    pub(crate) latency_rate: u32,
    pub(crate) devices: u32,
    pub(crate) join_rate: u32,
    pub(crate) shared_devices: u32,
    pub(crate) shared_rate: u32,
    pub(crate) sizes: Vec<u32>,
    pub(crate) recovery_devices: u32,
    pub(crate) recovery_rate: u32,
    pub(crate) kills: u32,
}

/// What `--only` may name.
pub(crate) const FIGURES: [&str; 7] = ["floor", "uplinks", "latency", "joins", "shared", "sizes", "recovery"];

impl Options {
    /// Fills in what was not said.
    pub(crate) fn new(arguments: Arguments) -> Result<Self> {
        for name in &arguments.only {
            if !FIGURES.contains(&name.as_str()) {
                bail!("--only does not know {name:?}; it knows {}", FIGURES.join(", "));
            }
        }
        let loam = arguments.loam.canonicalize().with_context(|| {
            format!("{} is not there: build it with `cargo build --release -p cli`", arguments.loam.display())
        })?;
        let json = std::path::absolute(&arguments.json).context("the path of --json")?;
        let work_dir = json.parent().context("--json names a file")?.to_owned();
        std::fs::create_dir_all(&work_dir).with_context(|| format!("cannot make {}", work_dir.display()))?;
        let quick = arguments.quick;
        let choose = |full: u32, short: u32| if quick { short } else { full };
        let or = |given: Vec<u32>, full: &[u32], short: &[u32]| match (given.is_empty(), quick) {
            (false, _) => given,
            (true, false) => full.to_vec(),
            (true, true) => short.to_vec(),
        };
        Ok(Self {
            loam,
            json,
            work_dir,
            quick,
            only: arguments.only,
            seconds: arguments.seconds.unwrap_or_else(|| choose(10, 2)).max(1),
            rates: or(arguments.rates, &[4_000, 8_000, 10_000, 12_000, 16_000], &[500, 1_000]),
            target_rate: choose(10_000, 1_000),
            latency_rate: choose(5_000, 500),
            devices: choose(10_000, 1_000),
            join_rate: choose(2_000, 200),
            shared_devices: choose(500, 100),
            shared_rate: choose(2_000, 300),
            sizes: or(arguments.sizes, &[1_000, 100_000, 1_000_000], &[1_000]),
            recovery_devices: choose(100_000, 1_000),
            recovery_rate: choose(1_000, 200),
            kills: choose(30, 3),
        })
    }

    /// Whether a figure was asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|asked| asked == name)
    }
}
