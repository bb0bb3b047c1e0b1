//! The commands as people type them, against a server that remembers what it was asked.

#![allow(clippy::unwrap_used)]

mod fake;

use std::io::Write as _;
use std::process::Stdio;

use fake::{Fake, KEY, Outcome, loam, run, words};
use proto::v1::*;

const DEV_EUI: &str = "70b3d57ed0000001";
const APP_KEY: &str = "2b7e151628aed2a6abf7158809cf4f3c";

#[test]
fn without_a_server_the_command_says_what_to_do() {
    // Bound and closed again: nobody listens on it.
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{addr}");

    let outcome = run(&["--server", &url, "--api-key", KEY, "application", "list"]);

    outcome.failed(5, &[&format!("no server answers at {url}"), "is `loam serve` running?", "--server"]);
    assert_eq!(outcome.stdout, "");
}

#[test]
fn a_wrong_or_missing_key_is_told_apart_and_never_shown() {
    let server = Fake::start();
    let url = server.addr.to_string();

    let wrong = run(&["--server", &url, "--api-key", "open-up", "application", "list"]);
    wrong.failed(6, &["does not know the API key of --api-key"]);
    assert!(!wrong.stderr.contains("open-up"));

    run(&["--server", &url, "application", "list"])
        .failed(6, &["there is no loam-data/admin.key", "--data-dir"]);
    run(&["--server", &url, "--api-key", "two\nlines", "application", "list"])
        .failed(2, &["characters that no key has"]);
    assert!(server.state().applications.is_empty());
}

#[test]
fn the_admin_key_is_found_in_the_data_directory() {
    let server = Fake::start();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("admin.key"), format!("{KEY}\n")).unwrap();
    std::fs::write(
        directory.path().join("loam.toml"),
        format!("[server]\ndata_dir = \".\"\n[api]\nbind = \"{}\"\n", server.addr),
    )
    .unwrap();

    // By the option, and by the configuration file alone.
    let data_dir = directory.path().to_str().unwrap();
    run(&["--server", &server.addr.to_string(), "--data-dir", data_dir, "device", "list"]).succeeded();
    let outcome = Outcome::of(loam(&["device", "list"]).current_dir(directory.path()).output().unwrap());

    outcome.succeeded();
    assert!(outcome.stderr.contains("there are no devices"), "{}", outcome.stderr);
}

#[test]
fn malformed_identifiers_are_refused_before_a_server_is_asked() {
    for (value, part) in [
        ("70b3d57ed00000", "14 hexadecimal digits, 16 are needed"),
        ("70b3d57ed000001", "an odd number"),
        ("70b3d57ed000000x", "'x', is not a hexadecimal digit"),
        ("0000000000000000", "the all-zero"),
        ("", "empty"),
    ] {
        run(&["device", "show", value]).failed(2, &[part]);
        run(&["gateway", "create", value, "--region", "EU868"]).failed(2, &[part]);
        run(&["downlink", "enqueue", value, "--port", "1", "00"]).failed(2, &[part]);
    }
    run(&["gateway", "create", "0016c001f1500812", "--region", "EU686"]).failed(2, &["do you mean EU868?"]);
    run(&["downlink", "enqueue", DEV_EUI, "--port", "224", "00"]).failed(2, &["224 is not in 1..=223"]);
    run(&["downlink", "enqueue", DEV_EUI, "--port", "1", "0"]).failed(2, &["payload", "odd number"]);
    run(&["--server", "ftp://x", "device", "list"]).failed(2, &["write it like http://127.0.0.1:8080"]);
}

#[test]
fn malformed_keys_are_refused_and_never_repeated() {
    let set = |key: &str| run(&["--server", "127.0.0.1:9", "keys", "set", DEV_EUI, "--app-key", key]);
    for (key, part) in [
        ("2b7e151628aed2a6", "16 hexadecimal digits, 32 are needed"),
        ("2b7e151628aed2a6abf7158809cf4f3", "31 hexadecimal digits"),
        ("2b7e151628aed2a6abf7158809cf4f3z", "character 32 of the key"),
        ("00000000000000000000000000000000", "all-zero"),
    ] {
        let outcome = set(key);
        outcome.failed(2, &["--app-key", part]);
        assert!(!outcome.stderr.contains("2b7e"), "{}", outcome.stderr);
    }
    run(&["keys", "set", DEV_EUI]).failed(2, &["no key is given"]);
    run(&["keys", "set", DEV_EUI, "--app-key", "@no-such-file"]).failed(2, &["no-such-file cannot be read"]);
    run(&["keys", "set", DEV_EUI, "--app-key", "-"]).failed(2, &["standard input has no line"]);
}

