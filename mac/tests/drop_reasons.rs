//! docs/drop-reasons.md explains every reason, in the words the API uses.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use mac::drop_reason::DropReason;

#[test]
fn the_document_has_one_row_for_every_reason_and_no_other() {
    let rows: Vec<String> = include_str!("../../docs/drop-reasons.md")
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(str::to_owned)
        .collect();

    let expected: Vec<String> = DropReason::ALL
        .iter()
        .map(|reason| format!("| `{}` | {} | {} |", reason.code(), reason.meaning(), reason.hint()))
        .collect();

    assert_eq!(rows, expected);
}

#[test]
fn codes_are_unique_snake_case_and_lead_back() {
    let codes: BTreeSet<&str> = DropReason::ALL.iter().map(|reason| reason.code()).collect();
    assert_eq!(codes.len(), DropReason::COUNT);
    for (index, &reason) in DropReason::ALL.iter().enumerate() {
        let code = reason.code();
        assert!(
            code.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
            "{code}"
        );
        assert_eq!(reason.index(), index);
        assert_eq!(DropReason::from_code(code), Some(reason));
        assert_eq!(code.parse(), Ok(reason));
        assert_eq!(reason.to_string(), code);
    }
    assert_eq!(DropReason::from_code("of_a_later_version"), None);
}

#[test]
fn the_reasons_are_in_alphabetical_order() {
    let names: Vec<String> = DropReason::ALL.iter().map(|reason| format!("{reason:?}")).collect();
    assert!(names.is_sorted(), "{names:?}");
}
