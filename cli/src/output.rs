//! Standard output: tables for people, JSON for programs.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use serde_json::Value;

use crate::exit::{Failure, complain};

/// How results are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one document, or one object a line where the output is a stream.
    Json,
}

/// Where results go. Every write may find the reader gone, which ends the command cleanly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Writes a list: rows for people, or the array of `items` for programs. An empty list says `nothing` on standard error.
    pub(crate) fn list(
        self,
        header: &[&str],
        rows: Vec<Vec<String>>,
        items: Vec<Value>,
        nothing: &str,
    ) -> Result<(), Failure> {
        if self.is_json() {
            return self.json(&Value::Array(items));
        }
        if rows.is_empty() {
            complain(nothing);
            return Ok(());
        }
        let mut table = plain_table();
        table.set_header(header.iter().map(|title| title.to_uppercase()));
        for row in rows {
            table.add_row(row.into_iter().map(|cell| printable(&cell)));
        }
        self.write_table(table)
    }

    /// Writes one thing: a line per field for people, or the object for programs. Empty fields are left out for people.
    pub(crate) fn record(self, fields: &[(&str, String)], item: &Value) -> Result<(), Failure> {
        if self.is_json() {
            return self.json(item);
        }
        let mut table = plain_table();
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
            table.add_row([(*name).to_owned(), printable(value)]);
        }
        self.write_table(table)
    }

    /// Says in one line that something was done, or writes the object for programs.
    pub(crate) fn done(self, sentence: &str, item: &Value) -> Result<(), Failure> {
        if self.is_json() { self.json(item) } else { self.line(&printable(sentence)) }
    }

    /// Writes a JSON document over several lines.
    pub(crate) fn json(self, item: &Value) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(item)
            .map_err(|error| Failure::error(format!("the result has no JSON form: {error}")))?;
        self.line(&text)
    }

    /// Writes a line as it is and makes sure that it is out.
    pub(crate) fn line(self, text: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()?;
        Ok(())
    }

    fn write_table(self, mut table: Table) -> Result<(), Failure> {
        keep_words_whole(&mut table);
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }
}

/// An id or a time broken over two lines cannot be copied, so where all cells of a column are single short words, it is as wide as
/// they are. The others share what is left.
fn keep_words_whole(table: &mut Table) {
    let columns = table.column_iter().map(|column| column.index).collect::<Vec<_>>();
    for index in columns {
        let whole = table.column_cells_iter(index).flatten().all(|cell| {
            let text = cell.content();
            text.chars().count() <= WORD_CHARS_MAX && !text.contains(char::is_whitespace)
        });
        let Some(column) = table.column_mut(index) else { continue };
        column.set_padding((0, 2));
        if whole {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    // A terminal tells its width; a file or a pipe gets what fits most screens.
    if !std::io::stdout().is_terminal() {
        table.set_width(WIDTH_WITHOUT_TERMINAL);
    }
    table
}

/// Control characters can move the cursor or rewrite the screen, and some of what is shown comes from the air.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A time in the local zone, RFC 3339 to the second. Zero, which stands for "never", is empty.
pub(crate) fn local_time(at_us: i64) -> String {
    if at_us == 0 {
        return String::new();
    }
    match jiff::Timestamp::from_microsecond(at_us) {
        Ok(time) => time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        Err(_) => format!("{at_us} µs"),
    }
}

/// A time for programs: UTC, RFC 3339 to the microsecond; null for zero and for what is no time.
pub(crate) fn utc_time(at_us: i64) -> Value {
    match jiff::Timestamp::from_microsecond(at_us) {
        Ok(time) if at_us != 0 => Value::String(time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()),
        _ => Value::Null,
    }
}

/// Null for an empty string.
pub(crate) fn text_or_null(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { Value::String(text.to_owned()) }
}

/// `name=value` pairs in the order of their names.
pub(crate) fn tags_line(tags: &std::collections::HashMap<String, String>) -> String {
    let mut pairs: Vec<String> = tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.sort();
    pairs.join(" ")
}

/// A span between two times as people say it: `12 s`, `3 min`, `2 h`, `5 d`.
pub(crate) fn span_words(span_us: i64) -> String {
    let seconds = span_us.max(0) / 1_000_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long ago a time was.
pub(crate) fn ago(at_us: Option<i64>) -> String {
    at_us.map_or_else(
        || "never".to_owned(),
        |at_us| {
            let now_us = jiff::Timestamp::now().as_microsecond();
            format!("{} ago", span_words(now_us.saturating_sub(at_us)))
        },
    )
}

const WIDTH_WITHOUT_TERMINAL: u16 = 100;
/// A downlink's id has 30.
const WORD_CHARS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_for_programs_are_utc_and_zero_is_no_time() {
        assert_eq!(utc_time(1_700_000_000_123_456), "2023-11-14T22:13:20.123456Z");
        assert_eq!(utc_time(0), Value::Null);
        assert_eq!(local_time(0), "");
        let local = local_time(1_700_000_000_123_456);
        assert_eq!(local.len(), "2023-11-14T22:13:20+00:00".len(), "{local}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\tc"), "a\u{fffd}[2Jb\u{fffd}c");
    }

    #[test]
    fn spans_are_told_in_the_largest_unit_that_still_says_something() {
        assert_eq!(span_words(90_000_000), "90 s");
        assert_eq!(span_words(600_000_000), "10 min");
        assert_eq!(span_words(-5), "0 s");
        assert_eq!(span_words(259_200_000_000), "3 d");
    }
}
