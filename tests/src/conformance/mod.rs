//! The conformance matrix: what LoRaWAN and loam's own promises ask for, row by row, and the tests that prove it.
//!
//! The rows stand in `tests/conformance.csv`. A test names the rows it proves in its doc comment, for example `/// FCNT-009`.
//! [`Matrix`] brings both together and `docs/conformance.md` shows it.

mod page;
mod row;
mod run;
mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

pub use row::{Coverage, Row, Severity};
pub use run::{Outcomes, run};
pub use scan::Proof;

/// Where the page is, from the root of the repository.
pub const PAGE: &str = "docs/conformance.md";
const ROWS: &str = "tests/conformance.csv";

/// The rows with the tests that name them.
#[derive(Debug)]
pub struct Matrix {
    /// In the order of the file.
    pub rows: Vec<Row>,
    /// Every test that names a row, by file and name.
    pub proofs: Vec<Proof>,
}

/// What is known of a row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    /// Its tests pass.
    Green,
    /// loam does not have it. Tests that name it prove a part, or what is there instead.
    NotBuilt,
    /// A test fails, or there is none.
    Red {
        /// Why.
        reason: String,
    },
}

impl Matrix {
    /// Reads the rows and the sources below `root`.
    ///
    /// # Errors
    /// When a file cannot be read, or a row is malformed.
    pub fn read(root: &Path) -> Result<Self> {
        let rows = row::read(&root.join(ROWS))?;
        let areas: BTreeSet<&str> = rows.iter().map(|row| row.area.as_str()).collect();
        let proofs = scan::proofs(root, &areas)?;
        Ok(Self { rows, proofs })
    }

    /// The tests that name a row.
    pub fn proofs_of(&self, id: &str) -> impl Iterator<Item = &Proof> {
        self.proofs.iter().filter(move |proof| proof.rows.contains(id))
    }

    /// What is known of a row when its tests ended so.
    pub fn state(&self, row: &Row, outcomes: &Outcomes) -> State {
        let mut failed = Vec::new();
        let mut count = 0;
        for proof in self.proofs_of(&row.id) {
            count += 1;
            if !outcomes.passed(proof) {
                failed.push(proof.to_string());
            }
        }
        if !failed.is_empty() {
            return State::Red { reason: format!("did not pass: {}", failed.join(", ")) };
        }
        match row.coverage {
            Coverage::NotBuilt => State::NotBuilt,
            Coverage::Covered if count == 0 => State::Red { reason: "no test names it".to_owned() },
            Coverage::Covered => State::Green,
        }
    }

    /// What is wrong with the matrix itself, whatever the tests say.
    pub fn faults(&self) -> Vec<String> {
        let ids: BTreeSet<&str> = self.rows.iter().map(|row| row.id.as_str()).collect();
        let mut faults = Vec::new();
        for proof in &self.proofs {
            for row in proof.rows.iter().filter(|row| !ids.contains(row.as_str())) {
                faults.push(format!("{proof} names {row}, which is not in {ROWS}"));
            }
        }
        for row in &self.rows {
            if row.coverage == Coverage::Covered && self.proofs_of(&row.id).next().is_none() {
                faults.push(format!("{} is covered, and no test names it", row.id));
            }
            if row.coverage == Coverage::NotBuilt && row.note.is_empty() {
                faults.push(format!("{} is not built, and its note does not say what is missing", row.id));
            }
        }
        if ids.len() != self.rows.len() {
            faults.push(format!("an id stands twice in {ROWS}"));
        }
        faults
    }

    /// The page, as it should stand in the repository.
    pub fn page(&self, outcomes: &Outcomes) -> String {
        page::page(self, outcomes)
    }

    /// What a person reads on a terminal: the counts of each area, then every red row in full.
    pub fn table(&self, outcomes: &Outcomes) -> String {
        page::table(self, outcomes)
    }

    /// The red rows.
    pub fn red(&self, outcomes: &Outcomes) -> Vec<&Row> {
        let is_red = |row: &&Row| matches!(self.state(row, outcomes), State::Red { .. });
        self.rows.iter().filter(is_red).collect()
    }

    /// Says whether the page in the repository is the one this matrix makes.
    ///
    /// # Errors
    /// When there is no page.
    pub fn page_is_up_to_date(&self, root: &Path, outcomes: &Outcomes) -> Result<bool> {
        let path = root.join(PAGE);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text == self.page(outcomes))
    }

    /// The names of the tests to run, by the program they are compiled into.
    pub fn tests(&self) -> BTreeMap<&Path, BTreeSet<&str>> {
        let mut tests: BTreeMap<&Path, BTreeSet<&str>> = BTreeMap::new();
        for proof in &self.proofs {
            tests.entry(&proof.program).or_default().insert(&proof.name);
        }
        tests
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}
