//! Runs the committed corpus of a fuzz target through the function that libFuzzer calls. Each crate with targets includes this file in
//! its tests.

use std::path::{Path, PathBuf};

/// Makes a test of each target: its function over every file of `fuzz/corpus/TARGET`.
macro_rules! replayed {
    ($($target:ident),* $(,)?) => {
        mod no_recorded_input_breaks_the_rules_of {
            $(
                #[test]
                fn $target() {
                    super::replay::corpus(stringify!($target), super::$target);
                }
            )*
        }
    };
}

pub(crate) use replayed;

pub(crate) fn corpus(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        let bytes = std::fs::read(&file).expect("a readable file");
        let _named = NamedWhenItFails(&file);
        check(&bytes);
    }
}

struct NamedWhenItFails<'a>(&'a Path);

impl Drop for NamedWhenItFails<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is {}", self.0.display());
        }
    }
}
