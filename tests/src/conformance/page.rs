//! What people read: the page of the repository and the table on the terminal.

use std::fmt::Write as _;

use super::{Coverage, Matrix, Outcomes, Row, Severity, State};

/// The page. It has no dates and no figures that differ from run to run.
pub(super) fn page(matrix: &Matrix, outcomes: &Outcomes) -> String {
    let mut text = HEAD.to_owned();
    text.push_str("\n| severity | green | red | not built | all |\n|---|---|---|---|---|\n");
    for severity in Severity::ALL {
        let counts = Counts::of(matrix, outcomes, |row| row.severity == severity);
        counts.write_line(&mut text, &severity.to_string());
    }
    Counts::of(matrix, outcomes, |_| true).write_line(&mut text, "all");
    for area in areas(matrix) {
        let _ = write!(
            text,
            "\n## {area}\n\n| row | requirement | severity | state | tests |\n|---|---|---|---|---|\n"
        );
        for row in matrix.rows.iter().filter(|row| row.area == area) {
            let tests: Vec<String> = matrix.proofs_of(&row.id).map(|proof| format!("`{proof}`")).collect();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                row.id,
                cell(&row.requirement),
                row.severity,
                cell(&state_words(row, &matrix.state(row, outcomes))),
                tests.join("<br>")
            );
        }
    }
    text
}

/// The table of the terminal.
pub(super) fn table(matrix: &Matrix, outcomes: &Outcomes) -> String {
    let mut text = format!("{:<10} {:>6} {:>6} {:>10} {:>6}\n", "area", "green", "red", "not built", "all");
    for area in areas(matrix) {
        Counts::of(matrix, outcomes, |row| row.area == area).write_columns(&mut text, area);
    }
    Counts::of(matrix, outcomes, |_| true).write_columns(&mut text, "all");
    for row in &matrix.rows {
        if let State::Red { reason } = matrix.state(row, outcomes) {
            let Row { id, severity, spec, section, requirement, how_to_test, .. } = row;
            let _ = write!(
                text,
                "\nred: {id} ({severity}, {spec} {section})\n  {requirement}\n  to test: {how_to_test}\n  {reason}\n"
            );
        }
    }
    text
}

/// The areas in the order of the rows.
fn areas(matrix: &Matrix) -> Vec<&str> {
    let mut areas: Vec<&str> = Vec::new();
    for row in &matrix.rows {
        if !areas.contains(&row.area.as_str()) {
            areas.push(&row.area);
        }
    }
    areas
}

fn state_words(row: &Row, state: &State) -> String {
    let state = match state {
        State::Green => "green".to_owned(),
        State::NotBuilt => "not built".to_owned(),
        State::Red { reason } => format!("**red**: {reason}"),
    };
    match (row.note.as_str(), row.coverage) {
        ("", _) => state,
        (note, Coverage::NotBuilt) => format!("{state}: {note}"),
        (note, Coverage::Covered) => format!("{state} ({note})"),
    }
}

/// Text that stays in its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('\n', " ")
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    green: usize,
    red: usize,
    not_built: usize,
}

impl Counts {
    fn of(matrix: &Matrix, outcomes: &Outcomes, wanted: impl Fn(&Row) -> bool) -> Self {
        let mut counts = Self::default();
        for row in matrix.rows.iter().filter(|row| wanted(row)) {
            match matrix.state(row, outcomes) {
                State::Green => counts.green += 1,
                State::NotBuilt => counts.not_built += 1,
                State::Red { .. } => counts.red += 1,
            }
        }
        counts
    }

    fn all(self) -> usize {
        self.green + self.red + self.not_built
    }

    fn write_line(self, text: &mut String, name: &str) {
        let Self { green, red, not_built } = self;
        let _ = writeln!(text, "| {name} | {green} | {red} | {not_built} | {} |", self.all());
    }

    fn write_columns(self, text: &mut String, name: &str) {
        let Self { green, red, not_built } = self;
        let _ = writeln!(text, "{name:<10} {green:>6} {red:>6} {not_built:>10} {:>6}", self.all());
    }
}

const HEAD: &str = "\
# Conformance

What LoRaWAN, the gateway protocols and loam's own promises ask for, row by row, and the tests that prove it. `make conformance`
runs these tests and writes this page; what it shows is what they showed.

- **green**: loam has it, and every test named here passes. A note in brackets says what the row leaves open.
- **red**: a test that is named here fails, or there is none.
- **not built**: loam does not have it, or only a part; the words behind it say what is missing. Tests named there prove the part
  that is there, or what loam does instead.

The rows with their documents and sections stand in [tests/conformance.csv](../tests/conformance.csv). A test names the rows it
proves in its doc comment.
";
