//! See `crate::fuzz`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{ImportArgs, parse};
use crate::input::{parse_dev_addr, parse_dev_eui, parse_key};

/// A CSV file with devices.
///
/// What is read can be sent: well-formed EUIs, each once, and keys. What is wrong is said with a line of the file, and without the key.
pub fn device_import(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let args = ImportArgs {
        file: PathBuf::from("devices.csv"),
        application: bytes.len().is_multiple_of(2).then(|| "farm".to_owned()),
        profile: Some("soil".to_owned()),
        skip_bad: false,
        dry_run: false,
    };
    let (rows, bad) = match parse(text, &args) {
        Ok(read) => read,
        Err(failure) => {
            assert!(failure.to_string().starts_with("devices.csv: "), "{failure}");
            return;
        }
    };
    let lines = text.replace("\r\n", "\n").split(['\n', '\r']).count() as u64;
    let mut last_line = 1;
    let mut seen = BTreeSet::new();
    for row in &rows {
        assert!(row.line > last_line && row.line <= lines, "line {} of {lines}", row.line);
        last_line = row.line;
        let device = &row.device;
        assert!(seen.insert(device.dev_eui.clone()), "{} stands twice", device.dev_eui);
        assert_eq!(parse_dev_eui(&device.dev_eui).as_ref(), Ok(&device.dev_eui));
        assert!(!device.application_id.is_empty() && !device.profile_id.is_empty() && !device.name.is_empty());
        if let Some(keys) = &row.keys {
            assert!(row.activation.is_none() && !device.join_eui.is_empty());
            assert_eq!(parse_key(&keys.app_key).as_ref(), Ok(&keys.app_key));
        }
        if let Some(activation) = &row.activation {
            assert_eq!(parse_dev_addr(&activation.dev_addr).as_ref(), Ok(&activation.dev_addr));
            assert_eq!(parse_key(&activation.nwk_s_key).as_ref(), Ok(&activation.nwk_s_key));
            assert_eq!(parse_key(&activation.app_s_key).as_ref(), Ok(&activation.app_s_key));
        }
    }
    for bad in &bad {
        assert!(bad.line > 1 && bad.line <= lines.max(2), "line {} of {lines}: {}", bad.line, bad.problem);
        assert!(!bad.problem.is_empty());
        if bad.problem.split(':').next().is_some_and(|column| column.ends_with("_key")) {
            assert!(!has_hex_run(&bad.problem), "a key is shown: {}", bad.problem);
        }
    }
}

/// Whether there is something of a key in it.
fn has_hex_run(text: &str) -> bool {
    text.as_bytes().windows(10).any(|window| window.iter().all(u8::is_ascii_hexdigit))
}