#[test]
fn keys_come_from_standard_input_line_by_line_and_are_not_echoed() {
    let server = Fake::start();
    let mut child = server
        .command(&["keys", "set", "70-B3-D5-7E-D0-00-00-01", "--app-key", "-", "--nwk-key", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let other_key = "0102030405060708090a0b0c0d0e0f10";
    writeln!(child.stdin.take().unwrap(), "{}\n{other_key}", APP_KEY.to_uppercase()).unwrap();

    let outcome = Outcome::of(child.wait_with_output().unwrap());

    assert!(!outcome.succeeded().contains("2b7e"), "{}", outcome.stdout);
    let keys = RootKeys { app_key: APP_KEY.to_owned(), nwk_key: other_key.to_owned() };
    assert_eq!(server.state().root_keys, [(DEV_EUI.to_owned(), keys)]);
}

#[test]
fn refusals_of_the_server_have_their_exit_codes() {
    let server = Fake::start().with_farm();

    server.run(&["application", "show", "barn"]).failed(3, &["there is no application \"barn\""]);
    server.run(&["application", "create", "farm"]).failed(4, &["application farm exists already"]);
    server.run(&["application", "delete", "farm"]).failed(4, &["has 3 devices"]);
    server.run(&["downlink", "cancel", "d1"]).failed(4, &["has left already"]);
    server
        .run(&["device", "create", DEV_EUI, "--application", "farm", "--profile", "soil", "--name", "cursed"])
        .failed(2, &["nobody may be called that"]);
}

#[test]
fn lists_are_read_to_their_last_page() {
    let server = Fake::start().with_farm();
    server.run(&["application", "create", "orchard", "--name", "The orchard"]).succeeded();

    let listed = server.run(&["application", "list", "--output", "json"]).json();
    assert_eq!(listed[0]["id"], "farm");
    assert_eq!(listed[1]["name"], "The orchard");
    assert_eq!(listed.as_array().unwrap().len(), 2);

    let table = server.run(&["application", "list"]);
    assert!(table.succeeded().starts_with("ID"), "{}", table.stdout);
}

#[test]
fn a_device_is_created_with_its_key_and_activated_without() {
    let server = Fake::start().with_farm();
    let create = ["device", "create", DEV_EUI, "--application", "farm", "--profile", "soil"];

    server.run(&[&create[..], &["--join-eui", "0000000000000001"]].concat()).failed(2, &["--app-key"]);
    server.run(&[&create[..], &["--app-key", APP_KEY]].concat()).failed(2, &["--join-eui"]);
    let otaa = ["--join-eui", "0000000000000001", "--app-key", APP_KEY, "--tag", "field=north"];
    server.run(&[&create[..], &otaa].concat()).succeeded();
    {
        let state = server.state();
        let device = state.devices.first().unwrap();
        assert_eq!(device.join_eui, "0000000000000001");
        assert_eq!(device.tags.get("field").unwrap(), "north");
        assert_eq!(state.root_keys.len(), 1);
    }

    let abp = "70b3d57ed0000002";
    let created = server.run(&["device", "create", abp, "--application", "farm", "--profile", "soil"]);
    assert!(created.succeeded().contains(&format!("loam device activate {abp}")), "{}", created.stdout);
    let keys = ["--dev-addr", "01020304", "--nwk-s-key", APP_KEY, "--app-s-key", APP_KEY];
    let counters = ["--fcnt-up", "70000", "--fcnt-down", "12"];
    server.run(&[&["device", "activate", abp][..], &keys, &counters].concat()).succeeded();
    let activation = server.state().activations.first().unwrap().clone();
    assert_eq!((activation.fcnt_up, activation.fcnt_down), (Some(70_000), 12));

    server.run(&["device", "update", DEV_EUI, "--disabled", "true", "--tag", "field="]).succeeded();
    let device = server.state().devices.first().unwrap().clone();
    assert!(device.disabled && device.tags.is_empty());
    assert_eq!(device.join_eui, "0000000000000001");
    let shown = server.run(&["device", "show", abp, "--output", "json"]).json();
    assert_eq!(shown["state"]["dev_addr"], "01020304");
}

#[test]
fn an_update_of_a_profile_changes_only_what_is_named() {
    let server = Fake::start();
    let create =
        ["profile", "create", "soil", "--region", "us915", "--sub-bands", "2,3", "--rx2-data-rate", "8"];
    server.run(&create).succeeded();
    server.run(&["profile", "create", "tank"]).failed(2, &["needs --region"]);

    server
        .run(&["profile", "update", "soil", "--adr=false", "--rx2-data-rate", "default", "--rx-delay-s", "1"])
        .succeeded();

    let profile = server.state().profiles.first().unwrap().clone();
    assert_eq!(profile.region, i32::from(Region::Us915));
    assert_eq!(profile.sub_bands, [2, 3]);
    assert!(profile.adr_disabled);
    assert_eq!((profile.rx2_data_rate, profile.rx_delay_s), (None, 1));
}

#[test]
fn unseen_gateways_come_with_the_line_that_registers_them() {
    let server = Fake::start();
    server.state().unseen.push(list_unseen_gateways_response::Item {
        gateway_eui: "0016c001f1500812".to_owned(),
        address: "192.0.2.7:4711".to_owned(),
        datagrams: 12,
        ..list_unseen_gateways_response::Item::default()
    });

    let table = server.run(&["gateway", "list", "--unseen"]);
    let line = "loam gateway create 0016c001f1500812 --region EU868";
    assert!(table.succeeded().contains(line), "{}", table.stdout);
    let listed = server.run(&["gateway", "list", "--unseen", "--output", "json"]).json();
    assert_eq!(listed[0]["create_command"], line);

    // The line works as it stands.
    let arguments: Vec<&str> = line.split(' ').skip(1).collect();
    server.run(&arguments).succeeded();
}

#[test]
fn drops_are_shown_with_hint_and_the_line_that_registers_the_device() {
    let server = Fake::start().with_farm();
    let mut phy_payload = vec![0x00];
    phy_payload.extend_from_slice(&0x70b3_d57e_d000_1000_u64.to_le_bytes());
    phy_payload.extend_from_slice(&0x70b3_d57e_d000_0001_u64.to_le_bytes());
    phy_payload.extend_from_slice(&[1, 0, 9, 9, 9, 9]);
    server.state().drops.push(list_drops_response::Drop {
        reason: "device_unknown".to_owned(),
        detail: "JoinEUI 70b3d57ed0001000 \u{1b}[2J".to_owned(),
        hint: "register it".to_owned(),
        gateway_eui: "0016c001f1500812".to_owned(),
        dev_eui: DEV_EUI.to_owned(),
        phy_payload,
        frequency_hz: 868_100_000,
        data_rate: "SF7BW125".to_owned(),
        at_us: 1_700_000_000_000_000,
        ..list_drops_response::Drop::default()
    });

    let table = server.run(&["events", "drops", "--device", DEV_EUI]);

    let shown = words(table.succeeded());
    let line = "loam device create 70b3d57ed0000001 --join-eui 70b3d57ed0001000 --application farm --profile soil --app-key -";
    assert!(shown.contains("device_unknown: register it"), "{shown}");
    assert!(shown.contains(line), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown}");
    assert_within(&table.stdout, 110);
    let listed = server.run(&["events", "drops", "--output", "json"]).json();
    assert_eq!(listed[0]["register_command"], line);
}

#[test]
fn tables_fit_a_hundred_columns() {
    let server = Fake::start();
    server.state().gateways.push(list_gateways_response::Item {
        gateway: Some(Gateway {
            gateway_eui: "0016c001f1500812".to_owned(),
            name: "the gateway on the roof of the northern barn behind the old mill, second mast from the left"
                .to_owned(),
            region: Region::Eu868.into(),
            ..Gateway::default()
        }),
        status: Some(GatewayStatus {
            online: true,
            last_push_at_us: Some(1),
            round_trip_ms: Some(81.4),
            stat_json: "{\"rxnb\":2}".to_owned(),
            ..GatewayStatus::default()
        }),
    });

    let table = server.run(&["gateway", "list"]);
    assert_within(table.succeeded(), 100);
    let downlinks = server.run(&["downlink", "list", DEV_EUI]);
    assert_within(downlinks.succeeded(), 100);
    // What is copied from a table stays in one piece.
    assert!(downlinks.stdout.contains("0661005260e8a75010ee906235fd97"), "{}", downlinks.stdout);
    assert!(downlinks.stdout.contains("2023-11-14T22:13:20+00:00"), "{}", downlinks.stdout);
    let shown = server.run(&["gateway", "show", "0016c001f1500812"]);
    assert_within(shown.succeeded(), 100);
    assert!(shown.stdout.contains("81 ms"), "{}", shown.stdout);
    let json = server.run(&["gateway", "show", "0016c001f1500812", "--output", "json"]).json();
    assert_eq!(json["status"]["stat"]["rxnb"], 2);
}

#[test]
fn a_downlink_is_sent_as_it_was_typed() {
    let server = Fake::start();
    let enqueue = ["downlink", "enqueue", DEV_EUI];
    server
        .run(&[&enqueue[..], &["--port", "10", "--confirmed", "--expires-in", "2h", "01 ff"]].concat())
        .succeeded();
    server
        .run(&[&enqueue[..], &["--object", "{\"open\": true}", "--idempotency-key", "k1"]].concat())
        .succeeded();
    server.run(&[&enqueue[..], &["--object", "{open}"]].concat()).failed(2, &["not JSON"]);
    server.run(&enqueue).failed(2, &["--port"]);

    let sent = std::mem::take(&mut server.state().enqueued);
    let [bytes, object] = sent.as_slice() else { panic!("{} were sent", sent.len()) };
    assert_eq!(bytes.content, Some(enqueue_downlink_request::Content::Payload(vec![1, 255])));
    assert!(bytes.confirmed && bytes.f_port == 10);
    let hours = (bytes.not_after_us.unwrap() - jiff::Timestamp::now().as_microsecond()) / 3_600_000_000;
    assert!((1..=2).contains(&hours), "{hours}");
    assert_eq!(object.f_port, 0);
    assert_eq!(object.idempotency_key, "k1");
}

#[test]
fn a_codec_is_run_on_bytes_and_its_errors_are_an_exit_code() {
    let server = Fake::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("soil.js");
    std::fs::write(&file, "function decodeUplink(input) { return { data: {} }; }").unwrap();
    server.state().test_answer.data_json = "{\"moisture\":31.5}".to_owned();

    let by_id = server.run(&["codec", "test", "soil", "--port", "2", "01ff"]);
    assert!(by_id.succeeded().contains("31.5"), "{}", by_id.stdout);
    server.run(&["codec", "test", "--file", file.to_str().unwrap(), "--port", "2", "Af8="]).succeeded();
    server.run(&["codec", "test", "soil"]).failed(2, &["no bytes"]);
    server
        .run(&["codec", "test", "--file", file.to_str().unwrap(), "soil", "01"])
        .failed(2, &["one value too many"]);
    server.state().test_answer.errors.push("ReferenceError: x".to_owned());
    let failed = server.run(&["codec", "test", "soil", "--encode", "{\"open\":true}"]);
    failed.failed(1, &["the codec reports errors"]);
    assert!(failed.stdout.contains("ReferenceError: x"), "{}", failed.stdout);

    let tests = std::mem::take(&mut server.state().tests);
    let [by_id, by_file, encode] = tests.as_slice() else { panic!("{} tests", tests.len()) };
    let call = test_codec_request::UplinkCall { bytes: vec![1, 255], f_port: 2 };
    assert_eq!(by_id.call, Some(test_codec_request::Call::DecodeUplink(call.clone())));
    assert_eq!((by_file.id.as_str(), by_file.script.contains("decodeUplink")), ("", true));
    assert_eq!(by_file.call, Some(test_codec_request::Call::DecodeUplink(call)));
    assert!(matches!(encode.call, Some(test_codec_request::Call::EncodeDownlink(_))));
}

#[test]
fn a_backup_says_that_the_key_encryption_key_is_not_in_it_and_where_it_is() {
    let server = Fake::start();
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().to_str().unwrap();

    let outcome = server.run(&["--data-dir", data_dir, "backup", "copy.db"]);

    let told = words(outcome.succeeded());
    assert!(told.contains("The key-encryption key is not in it"), "{told}");
    assert!(told.contains(&format!("{data_dir}/kek")), "{told}");
    assert!(server.state().backups.first().unwrap().starts_with('/'));
    run(&["--server", "http://192.0.2.1:9", "--api-key", KEY, "application"]).failed(2, &["Usage"]);
}

#[test]
fn consumers_are_listed_with_how_far_they_are_behind() {
    let server = Fake::start();
    let table = server.run(&["events", "consumers"]);
    assert!(words(table.succeeded()).contains("erp 5 2 never 0"), "{}", table.stdout);
    server.run(&["events", "consumers", "--delete", "crm"]).failed(3, &["there is no consumer"]);
}

#[track_caller]
fn assert_within(text: &str, columns: usize) {
    // Lines to paste stand as they are, whatever their length.
    for line in text.lines().filter(|line| !line.contains("loam ")) {
        assert!(line.chars().count() <= columns, "{} columns: {line}", line.chars().count());
    }
}
