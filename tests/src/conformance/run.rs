//! Runs the tests of the matrix, each program once, and reads what became of each test.
//!
//! Cargo builds the programs and tells where they are; they are started directly, so that nothing but cargo is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Matrix;
use super::scan::{Proof, program_of};

/// What became of the tests.
#[derive(Clone, Debug)]
pub enum Outcomes {
    /// Nothing was run: every test is taken to pass, as `make test` shows.
    Assumed,
    /// By program and name: true when every test of that name passed.
    Known(BTreeMap<(PathBuf, String), bool>),
}

impl Outcomes {
    /// Whether a test passed. One that was not run did not.
    pub fn passed(&self, proof: &Proof) -> bool {
        match self {
            Self::Assumed => true,
            Self::Known(passed) => {
                passed.get(&(proof.program.clone(), proof.name.clone())).copied().unwrap_or(false)
            }
        }
    }
}

/// Builds every test that names a row, with these features, and runs it.
///
/// # Errors
/// When cargo cannot build the tests or one of the programs cannot be started. A test that fails is no error.
pub fn run(root: &Path, matrix: &Matrix, features: Option<&str>) -> Result<Outcomes> {
    let programs = build(root, features)?;
    let mut outcomes = BTreeMap::new();
    for (program, names) in matrix.tests() {
        let started: Vec<&Program> = programs.iter().filter(|built| built.source == program).collect();
        ensure!(!started.is_empty(), "cargo built no tests of {}", program.display());
        for built in started {
            eprintln!("{}: {} names", built.executable.display(), names.len());
            for (name, passed) in built.run(&names)? {
                let of_all = outcomes.entry((program.to_owned(), name)).or_insert(true);
                *of_all &= passed;
            }
        }
    }
    Ok(Outcomes::Known(outcomes))
}

/// A program that cargo built out of tests.
#[derive(Debug)]
struct Program {
    /// As [`program_of`] names it.
    source: PathBuf,
    executable: PathBuf,
    folder: PathBuf,
}

impl Program {
    /// Runs the tests of these names; each is told with whether it passed.
    fn run(&self, names: &BTreeSet<&str>) -> Result<Vec<(String, bool)>> {
        let listed = self.output(["--list", "--format", "terse"])?;
        let wanted: Vec<&str> = listed
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .filter(|path| names.contains(last_name(path)))
            .collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let output = self.output(std::iter::once("--exact").chain(wanted.iter().copied()))?;
        let passed: BTreeSet<&str> = output.lines().filter_map(passed_in).collect();
        let failed: Vec<&str> = wanted.iter().copied().filter(|path| !passed.contains(path)).collect();
        if !failed.is_empty() {
            eprintln!("{output}");
        }
        Ok(wanted.iter().map(|path| (last_name(path).to_owned(), passed.contains(path))).collect())
    }

    fn output<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let output = Command::new(&self.executable)
            .args(arguments)
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| self.executable.display().to_string())?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Lets cargo build all tests and reads from its messages where they are.
fn build(root: &Path, features: Option<&str>) -> Result<Vec<Program>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "--workspace", "--locked", "--lib", "--bins", "--tests", "--no-run"])
        .args(["--message-format", "json-render-diagnostics"])
        .args(features.iter().flat_map(|features| ["--features", features]))
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    if !output.status.success() {
        bail!("the tests do not compile");
    }
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(line).context("cargo writes JSON")?;
        if message["profile"]["test"] == true
            && let Some(executable) = message["executable"].as_str()
            && let Some(source) = message["target"]["src_path"].as_str()
            && let Some(folder) = message["manifest_path"].as_str().and_then(|path| Path::new(path).parent())
        {
            let source = Path::new(source);
            programs.push(Program {
                source: program_of(source.strip_prefix(root).unwrap_or(source)),
                executable: executable.into(),
                folder: folder.to_owned(),
            });
        }
    }
    Ok(programs)
}

/// The test a line of the harness says has passed.
fn passed_in(line: &str) -> Option<&str> {
    let path = line.strip_prefix("test ")?.strip_suffix(" ... ok")?;
    Some(path.strip_suffix(" - should panic").unwrap_or(path))
}

fn last_name(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_test_that_passed_counts_as_passed() {
        assert_eq!(passed_in("test tests::a_key_is_never_shown ... ok"), Some("tests::a_key_is_never_shown"));
        assert_eq!(passed_in("test a ... FAILED"), None);
        assert_eq!(passed_in("test a ... ignored"), None);
        assert_eq!(passed_in("test result: ok. 3 passed"), None);
        let proof = Proof {
            file: "mac/src/keys.rs".into(),
            name: "a".to_owned(),
            program: "mac/src".into(),
            rows: BTreeSet::new(),
        };
        let known = |passed| Outcomes::Known(BTreeMap::from([(("mac/src".into(), "a".to_owned()), passed)]));
        assert!(known(true).passed(&proof) && !known(false).passed(&proof));
        assert!(!Outcomes::Known(BTreeMap::new()).passed(&proof), "a test that was not run");
    }
}
