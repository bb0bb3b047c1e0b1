//! `loam device import`, against a server that remembers what it was asked.

#![allow(clippy::unwrap_used)]

mod fake;

use fake::{Fake, Outcome};

const GOOD: &str = "\
dev_eui,join_eui,application,profile,name,app_key,tags,dev_addr,nwk_s_key,app_s_key
70b3d57ed0000001,70b3d57ed0001000,farm,soil,north-1,2b7e151628aed2a6abf7158809cf4f3c,field=north|row=2,,,
70b3d57ed0000002,,farm,soil,south-1,,,01020304,2b7e151628aed2a6abf7158809cf4f3c,2b7e151628aed2a6abf7158809cf4f3c
";

fn import(server: &Fake, csv: &str, arguments: &[&str]) -> Outcome {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("devices.csv");
    std::fs::write(&file, csv).unwrap();
    let all = [&["device", "import", file.to_str().unwrap(), "--output", "json"], arguments].concat();
    server.run(&all)
}

/// API-004.
#[test]
fn good_rows_are_created_once_however_often_the_file_is_imported() {
    let server = Fake::start().with_farm();

    let first = import(&server, GOOD, &[]).json();
    let second = import(&server, GOOD, &[]).json();

    assert_eq!((&first["created"], &first["unchanged"]), (&2.into(), &0.into()));
    assert_eq!((&second["created"], &second["unchanged"]), (&0.into(), &2.into()));
    let state = server.state();
    assert_eq!(state.devices.len(), 2);
    assert_eq!(state.root_keys.len(), 1);
    assert_eq!(state.activations.len(), 1);
    assert_eq!(state.devices.iter().find(|d| d.name == "north-1").unwrap().tags.len(), 2);
}

#[test]
fn an_import_that_broke_off_before_an_activation_goes_on_there() {
    let server = Fake::start().with_farm();
    import(&server, GOOD, &[]).succeeded();
    server.state().activations.clear();

    let again = import(&server, GOOD, &[]).json();

    assert_eq!((&again["created"], &again["unchanged"]), (&1.into(), &1.into()));
    assert_eq!(server.state().activations.len(), 1);
}

/// API-004.
#[test]
fn one_bad_row_keeps_all_from_being_created_and_every_problem_is_told() {
    let server = Fake::start().with_farm();
    let csv = format!("{GOOD}70b3,,farm,soil,,,,,,\n70b3d57ed0000003,,barn,soli,,,,,,\n");

    let outcome = import(&server, &csv, &[]);

    outcome.failed(
        2,
        &[
            "devices.csv:4: dev_eui: the DevEUI has 4 hexadecimal digits",
            "devices.csv:5: application: there is no application \"barn\"",
            "devices.csv:5: profile: there is no profile \"soli\"",
            "2 of 4 rows are bad; nothing was created",
        ],
    );
    assert!(server.state().devices.is_empty());

    let skipped = import(&server, &csv, &["--skip-bad"]).json();
    assert_eq!((&skipped["created"], &skipped["bad"]), (&2.into(), &2.into()));
}

#[test]
fn a_device_that_is_there_with_other_settings_is_a_bad_row() {
    let server = Fake::start().with_farm();
    import(&server, GOOD, &[]).succeeded();
    let changed = GOOD.replace("north-1", "north-one").replace("01020304", "01020305");

    let outcome = import(&server, &changed, &[]);

    outcome.failed(2, &["exists with other settings (name)", "has a session with DevAddr 01020304"]);
    assert_eq!(server.state().devices.len(), 2);
}

#[test]
fn a_refusal_in_the_middle_tells_how_to_go_on() {
    let server = Fake::start().with_farm();
    let csv = GOOD.replace("north-1", "cursed");

    let outcome = import(&server, &csv, &[]);
    outcome.failed(2, &["devices.csv:2:", "nobody may be called that", "run the same command again"]);

    let skipped = import(&server, &csv, &["--skip-bad"]).json();
    assert_eq!(skipped["bad"], 1);
    assert!(!server.state().devices.iter().any(|d| d.name == "cursed"));
}

/// API-004: what is too long is not read to its end, and what nobody understands is not repeated at length.
#[test]
fn a_file_too_long_a_header_too_wide_and_bytes_that_are_no_text_are_refused() {
    let server = Fake::start().with_farm();
    let directory = tempfile::tempdir().unwrap();
    let long = directory.path().join("long.csv");
    std::fs::File::create(&long).unwrap().set_len(1 << 34).unwrap();
    let bytes = directory.path().join("bytes.csv");
    std::fs::write(&bytes, b"dev_eui\n\xff\n").unwrap();
    let run = |file: &std::path::Path| server.run(&["device", "import", file.to_str().unwrap()]);

    run(&long).failed(2, &["long.csv: has more than 64 MiB; import it in parts"]);
    run(&bytes).failed(2, &["bytes.csv: is not UTF-8 from byte 8 on"]);
    let wide = format!("dev_eui,{}\n", "x".repeat(10_000_000));
    let outcome = import(&server, &wide, &[]);
    outcome.failed(2, &["there is no column", "known: dev_eui"]);
    assert!(outcome.stderr.len() < 1_000, "{} bytes", outcome.stderr.len());
    let many = format!("dev_eui{}\n", ",name".repeat(1_000_000));
    let outcome = import(&server, &many, &[]);
    outcome.failed(2, &["column \"name\" stands twice"]);
    assert!(outcome.stderr.len() < 1_000, "{} bytes", outcome.stderr.len());
    assert!(server.state().devices.is_empty());
}

#[test]
fn a_dry_run_creates_nothing() {
    let server = Fake::start().with_farm();
    let outcome = import(&server, GOOD, &["--dry-run"]).json();
    assert_eq!((&outcome["created"], &outcome["dry_run"]), (&2.into(), &true.into()));
    assert!(server.state().devices.is_empty());
}
