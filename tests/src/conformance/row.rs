//! The rows of the matrix.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// One requirement.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// For example `FCNT-009`.
    pub id: String,
    /// The part of the id before its number.
    pub area: String,
    /// The document, or `loam-policy` for what loam asks of itself.
    pub spec: String,
    /// The section, and in brackets where it was read: `[T]` the document, `[C]` the code of others, `[K]` from memory.
    pub section: String,
    /// What has to hold.
    pub requirement: String,
    /// How one would find out.
    pub how_to_test: String,
    /// What it costs when it does not hold.
    pub severity: Severity,
    /// Whether loam has it.
    #[serde(rename = "status")]
    pub coverage: Coverage,
    /// What is missing where it is not built; elsewhere what a reader should know.
    pub note: String,
}

/// How bad it is when a row does not hold, the worst first.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words say it")]
pub enum Severity {
    Critical,
    High,
    Medium,
    Low,
}

impl Severity {
    /// Every severity, the worst first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Medium, Self::Low];
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        })
    }
}

/// Whether loam has what a row asks for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub enum Coverage {
    /// It has, and at least one test proves it.
    #[serde(rename = "covered")]
    Covered,
    /// It has not, or only a part.
    #[serde(rename = "not built")]
    NotBuilt,
}

/// Reads the rows.
pub(super) fn read(path: &Path) -> Result<Vec<Row>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| path.display().to_string())?;
    let mut rows = Vec::new();
    for row in reader.deserialize() {
        let row: Row = row.with_context(|| path.display().to_string())?;
        ensure!(
            row.id.strip_prefix(&row.area).is_some_and(|number| number.len() == 4 && number.starts_with('-')),
            "{}: the id is not made of the area {} and three digits",
            row.id,
            row.area
        );
        rows.push(row);
    }
    Ok(rows)
}
