//! `loam-sim`: runs schedules of the simulated world, shows one as a story, and proves that planted bugs are found.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people")]

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::{Parser, Subcommand};
use world::schedule::Schedule;
use world::{Outcome, States, Words};

#[derive(Parser)]
#[command(about = "Runs the whole server in worlds that a seed decides")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the schedules of many seeds and fails when one breaks a promise or a state was never reached.
    Run {
        /// Seeds, the second one not included.
        #[arg(long, value_parser = seeds, default_value = "0..1000")]
        seeds: Range<u64>,
        /// Worlds at a time; the default is one for each processor.
        #[arg(long)]
        jobs: Option<usize>,
        /// Does not fail because of states that were not reached: for few seeds.
        #[arg(long)]
        any_states: bool,
        /// Tells every seed that breaks a promise in one line, and shrinks none.
        #[arg(long)]
        keep_going: bool,
    },
    /// Tells one seed's schedule as a story.
    Show {
        /// The seed.
        seed: u64,
        /// Cuts the schedule down to what its failure needs.
        #[arg(long)]
        shrink: bool,
    },
    /// Plants each bug in turn and runs schedules until it is found.
    #[cfg(feature = "planted")]
    Bugs {
        /// A bug not found after so many schedules is a hole in the world.
        #[arg(long, default_value_t = 50_000)]
        schedules: u64,
        /// Only this one.
        #[arg(long)]
        only: Option<String>,
        /// Worlds at a time.
        #[arg(long)]
        jobs: Option<usize>,
    },
}

fn main() -> ExitCode {
    let Args { command } = Args::parse();
    if std::env::var_os("LOAM_LOG").is_some() {
        tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_env("LOAM_LOG")).init();
    }
    match command {
        Command::Run { seeds, jobs, any_states, keep_going } => {
            let report = if keep_going { Report::Each } else { Report::Loud };
            run(seeds, jobs.unwrap_or_else(processors), any_states, report)
        }
        Command::Show { seed, shrink } => show(seed, shrink),
        #[cfg(feature = "planted")]
        Command::Bugs { schedules, only, jobs } => {
            bugs(schedules, only.as_deref(), jobs.unwrap_or_else(processors))
        }
    }
}

