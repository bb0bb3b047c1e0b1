//! Commands that need no server: `decode`, `config`, `completion`, and what `serve` refuses before it starts.

#![allow(clippy::unwrap_used)]

mod fake;

use fake::{Outcome, loam, run, words};

/// Of the ChirpStack lrwn crate's tests.
const UPLINK: &str = "80040302010300000673070ae264d4f7e117d2c0";
const NWK_S_KEY: &str = "0102030405060708090a0b0c0d0e0f10";
const APP_S_KEY: &str = "100f0e0d0c0b0a090807060504030201";

#[test]
fn a_frame_is_explained_and_decrypted() {
    let with_keys = ["decode", UPLINK, "--nwk-s-key", NWK_S_KEY, "--app-s-key", APP_S_KEY];

    let outcome = run(&with_keys);
    let told = words(outcome.succeeded());
    for part in [
        "confirmed uplink",
        "01020304",
        "DevStatusAns: battery 45 %",
        "SNR of 7 dB",
        "holds: the frame is genuine",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }

    let json = run(&[&with_keys[..], &["--output", "json"]].concat()).json();
    assert_eq!(json["dev_addr"], "01020304");
    assert_eq!(json["payload"], "01020304");
    assert_eq!(json["mic_verdict"], "matches");
    assert_eq!(json["f_port"], 10);
    assert_eq!(json["fcnt_full"], 0);
}

#[test]
fn a_frame_without_keys_says_which_key_would_help() {
    let base64 = "gAQDAgEDAAAGcwcK4mTU9+EX0sA=";
    let outcome = run(&["decode", base64]);
    let told = words(outcome.succeeded());
    assert!(
        told.contains("not checked; pass --nwk-s-key") && told.contains("pass --app-s-key to decrypt"),
        "{told}"
    );
}

#[test]
fn a_wrong_key_is_told_by_the_exit_code_and_not_shown() {
    let outcome = run(&["decode", UPLINK, "--nwk-s-key", APP_S_KEY, "--fcnt", "0"]);
    outcome.failed(1, &["the MIC does not hold"]);
    assert!(!outcome.stdout.contains(APP_S_KEY) && !outcome.stderr.contains(APP_S_KEY));
}

#[test]
fn joins_are_explained() {
    let request = run(&["decode", "0001010101010101010202020202020202030309b97b32", "--app-key", NWK_S_KEY]);
    let told = words(request.succeeded());
    assert!(told.contains("join_eui 0101010101010101") && told.contains("dev_nonce 771"), "{told}");
    assert!(told.contains("holds: the frame is genuine"), "{told}");

    let key = "01010101010101010101010101010101";
    let accept =
        run(&["decode", "20c9fbb259e11649096a568a9e3b7117c3", "--app-key", key, "--output", "json"]).json();
    assert_eq!(accept["dev_addr"], "01020304");
    assert_eq!(accept["join_nonce"], 66_051);
    assert_eq!(accept["mic_verdict"], "matches");
    let closed = run(&["decode", "20c9fbb259e11649096a568a9e3b7117c3"]);
    assert!(words(closed.succeeded()).contains("encrypted; pass --app-key"), "{}", closed.stdout);
}

#[test]
fn what_is_no_frame_is_refused_with_its_reason() {
    run(&["decode", "4004"]).failed(2, &["no LoRaWAN frame, malformed"]);
    run(&["decode", "41040302010000000102030405"]).failed(2, &["unknown_major"]);
    run(&["decode", "40040"]).failed(2, &["odd number"]);
    run(&["decode", "what is this"]).failed(2, &["neither hexadecimal", "nor base64"]);
    run(&["decode", ""]).failed(2, &["no LoRaWAN frame"]);
    for length in 0..64 {
        let frame = "60".repeat(length);
        let outcome = run(&["decode", &frame]);
        assert!([0, 2].contains(&outcome.code), "{length}: {}", outcome.stderr);
    }
}

#[test]
fn the_configuration_in_force_is_printed_with_its_origins() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("loam.toml"), "[store]\nretention_days = 3\n").unwrap();
    let mut command = loam(&["config", "print", "--output", "json", "--data-dir", "elsewhere"]);
    command.current_dir(directory.path()).env("LOAM_CODEC__THREADS", "2");

    let printed = Outcome::of(command.output().unwrap()).json();

    assert_eq!(printed["store.retention_days"]["value"], 3);
    assert_eq!(printed["store.retention_days"]["origin"], "loam.toml");
    assert_eq!(printed["codec.threads"]["origin"], "LOAM_CODEC__THREADS");
    assert_eq!(printed["server.data_dir"]["origin"], "--data-dir");
    assert_eq!(printed["api.bind"]["origin"], "default");
}

#[test]
fn a_wrong_configuration_is_refused_with_the_nearest_key() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("loam.toml");
    std::fs::write(&file, "[gateways]\nupd_bind = \"0.0.0.0:1700\"\n").unwrap();
    let file = file.to_str().unwrap();

    for command in [&["config", "print"][..], &["serve"], &["application", "list"]] {
        run(&[command, &["--config", file]].concat()).failed(2, &["do you mean gateways.udp_bind?"]);
    }
    run(&["serve", "--config", "no-such-file.toml"]).failed(2, &["no-such-file.toml cannot be read"]);
}

#[test]
fn serve_refuses_clear_text_beyond_this_machine() {
    let mut command = loam(&["serve"]);
    command.env("LOAM_API__BIND", "0.0.0.0:0");
    Outcome::of(command.output().unwrap()).failed(2, &["api.bind (from LOAM_API__BIND)", "--insecure"]);

    run(&["serve", "--role", "join-server"]).failed(2, &["internal.bind is not set", "internal.token_file"]);
}

#[test]
fn completion_is_written_for_each_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(run(&["completion", shell]).succeeded().contains("downlink"), "{shell}");
    }
}

#[test]
fn help_and_version_are_no_errors_and_a_wrong_command_is_one() {
    assert!(run(&["--help"]).succeeded().contains("Exit codes:"));
    assert!(run(&["--version"]).succeeded().starts_with("loam "));
    run(&["aplication", "list"]).failed(2, &["'application'"]);
    run(&[]).failed(2, &["Usage"]);
}
