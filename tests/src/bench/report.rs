//! The figures: beside their targets and as ratios to the floor, as a table and as JSON.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::floor::Floor;

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    name: String,
    words: String,
    value: f64,
    unit: &'static str,
    target: Option<Target>,
    ratio: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    pub(crate) fn new(
        name: impl Into<String>,
        words: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) -> Self {
        Self { name: name.into(), words: words.into(), value, unit, target: None, ratio: None }
    }

    pub(crate) const fn at_least(mut self, target: f64) -> Self {
        self.target = Some(Target::AtLeast(target));
        self
    }

    pub(crate) const fn at_most(mut self, target: f64) -> Self {
        self.target = Some(Target::AtMost(target));
        self
    }

    /// To the same on the floor of the machine.
    pub(crate) const fn ratio(mut self, ratio: Option<f64>) -> Self {
        self.ratio = ratio;
        self
    }

    fn reached(&self) -> Option<bool> {
        self.target.map(|target| match target {
            Target::AtLeast(least) => self.value >= least,
            Target::AtMost(most) => self.value <= most,
        })
    }

    fn to_json(&self) -> Value {
        let target = self.target.map(|target| match target {
            Target::AtLeast(least) => json!({ "at_least": least }),
            Target::AtMost(most) => json!({ "at_most": most }),
        });
        json!({
            "name": self.name,
            "what": self.words,
            "value": self.value,
            "unit": self.unit,
            "ratio_to_floor": self.ratio,
            "target": target,
            "reached": self.reached(),
        })
    }
}

/// All figures of a run.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Value,
    floor: Option<Floor>,
    figures: Vec<Figure>,
    details: Map<String, Value>,
    failures: Vec<String>,
    quick: bool,
}

impl Report {
    pub(crate) fn new(machine: Value, quick: bool) -> Self {
        let (figures, failures) = (Vec::new(), Vec::new());
        Self { machine, floor: None, figures, details: Map::new(), failures, quick }
    }

    pub(crate) fn set_floor(&mut self, floor: Floor, detail: Value) {
        self.add(
            Figure::new("floor_us_per_uplink", "floor: CPU per uplink", floor.us_per_uplink, "us")
                .ratio(Some(1.0)),
        );
        self.add(
            Figure::new(
                "floor_uplinks_per_second",
                "floor: uplinks per second",
                floor.uplinks_per_second,
                "1/s",
            )
            .ratio(Some(1.0)),
        );
        self.add(
            Figure::new("floor_commit_p99_ms", "floor: commit of 100 uplinks, p99", floor.commit_p99_ms, "ms")
                .ratio(Some(1.0)),
        );
        self.floor = Some(floor);
        self.detail("floor", detail);
    }

    /// The floor, when it was measured in this run.
    pub(crate) const fn floor(&self) -> Option<Floor> {
        self.floor
    }

    pub(crate) fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Keeps everything that was counted for a figure.
    pub(crate) fn detail(&mut self, name: &str, value: Value) {
        self.details.insert(name.to_owned(), value);
    }

    /// Notes what could not be measured.
    pub(crate) fn fail(&mut self, what: &str, error: &anyhow::Error) {
        eprintln!("  FAILED {what}: {error:#}");
        self.failures.push(format!("{what}: {error:#}"));
    }

    /// Whether everything that was asked for was measured; targets do not count.
    pub(crate) const fn is_complete(&self) -> bool {
        self.failures.is_empty()
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let figures: Vec<Value> = self.figures.iter().map(Figure::to_json).collect();
        let value = json!({
            "machine": self.machine,
            "quick": self.quick,
            "figures": figures,
            "details": self.details,
            "failures": self.failures,
        });
        let text = serde_json::to_string_pretty(&value)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The table people read.
    pub(crate) fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:<56} {:>12} {:<8} {:>9} {:>14}  {}",
            "figure", "value", "unit", "x floor", "target", "reached"
        )];
        lines.push("-".repeat(112));
        for figure in &self.figures {
            let ratio = figure.ratio.map_or_else(|| "-".to_owned(), number);
            let target = match figure.target {
                Some(Target::AtLeast(least)) => format!(">= {}", number(least)),
                Some(Target::AtMost(most)) => format!("<= {}", number(most)),
                None => "-".to_owned(),
            };
            let reached = match figure.reached() {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "",
            };
            let (words, value, unit) = (&figure.words, number(figure.value), figure.unit);
            lines.push(format!("{words:<56} {value:>12} {unit:<8} {ratio:>9} {target:>14}  {reached}"));
        }
        lines.extend(self.failures.iter().map(|failure| format!("not measured: {failure}")));
        if self.quick {
            lines.push("A quick run: these figures say little.".to_owned());
        }
        lines.join("\n")
    }
}

/// Three digits are enough to compare.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
