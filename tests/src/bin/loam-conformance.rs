//! `loam-conformance`: runs the tests of the conformance matrix, prints it and writes docs/conformance.md.
//!
//! With `--check` nothing is run and nothing is written: it fails when the matrix has a fault or the page is not the one it makes.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use loam_tests::conformance::{self, Matrix, Outcomes, PAGE};

#[derive(Debug, Parser)]
struct Arguments {
    /// Run no test, write nothing; only see whether the matrix is whole and docs/conformance.md up to date
    #[arg(long)]
    check: bool,
    /// Features the tests are built with
    #[arg(long, value_name = "FEATURES", conflicts_with = "check")]
    features: Option<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loam-conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True when everything is as it should be.
fn run(arguments: &Arguments) -> Result<bool> {
    let root = conformance::root();
    let matrix = Matrix::read(&root)?;
    let mut faults = matrix.faults();
    if arguments.check {
        if !matrix.page_is_up_to_date(&root, &Outcomes::Assumed)? {
            faults.push(format!("{PAGE} is not what the matrix makes; run `make conformance`"));
        }
    } else {
        let outcomes = conformance::run(&root, &matrix, arguments.features.as_deref())?;
        let path = root.join(PAGE);
        std::fs::write(&path, matrix.page(&outcomes)).with_context(|| path.display().to_string())?;
        #[allow(clippy::print_stdout, reason = "the matrix is what the program is for")]
        {
            println!("{}", matrix.table(&outcomes));
        }
        eprintln!("written to {PAGE}");
        let red = matrix.red(&outcomes).len();
        if red > 0 {
            faults.push(format!("{red} rows are red"));
        }
    }
    for fault in &faults {
        eprintln!("loam-conformance: {fault}");
    }
    Ok(faults.is_empty())
}
