//! Finds the tests that name rows, in the sources.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A test that names rows in its doc comment or in its name.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Proof {
    /// The file, from the root of the repository.
    pub file: PathBuf,
    /// The function.
    pub name: String,
    /// The source of the program it is compiled into, see [`program_of`].
    pub program: PathBuf,
    /// The ids of the rows.
    pub rows: BTreeSet<String>,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.file.display(), self.name)
    }
}

/// Every test below `root` that names a row of one of the areas, by file and then in the order of the file.
pub(super) fn proofs(root: &Path, areas: &BTreeSet<&str>) -> Result<Vec<Proof>> {
    let mut files = Vec::new();
    for krate in folders(root)?.into_iter().filter(|folder| folder.join("Cargo.toml").is_file()) {
        for part in ["src", "tests"] {
            rust_files(&krate.join(part), &mut files)?;
        }
    }
    files.sort();
    let mut proofs = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let file = path.strip_prefix(root).unwrap_or(&path).to_owned();
        for test in tests_in(&text) {
            let rows = ids_in(&format!("{} {}", test.doc, spoken(test.name)), areas);
            if !rows.is_empty() {
                let program = program_of(&file);
                proofs.push(Proof { file: file.clone(), name: test.name.to_owned(), program, rows });
            }
        }
    }
    Ok(proofs)
}

/// What a file is compiled into: a file in `tests` by itself, a folder there by its `main.rs`, all of `src` as one.
pub(super) fn program_of(file: &Path) -> PathBuf {
    let parts: Vec<_> = file.iter().collect();
    match parts.as_slice() {
        [krate, tests, folder, _, ..] if *tests == "tests" => {
            [*krate, *tests, *folder, "main.rs".as_ref()].iter().collect()
        }
        [krate, src, ..] if *src == "src" => [*krate, *src].iter().collect(),
        _ => file.to_owned(),
    }
}

/// A test function and what is written above it.
#[derive(Debug, Eq, PartialEq)]
struct Test<'a> {
    name: &'a str,
    doc: String,
}

fn tests_in(text: &str) -> Vec<Test<'_>> {
    let mut tests = Vec::new();
    let mut doc = String::new();
    let mut is_test = false;
    let mut in_attribute = false;
    for line in text.lines().map(str::trim) {
        if in_attribute {
            in_attribute = !line.ends_with(']');
        } else if let Some(words) = line.strip_prefix("///") {
            doc.push_str(words);
            doc.push('\n');
        } else if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            in_attribute = !line.ends_with(']');
        } else if !line.starts_with("//") {
            if let Some(name) = function_in(line).filter(|_| is_test) {
                tests.push(Test { name, doc: std::mem::take(&mut doc) });
            }
            doc.clear();
            is_test = false;
        }
    }
    tests
}

fn function_in(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// A name as an id is written: `conf_fcnt_009` names `FCNT-009`.
fn spoken(name: &str) -> String {
    name.to_uppercase().replace('_', "-")
}

/// Everything that looks like the id of a row of these areas.
fn ids_in(text: &str, areas: &BTreeSet<&str>) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
        let Some((rest, number)) = word.rsplit_once('-') else { continue };
        if number.len() != 3 || !number.bytes().all(|digit| digit.is_ascii_digit()) {
            continue;
        }
        // The longest area that fits: `MQTT-GW` before `GW`.
        let is_area = |area: &&&str| {
            rest.strip_suffix(**area).is_some_and(|before| before.is_empty() || before.ends_with('-'))
        };
        if let Some(area) = areas.iter().filter(is_area).max_by_key(|area| area.len()) {
            ids.insert(format!("{area}-{number}"));
        }
    }
    ids
}

fn folders(root: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(root).with_context(|| root.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    Ok(folders)
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn areas() -> BTreeSet<&'static str> {
        BTreeSet::from(["ACK", "FCNT", "MQTT-GW", "RXWIN"])
    }

    fn ids(text: &str) -> Vec<String> {
        ids_in(text, &areas()).into_iter().collect()
    }

    #[test]
    fn ids_are_found_between_other_words_and_nothing_else_is_taken_for_one() {
        assert_eq!(ids("FCNT-009, ACK-001: also RXWIN-011."), ["ACK-001", "FCNT-009", "RXWIN-011"]);
        assert_eq!(ids("MQTT-GW-002"), ["MQTT-GW-002"]);
        assert_eq!(ids("AES-128, FCNT-9, FCNT-0009, PACK-001, TS001-1.0.4, FCNT-00a"), [""; 0]);
        assert_eq!(ids(&spoken("conf_fcnt_009")), ["FCNT-009"]);
        // An id that does not exist is found too: somebody meant a row.
        assert_eq!(ids("FCNT-999"), ["FCNT-999"]);
    }

    #[test]
    fn a_test_has_the_comment_above_it_and_other_functions_are_no_tests() {
        let text = "/// FCNT-001.\n#[test]\nfn one() {}\n\n/// ACK-001.\nfn helper() {}\n#[test]\nfn two() {}\n\
                    /// FCNT-002: said\n/// in two lines.\n#[tokio::test(\n    flavor = \"multi_thread\"\n)]\n\
                    // A word to the reader.\nasync fn three() {}\nproptest! {\n    /// ACK-002\n    #[test]\n    fn four(\n";
        let found: Vec<(&str, Vec<String>)> =
            tests_in(text).iter().map(|test| (test.name, ids(&test.doc))).collect();
        let expected = [
            ("one", vec!["FCNT-001"]),
            ("two", vec![]),
            ("three", vec!["FCNT-002"]),
            ("four", vec!["ACK-002"]),
        ];
        assert_eq!(found, expected.map(|(name, ids)| (name, ids.into_iter().map(str::to_owned).collect())));
    }

    #[test]
    fn a_file_belongs_to_the_program_it_is_compiled_into() {
        for (file, program) in [
            ("mac/tests/frames.rs", "mac/tests/frames.rs"),
            ("mac/tests/session/acks.rs", "mac/tests/session/main.rs"),
            ("mac/src/command/link_adr.rs", "mac/src"),
            ("tests/tests/wrong_input/main.rs", "tests/tests/wrong_input/main.rs"),
        ] {
            assert_eq!(program_of(Path::new(file)), Path::new(program), "{file}");
        }
    }
}