fn run(seeds: Range<u64>, jobs: usize, any_states: bool, report: Report) -> ExitCode {
    println!("seeds {}..{}, {jobs} worlds at a time", seeds.start, seeds.end);
    let started = Instant::now();
    let found = search(seeds.clone(), jobs, report, |seed| {
        let schedule = Schedule::from_seed(seed);
        let outcome = world::run(&schedule, Words::HashOnly);
        // One in so many is run twice: the same seed has to give the same trace.
        if seed % TWICE_EACH == 0 {
            let again = world::run(&schedule, Words::HashOnly);
            assert_eq!(again.trace_hash, outcome.trace_hash, "seed {seed} gives two traces");
        }
        outcome
    });
    let seconds = started.elapsed().as_secs_f64();
    let count = found.schedules;
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let rate = count as f64 / seconds;
    println!("{count} schedules in {seconds:.0} s: {rate:.0} a second; {} records committed", found.records);
    if let Some((seed, outcome)) = found.failure {
        if report == Report::Loud {
            tell_failure(seed, &outcome);
        }
        return ExitCode::FAILURE;
    }
    println!("no promise was broken");
    for (state, count) in found.states.iter() {
        println!("{count:>10}  {}", state.words());
    }
    let unreached = found.states.unreached();
    for state in &unreached {
        println!("NEVER REACHED: {}", state.words());
    }
    if unreached.is_empty() || any_states { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a search over seeds found.
#[derive(Default)]
struct Found {
    schedules: u64,
    records: u64,
    states: States,
    /// The lowest seed that failed.
    failure: Option<(u64, Outcome)>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Report {
    /// Every failure in a line.
    Each,
    /// The first failure as a story.
    Loud,
    #[cfg(feature = "planted")]
    Silent,
}

/// Runs seeds on several threads until one fails; each world stays on its thread.
fn search(seeds: Range<u64>, jobs: usize, report: Report, run: impl Fn(u64) -> Outcome + Sync) -> Found {
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicBool::new(false);
    let found = Mutex::new(Found::default());
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = run(seed);
                    let mut found = found.lock().expect("no holder panics");
                    found.schedules += 1;
                    found.records += outcome.records;
                    found.states.add(&outcome.states);
                    if matches!(report, Report::Each | Report::Loud) && found.schedules.is_multiple_of(1_000) {
                        eprintln!("{} schedules, {} s", found.schedules, started.elapsed().as_secs());
                    }
                    if let (Report::Each, Some(first)) = (report, outcome.violations.first()) {
                        println!("seed {seed}: {:?}: {:.160}", first.invariant, first.detail);
                    }
                    if !outcome.violations.is_empty()
                        && found.failure.as_ref().is_none_or(|(before, _)| seed < *before)
                    {
                        found.failure = Some((seed, outcome));
                        failed.store(report != Report::Each, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    found.into_inner().expect("no holder panics")
}

fn tell_failure(seed: u64, outcome: &Outcome) {
    println!("seed {seed} breaks a promise:");
    tell_violations(outcome);
    let Some(first) = outcome.violations.first() else { return };
    println!("shrinking ...");
    let small = world::shrink(&Schedule::from_seed(seed), first.invariant, SHRINK_RUNS);
    tell_story(&small);
    println!("again: loam-sim show {seed} --shrink");
}

fn tell_violations(outcome: &Outcome) {
    for violation in &outcome.violations {
        println!(
            "  {:?} at {} ms ({}): {}",
            violation.invariant,
            violation.at_ms,
            violation.invariant.words(),
            violation.detail
        );
    }
}

fn tell_story(schedule: &Schedule) {
    println!("{:#?}", schedule.setting);
    for timed in &schedule.actions {
        println!("{:>8} ms  #{} {:?}", timed.at_ms, timed.number, timed.action);
    }
    let outcome = world::run(schedule, Words::Kept);
    println!("{}", outcome.story);
    tell_violations(&outcome);
}

fn show(seed: u64, shrink: bool) -> ExitCode {
    let schedule = Schedule::from_seed(seed);
    let outcome = world::run(&schedule, Words::HashOnly);
    match outcome.violations.first() {
        Some(first) if shrink => tell_story(&world::shrink(&schedule, first.invariant, SHRINK_RUNS)),
        Some(_) | None => tell_story(&schedule),
    }
    if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plants each bug and prints the table of docs/proof.md.
#[cfg(feature = "planted")]
fn bugs(schedules: u64, only: Option<&str>, jobs: usize) -> ExitCode {
    println!("| bug | found after | by |\n|---|---|---|");
    let mut missed = 0;
    for bug in seam::Bug::ALL.iter().filter(|bug| only.is_none_or(|only| bug.name() == only)) {
        let found = search(0..schedules, jobs, Report::Silent, |seed| {
            seam::plant(Some(*bug));
            let outcome = world::run(&Schedule::from_seed(seed), Words::HashOnly);
            seam::plant(None);
            outcome
        });
        match found.failure.as_ref().and_then(|(seed, outcome)| Some((seed, outcome.violations.first()?))) {
            Some((seed, violation)) => {
                println!(
                    "| {} | {} | {:?}: {} |",
                    bug.words(),
                    seed + 1,
                    violation.invariant,
                    violation.invariant.words()
                );
            }
            None => {
                missed += 1;
                println!("| {} | NOT FOUND in {schedules} | |", bug.words());
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("{text} is no range of seeds; write for example 0..20000");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let (from, to) = (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
    if from < to { Ok(from..to) } else { Err(wrong()) }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

const TWICE_EACH: u64 = 50;
const SHRINK_RUNS: usize = 600;
