//! What people type and what lies in their files: one function for each boundary of the program.
//!
//! libFuzzer calls them with inputs it makes up (`fuzz/`), the tests with those it has found worth keeping.

use std::path::PathBuf;

use serde_json::Value;
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::{input, words};

pub use crate::command::decode::fuzz::explained_frame;
pub use crate::command::device_import::fuzz::device_import;

/// A configuration file.
///
/// What is taken can be said as well in environment variables and then means the same; what is refused is refused with the file or a key.
pub fn config_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (config, origins) = match Config::read(Some((PathBuf::from(FILE), text)), []) {
        Ok(read) => read,
        Err(error) => {
            let words = error.to_string();
            let keys = Config::default().entries();
            assert!(words.contains(FILE) || keys.iter().any(|(key, _)| words.contains(key)), "{words}");
            return;
        }
    };
    assert!(EnvFilter::try_new(&config.server.log_level).is_ok(), "log level {:?}", config.server.log_level);
    let variables = config.entries().into_iter().filter_map(|(key, value)| {
        let text = match value {
            Value::Null => return None,
            Value::String(text) => text,
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
        };
        Some((format!("LOAM_{}", key.replace('.', "__").to_uppercase()), text))
    });
    let again = Config::read(None, variables);
    assert_eq!(again.map(|(config, _)| config).map_err(|error| error.to_string()), Ok(config.clone()));
    // Refused or not, with words.
    if let Err(problems) = config.check(&origins) {
        assert!(!problems.to_string().is_empty());
    }
}

/// A value on the command line; the first byte says of which kind.
///
/// A value that is taken is printed in one form, which is taken as the same value. A refusal has words, and never the key.
pub fn typed_value(bytes: &[u8]) {
    let Some((&kind, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    match kind % 13 {
        0 => digits(input::parse_dev_eui, text, 16),
        1 => digits(input::parse_gateway_eui, text, 16),
        2 => digits(input::parse_join_eui, text, 16),
        3 => digits(input::parse_dev_addr, text, 8),
        4 => key(text),
        5 => same_bytes(input::parse_hex, text),
        6 => same_bytes(input::parse_bytes, text),
        7 => match input::parse_span_us(text) {
            Ok(us) => {
                assert!(us > 0 && us % 1_000_000 == 0);
                assert_eq!(input::parse_span_us(&format!("{}s", us / 1_000_000)).unwrap_or(us), us);
            }
            Err(problem) => assert!(!problem.is_empty()),
        },
        8 => match input::parse_time_us(text) {
            Ok(us) => {
                let printed = jiff::Timestamp::from_microsecond(us).map(|at| at.to_string());
                let printed = printed.expect("what was read can be printed");
                assert_eq!(input::parse_time_us(&printed), Ok(us));
            }
            Err(problem) => assert!(!problem.is_empty()),
        },
        9 => match input::parse_tag(text) {
            Ok((name, value)) => {
                assert!(!name.is_empty());
                assert_eq!(input::parse_tag(&format!("{name}={value}")), Ok((name, value)));
            }
            Err(problem) => assert!(!problem.is_empty()),
        },
        10 => word(words::parse_region, words::REGIONS, text),
        11 => word(words::parse_mac_version, words::MAC_VERSIONS, text),
        _ => word(words::parse_revision, words::REVISIONS, text),
    }
}

fn digits(parse: fn(&str) -> Result<String, String>, text: &str, count: usize) {
    match parse(text) {
        Ok(value) => {
            assert!(value.len() == count && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
            assert_eq!(parse(&value), Ok(value));
        }
        Err(problem) => assert!(!problem.is_empty()),
    }
}

fn key(text: &str) {
    match input::parse_key(text) {
        Ok(value) => assert_eq!(input::parse_key(&value), Ok(value)),
        Err(problem) => {
            let hex = text.as_bytes().windows(8).filter(|w| w.iter().all(u8::is_ascii_hexdigit));
            let shown = hex.filter_map(|w| std::str::from_utf8(w).ok()).any(|run| problem.contains(run));
            assert!(!shown, "a key is shown: {problem}");
        }
    }
}

fn same_bytes(parse: fn(&str) -> Result<Vec<u8>, String>, text: &str) {
    match parse(text) {
        Ok(bytes) => assert_eq!(parse(&hex::encode(&bytes)), Ok(bytes)),
        Err(problem) => assert!(!problem.is_empty()),
    }
}

fn word<T: Copy + Into<i32> + std::fmt::Debug + PartialEq>(
    parse: fn(&str) -> Result<T, String>,
    table: &[(&'static str, T)],
    text: &str,
) {
    match parse(text) {
        Ok(value) => assert_eq!(parse(&words::word(table, value.into())), Ok(value)),
        Err(problem) => assert!(table.iter().all(|(word, _)| problem.contains(word)), "{problem}"),
    }
}

const FILE: &str = "loam.toml";

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
replay::replayed! {
    config_file,
    device_import,
    explained_frame,
    typed_value,
}
