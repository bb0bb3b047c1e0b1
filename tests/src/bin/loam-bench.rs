//! `loam-bench`: how much `loam serve` carries on this machine, what it costs, and how far that is from the least possible.
//!
//! The generator runs in this process, on the same machine as the server, and says what it costs itself. All traffic goes to
//! 127.0.0.1; every wait has a deadline; no process is ended that was not started here.

#[path = "../bench/mod.rs"]
mod bench;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Parser as _;

use bench::options::{Arguments, Options};
use bench::report::Report;
use bench::{floor, joins, machine, recovery, shared_addr, sizes, traffic};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("loam-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures what was asked for; true when nothing failed. A target that is not reached is no failure: it is a figure.
fn run() -> Result<bool> {
    let options = Options::new(Arguments::parse())?;
    let mut report = Report::new(machine::describe(), options.quick);
    section(&options, &mut report, &["floor"], |options, report| {
        let (measured, detail) = floor::measure(options)?;
        report.set_floor(measured, detail);
        Ok(())
    });
    section(&options, &mut report, &["uplinks", "latency"], traffic::measure);
    section(&options, &mut report, &["joins"], joins::measure);
    section(&options, &mut report, &["shared"], shared_addr::measure);
    section(&options, &mut report, &["sizes"], sizes::measure);
    section(&options, &mut report, &["recovery"], recovery::measure);
    report.write(&options.json)?;
    #[allow(clippy::print_stdout, reason = "the table is what the program is for")]
    {
        println!("{}", report.table());
    }
    eprintln!("written to {}", options.json.display());
    Ok(report.is_complete())
}

/// Runs a part when one of its names was asked for. One that fails is noted, and the next one runs.
fn section(
    options: &Options,
    report: &mut Report,
    names: &[&str],
    measure: impl FnOnce(&Options, &mut Report) -> Result<()>,
) {
    if !names.iter().any(|name| options.wants(name)) {
        return;
    }
    let name = names.join(", ");
    eprintln!("{name}");
    let result = catch_unwind(AssertUnwindSafe(|| measure(options, report)));
    if let Err(error) = result.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", words_of(panic.as_ref())))) {
        report.fail(&name, &error);
    }
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}
