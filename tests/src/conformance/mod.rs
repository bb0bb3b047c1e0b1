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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, coverage: Coverage, note: &str) -> Row {
        Row {
            id: id.to_owned(),
            area: "ACK".to_owned(),
            spec: "TS001-1.0.4".to_owned(),
            section: "4.3".to_owned(),
            requirement: "one | other <x>".to_owned(),
            how_to_test: "try".to_owned(),
            severity: Severity::High,
            coverage,
            note: note.to_owned(),
        }
    }

    fn proof(name: &str, ids: &[&str]) -> Proof {
        Proof {
            file: "mac/tests/a.rs".into(),
            name: name.to_owned(),
            program: "mac/tests/a.rs".into(),
            rows: ids.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    fn known(outcomes: &[(&str, bool)]) -> Outcomes {
        let known = |(name, passed): &(&str, bool)| (("mac/tests/a.rs".into(), (*name).to_owned()), *passed);
        Outcomes::Known(outcomes.iter().map(known).collect())
    }

    #[test]
    fn a_row_is_green_when_all_its_tests_pass_and_red_without_any() {
        let matrix = Matrix {
            rows: vec![
                row("ACK-001", Coverage::Covered, ""),
                row("ACK-002", Coverage::NotBuilt, "class C"),
                row("ACK-003", Coverage::Covered, ""),
            ],
            proofs: vec![proof("one", &["ACK-001"]), proof("two", &["ACK-001", "ACK-002"])],
        };
        let states = |outcomes: &Outcomes| -> Vec<State> {
            matrix.rows.iter().map(|row| matrix.state(row, outcomes)).collect()
        };
        let red = |reason: &str| State::Red { reason: reason.to_owned() };
        let nobody = || red("no test names it");
        assert_eq!(states(&Outcomes::Assumed), [State::Green, State::NotBuilt, nobody()]);
        let both = [("one", true), ("two", true)];
        assert_eq!(states(&known(&both)), [State::Green, State::NotBuilt, nobody()]);
        let failed = || red("did not pass: mac/tests/a.rs::two");
        assert_eq!(states(&known(&[("one", true), ("two", false)])), [failed(), failed(), nobody()]);
        assert_eq!(
            states(&known(&[("one", true)])),
            [failed(), failed(), nobody()],
            "what was not run has not passed"
        );

        let page = matrix.page(&known(&both));
        assert!(page.contains(
            "| ACK-001 | one \\| other &lt;x> | high | green | `mac/tests/a.rs::one`<br>`mac/tests/a.rs::two` |"
        ));
        assert!(page.contains("| not built: class C |") && page.contains("| all | 1 | 1 | 1 | 3 |"), "{page}");
        let table = matrix.table(&known(&both));
        assert!(table.contains("red: ACK-003") && !table.contains("red: ACK-001"), "{table}");
    }

    #[test]
    fn a_matrix_that_does_not_hold_together_says_where() {
        let matrix = Matrix {
            rows: vec![
                row("ACK-001", Coverage::Covered, ""),
                row("ACK-002", Coverage::NotBuilt, ""),
                row("ACK-003", Coverage::Covered, ""),
            ],
            proofs: vec![proof("one", &["ACK-001", "ACK-999"])],
        };
        assert_eq!(
            matrix.faults(),
            [
                "mac/tests/a.rs::one names ACK-999, which is not in tests/conformance.csv",
                "ACK-002 is not built, and its note does not say what is missing",
                "ACK-003 is covered, and no test names it",
            ]
        );
    }
}
