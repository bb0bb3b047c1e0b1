//! The command line against a running server, as a person and as a script use it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use loam_tests::story::{self, AbpKeys, DEV_ADDR, DEVICE, GATEWAY, Stand, hex};
use loam_tests::{DEADLINE, Loam, eventually};
use mac::ids::{DevEui, GatewayEui, JoinEui};
use mac::region::RegionId;
use serde_json::Value;
use simulator::device::{RootKeys, VirtualDevice};
use simulator::gateway::VirtualGateway;

const EUI: &str = "70b3d57ed0050001";
const JOIN: &str = "70b3d57ed0000001";
const APP_KEY: &str = "8a3f5c1e9b7d2046e1c8a97f3b5d6024";

/// The README's "your first real gateway and device", from the first start to the first decoded event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_gateway_and_device_take_the_lines_of_the_readme() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let loam = Loam::start(&dir.path().join("data"));
    // A gateway knocks before anybody knows it. What is shown is the line to paste.
    let (gateway, mut downlinks) =
        VirtualGateway::connect(loam.udp, GatewayEui::new(GATEWAY)).await.expect("PULL_DATA is acknowledged");
    let out = ok(&loam, &["gateway", "list", "--unseen"]);
    assert!(out.contains("0016c001ff10aa01"), "{out}");
    let line = line_with(&out, "loam gateway create");
    assert_eq!(line, "loam gateway create 0016c001ff10aa01 --region EU868");
    let seen = json(&loam, &["gateway", "list", "--unseen"]);
    assert_eq!(seen[0]["create_command"], line.as_str());
    let mut pasted: Vec<&str> = line.split(' ').skip(1).collect();
    pasted.extend(["--name", "barn roof"]);
    assert!(ok(&loam, &pasted).contains("0016c001ff10aa01 created"));
    assert_eq!(json(&loam, &["gateway", "list", "--unseen"]), Value::Array(Vec::new()));

    ok(&loam, &["profile", "create", "soil", "--region", "EU868"]);
    ok(&loam, &["application", "create", "north-field"]);

    // A device asks to join before anybody knows it. What is shown is the line to paste, the key comes by another way.
    let mut device = device();
    let request = device.join_request(0);
    gateway.push(&[story::heard(&gateway, &request)]).await.expect("loopback takes a datagram");
    let line = eventually("the unknown device is shown", async || {
        let out = ok(&loam, &["events", "drops"]);
        out.lines().map(str::trim).find(|line| line.starts_with("loam device create")).map(str::to_owned)
    })
    .await;
    assert_eq!(
        line,
        format!(
            "loam device create {EUI} --join-eui {JOIN} --application north-field --profile soil --app-key -"
        )
    );
    let drops = json(&loam, &["events", "drops"]);
    let told =
        drops.as_array().expect("a list").iter().find(|d| d["reason"] == "device_unknown").expect("it is told");
    assert_eq!(told["register_command"], line.as_str());
    assert!(told["hint"].as_str().is_some_and(|hint| !hint.is_empty()));
    let pasted: Vec<&str> = line.split(' ').skip(1).collect();
    let (code, out, err) = with_input(&loam, &pasted, &format!("{APP_KEY}\n"));
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(EUI) && !out.contains(APP_KEY) && !err.contains(APP_KEY), "{out}{err}");

    // The way back is open with the gateway's next PULL_DATA.
    eventually("the gateway has a downlink path", async || {
        let shown = json(&loam, &["gateway", "show", "0016c001ff10aa01"]);
        shown["status"]["downlink_path"].is_string().then_some(())
    })
    .await;

    // A codec, tried before it is used.
    let script = root().join("simulator/src/codecs/soil.js");
    let script = script.to_str().expect("UTF-8");
    ok(&loam, &["codec", "set", "soil-probe", script]);
    let tried = json(&loam, &["codec", "test", "soil-probe", "--port", "2", "0dac0a2804d8019a"]);
    assert!(tried["data"].as_object().is_some_and(|data| !data.is_empty()), "{tried}");
    ok(&loam, &["device", "update", EUI, "--codec", "soil-probe"]);

    // It joins, sends, and the event comes down the terminal.
    let mut tail = Tail::start(&loam, &["--count", "1", "--kind", "uplink"]);
    story::join_over_the_air(&gateway, &mut downlinks, &mut device).await;
    let payload = [0x0d, 0xac, 0x0a, 0x28, 0x04, 0xd8, 0x01, 0x9a];
    let sent = device.uplink(0, Some((2, &payload)), false);
    gateway.push(&[story::heard(&gateway, &sent)]).await.expect("loopback takes a datagram");
    let events = tail.finish();
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0]["dev_eui"], &events[0]["fcnt_up"]), (&Value::from(EUI), &Value::from(0)));
    assert_eq!(events[0]["f_port"], 2);
    assert_eq!(events[0]["data"], base64(&payload));
    assert_eq!(events[0]["decoded"], tried["data"], "the same as it was tried");

    let shown = json(&loam, &["gateway", "show", "0016c001ff10aa01"]);
    assert_eq!(shown["name"], "barn roof");
    assert_eq!(shown["status"]["online"], true);
    assert!(shown["status"]["round_trip_ms"].is_number(), "{shown}");
    let shown = ok(&loam, &["device", "show", EUI]);
    assert!(shown.contains("by OTAA") && shown.contains("north-field"), "{shown}");
}

/// AS-003: a named consumer goes on where it stopped, whatever happened in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_with_a_name_goes_on_where_it_stopped() {
    let mut stand = Stand::set_up().await;
    for payload in [b"1", b"2", b"3", b"4", b"5"] {
        stand.uplink_arrives(payload).await;
    }
    let tail = |count: &str| {
        let arguments = [
            "events",
            "tail",
            "--output",
            "json",
            "--kind",
            "uplink",
            "--consumer",
            "business",
            "--count",
            count,
        ];
        lines(&ok(&stand.loam, &arguments))
    };

    let first = tail("2");
    let second = tail("1");
    let third = tail("2");

    let counters: Vec<_> =
        [&first, &second, &third].iter().flat_map(|lines| lines.iter().map(|l| l["fcnt_up"].clone())).collect();
    assert_eq!(counters, [0, 1, 2, 3, 4].map(Value::from));
    let ids: BTreeSet<_> =
        [&first, &second, &third].iter().flat_map(|lines| lines.iter().map(|l| l["id"].to_string())).collect();
    assert_eq!(ids.len(), 5);
    for field in
        ["id", "kind", "received_at", "application", "dev_eui", "device_name", "cursor", "data", "receptions"]
    {
        assert!(!first[0][field].is_null(), "{field} in {}", first[0]);
    }
    let consumers = json(&stand.loam, &["events", "consumers"]);
    assert_eq!(consumers["consumers"][0]["name"], "business");
    assert_eq!(consumers["consumers"][0]["lag"], 0);
    // Looking again from a cursor of a line does not move the consumer.
    let cursor = format!("cursor:{}", first[1]["cursor"].as_str().expect("text"));
    let again = ok(
        &stand.loam,
        &["events", "tail", "--output", "json", "--kind", "uplink", "--from", &cursor, "--count", "1"],
    );
    assert_eq!(lines(&again)[0]["id"], second[0]["id"]);
    let everything = ok(&stand.loam, &["events", "tail", "--from", "earliest", "--follow=false"]);
    assert!(everything.lines().count() >= 5, "{everything}");
    ok(&stand.loam, &["events", "consumers", "--delete", "business"]);
    assert_eq!(json(&stand.loam, &["events", "consumers"])["consumers"], Value::Array(Vec::new()));
}

/// Every command that tells something tells it to people and to programs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_a_table_for_people_and_json_for_programs() {
    let mut stand = Stand::set_up().await;
    stand.uplink_arrives(b"something to tell").await;
    let script = stand.scratch().join("codec.js");
    fs::write(&script, "function decodeUplink(i) { return { data: { n: i.bytes.length } }; }").expect("a file");
    let backup = stand.scratch().join("backup.db");
    let gateway = format!("{GATEWAY:016x}");
    let commands: Vec<(Vec<&str>, &str)> = vec![
        (vec!["codec", "set", "count", script.to_str().expect("UTF-8")], "count"),
        (vec!["codec", "list"], "count"),
        (vec!["codec", "show", "count"], "count"),
        (vec!["codec", "test", "count", "0102"], "2"),
        (vec!["application", "list"], story::APPLICATION),
        (vec!["application", "show", story::APPLICATION], story::APPLICATION),
        (vec!["profile", "list"], story::PROFILE),
        (vec!["profile", "show", story::PROFILE], "EU868"),
        (vec!["profile", "update", story::PROFILE, "--name", "Better"], story::PROFILE),
        (vec!["gateway", "list"], &gateway),
        (vec!["gateway", "show", &gateway], &gateway),
        (vec!["device", "list"], EUI),
        (vec!["device", "list", "--application", story::APPLICATION], EUI),
        (vec!["device", "show", EUI], "01260001"),
        (vec!["device", "update", EUI, "--tag", "field=north"], EUI),
        (vec!["keys", "status", EUI], ""),
        (vec!["downlink", "enqueue", EUI, "--port", "2", "0a0b"], ""),
        (vec!["downlink", "list", EUI], "queued"),
        (vec!["events", "consumers"], ""),
        (vec!["events", "drops"], ""),
        (vec!["decode", "40010026010000000102030405"], "01260001"),
        (vec!["config", "print"], "api.bind"),
    ];
    for (arguments, words) in commands {
        if arguments == ["keys", "status", EUI] {
            continue;
        }
        let table = ok(&stand.loam, &arguments);
        assert!(
            table.contains(words) && serde_json::from_str::<Value>(&table).is_err(),
            "{arguments:?}: {table}"
        );
        assert!(!table.contains('\u{1b}'), "no colours where nobody sees them: {table:?}");
        let value = json(&stand.loam, &arguments);
        assert!(value.is_object() || value.is_array(), "{arguments:?}: {value}");
        if !words.is_empty() && arguments[0] != "codec" {
            assert!(value.to_string().contains(words), "{arguments:?}: {value}");
        }
    }
    let written = json(&stand.loam, &["backup", backup.to_str().expect("UTF-8")]);
    assert_eq!(written["size_bytes"], fs::metadata(&backup).expect("a file").len());
    assert_eq!(written["key_encryption_key_included"], false);
    let second = stand.scratch().join("second.db");
    let told = ok(&stand.loam, &["backup", second.to_str().expect("UTF-8")]);
    assert!(told.contains("kek") && told.contains("not in it"), "{told}");
}

/// Scripts branch on them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_are_those_of_the_documentation() {
    let stand = Stand::set_up().await;
    let uplink = stand.device.clone().uplink(0, Some((1, b"21.5")), false);
    let frame = hex(&uplink.phy_payload);
    let wrong_key = "11".repeat(15) + "22";
    let throws = stand.scratch().join("throws.js");
    fs::write(&throws, "function decodeUplink(i) { throw new Error('no'); }").expect("a file");
    let throws = throws.to_str().expect("UTF-8");
    let cases: Vec<(i32, Vec<&str>, &str)> = vec![
        (1, vec!["decode", &frame, "--nwk-s-key", &wrong_key], "MIC"),
        (1, vec!["codec", "test", "--file", throws, "01"], "errors"),
        (2, vec!["gateway", "create"], "Usage"),
        (2, vec!["gatway", "list"], "gateway"),
        (2, vec!["device", "show", "70b3"], "16"),
        (3, vec!["device", "show", "70b3d57ed0059999"], "70b3d57ed0059999"),
        (3, vec!["gateway", "show", "0016c001ff10aaff"], "0016c001ff10aaff"),
        (3, vec!["application", "show", "nowhere"], "nowhere"),
        (3, vec!["downlink", "cancel", "nothing"], "nothing"),
        (4, vec!["application", "create", story::APPLICATION], "exists"),
        (4, vec!["application", "delete", story::APPLICATION], "device"),
        (4, vec!["profile", "delete", story::PROFILE], "device"),
        (5, vec!["--server", "127.0.0.1:1", "gateway", "list"], "loam serve"),
        (6, vec!["--api-key", "loam_admin_0000", "gateway", "list"], "--api-key"),
    ];
    for (expected, arguments, words) in cases {
        // Where a case names its own server, it stands for the one of the harness.
        let (code, out, err) = if arguments[0] == "--server" {
            bare(&arguments, stand.scratch())
        } else {
            stand.loam.cli(&arguments)
        };
        assert_eq!(code, expected, "{arguments:?}: {out}{err}");
        assert!(err.contains(words), "{arguments:?}: {words}: {err}");
        assert!(
            !err.contains("Error {") && !err.contains("Status {"),
            "{arguments:?} tells a program's words: {err}"
        );
    }
    // Help is no error, and tells the codes.
    let (code, out, _) = stand.loam.cli(&["--help"]);
    assert!(code == 0 && out.contains("Exit codes"), "{out}");
    let (code, out, _) = bare(&["--version"], stand.scratch());
    assert!(code == 0 && out.starts_with("loam "), "{out}");
    // Without the directory of the server there is no key, and the sentence says so.
    let server = format!("http://{}", stand.loam.api);
    let (code, _, err) =
        bare(&["--server", &server, "--data-dir", "nowhere", "gateway", "list"], stand.scratch());
    assert_eq!(code, 6, "{err}");
    assert!(err.contains("nowhere") && err.contains("--api-key"), "{err}");
}

/// What needs no server works without one.
#[test]
fn decode_completion_and_config_need_no_server() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let keys = AbpKeys::of(DEVICE);
    let uplink = story::abp_device(DEVICE, DEV_ADDR).uplink(0, Some((7, b"21.5")), true);
    let frame = hex(&uplink.phy_payload);
    let (nwk, app) = (hex(&keys.nwk_s_key), hex(&keys.app_s_key));

    let (code, out, err) = bare(&["decode", &frame], dir.path());
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(&format!("{DEV_ADDR:08x}")), "{out}");
    let (code, out, err) =
        bare(&["decode", &frame, "--nwk-s-key", &nwk, "--app-s-key", &app, "--output", "json"], dir.path());
    assert_eq!(code, 0, "{err}");
    let explained: Value = serde_json::from_str(&out).expect("JSON");
    let text = explained.to_string();
    assert!(text.contains(&format!("{DEV_ADDR:08x}")) && text.contains(&hex(b"21.5")), "{explained:#}");
    assert!(!text.contains(&nwk) && !text.contains(&app), "keys are not repeated");
    let (code, out, err) = bare(&["decode", &base64(&uplink.phy_payload)], dir.path());
    assert_eq!(code, 0, "base64, as a log shows it: {out}{err}");

    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, out, err) = bare(&["completion", shell], dir.path());
        assert_eq!(code, 0, "{err}");
        for word in ["gateway", "unseen", "consumer"] {
            assert!(out.contains(word), "{shell}: {word}");
        }
    }

    fs::write(dir.path().join("loam.toml"), "[network]\ndedup_window_ms = 150\n").expect("a file");
    let (code, out, err) = bare(&["config", "print", "--output", "json"], dir.path());
    assert_eq!(code, 0, "{err}");
    let printed: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(printed["network.dedup_window_ms"]["value"], 150);
    assert_eq!(printed["network.dedup_window_ms"]["origin"], "loam.toml");
    assert_eq!(printed["api.bind"]["origin"], "default");
}

/// API-004: an import is checked whole before anything is made, and repeating it is harmless.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_makes_all_or_nothing_and_says_what_is_wrong_by_line() {
    let stand = Stand::set_up().await;
    let path = |name: &str, text: &str| {
        let path = stand.scratch().join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let bad = path(
        "bad.csv",
        "dev_eui,join_eui,app_key,name\n\
         70b3d57ed0060001,70b3d57ed0000001,8a3f5c1e9b7d2046e1c8a97f3b5d6024,good\n\
         70b3d57ed006,70b3d57ed0000001,8a3f5c1e9b7d2046e1c8a97f3b5d6024,short\n\
         70b3d57ed0060003,70b3d57ed0000001,8a3f5c1e9b7d2046e1c8a97f3b5d60,short key\n\
         0000000000000000,,,zero\n\
         70b3d57ed0060001,,,twice\n\
         70b3d57ed0060006,70b3d57ed0000001,8a3f5c1e9b7d2046e1c8a97f3b5d6024,one,too many\n",
    );
    let options = ["--application", story::APPLICATION, "--profile", story::PROFILE];
    let import = |file: &str, more: &[&str]| {
        let mut arguments = vec!["device", "import", file];
        arguments.extend(options);
        arguments.extend(more);
        stand.loam.cli(&arguments)
    };

    let (code, out, err) = import(&bad, &[]);
    assert_eq!(code, 2, "{out}{err}");
    for words in [
        "bad.csv:3: ",
        "bad.csv:4: ",
        "bad.csv:5: ",
        "bad.csv:6: ",
        "bad.csv:7: ",
        "nothing was created",
        "--skip-bad",
    ] {
        assert!(err.contains(words), "{words}: {err}");
    }
    assert!(!err.contains("8a3f5c1e9b7d"), "a key is repeated: {err}");
    assert_eq!(json(&stand.loam, &["device", "list"]).as_array().map(Vec::len), Some(1), "nothing was made");

    let wrong_header = path("header.csv", "dev_eui,joineui\n70b3d57ed0060001,70b3d57ed0000001\n");
    let (code, _, err) = import(&wrong_header, &[]);
    assert!(code == 2 && err.contains("join_eui"), "{err}");
    let nowhere = path("nowhere.csv", "dev_eui,application\n70b3d57ed0060001,nowhere\n");
    let (code, _, err) = import(&nowhere, &[]);
    assert!(code == 2 && err.contains("nowhere"), "{err}");
    let (code, _, err) = import("no such file.csv", &[]);
    assert!(code == 2 && err.contains("no such file.csv"), "{err}");

    let good = path(
        "good.csv",
        "dev_eui;join_eui;app_key;name;tags;dev_addr;nwk_s_key;app_s_key;fcnt_up\r\n\
         70B3D57ED0060001;70b3d57ed0000001;8a3f5c1e9b7d2046e1c8a97f3b5d6024;north;field=north|crop=oats;;;;\r\n\
         70-b3-d5-7e-d0-06-00-02;;;by hand;;01260099;319c7702d45eaa180bf663c9258d4fe0;8a3f5c1e9b7d2046e1c8a97f3b5d6024;41\r\n",
    );
    let (code, out, err) = import(&good, &["--dry-run"]);
    assert!(code == 0 && out.contains("2 devices would be created"), "{out}{err}");
    assert_eq!(json(&stand.loam, &["device", "list"]).as_array().map(Vec::len), Some(1));
    let (code, out, err) = import(&good, &[]);
    assert!(code == 0 && out.contains("2 devices created"), "{out}{err}");
    let (code, out, err) = import(&good, &[]);
    assert!(code == 0 && out.contains("0 devices created, 2 were there already"), "{out}{err}");
    let shown = json(&stand.loam, &["device", "show", "70b3d57ed0060002"]);
    assert!(shown.to_string().contains("01260099") && shown.to_string().contains("41"), "{shown:#}");
    let keys = json(&stand.loam, &["keys", "status", "70b3d57ed0060001"]);
    assert!(!keys.to_string().contains("8a3f5c"), "{keys}");

    let (code, out, err) = import(&bad, &["--skip-bad"]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(json(&stand.loam, &["device", "list"]).as_array().map(Vec::len), Some(3), "{out}{err}");
}

/// AS-006: what waits, in which order, and what is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downlinks_are_queued_listed_and_cancelled() {
    let stand = Stand::set_up().await;
    let enqueue = |arguments: &[&str]| {
        let mut all = vec!["downlink", "enqueue", EUI, "--port", "9"];
        all.extend(arguments);
        json(&stand.loam, &all)
    };
    let first = enqueue(&["0a", "--idempotency-key", "valve-7"]);
    let again = enqueue(&["0a", "--idempotency-key", "valve-7"]);
    assert_eq!(first["id"], again["id"]);
    let urgent = enqueue(&["Cw==", "--priority", "90", "--expires-in", "2h", "--confirmed"]);
    let waiting = json(&stand.loam, &["downlink", "list", EUI]);
    let ids: Vec<&Value> = waiting.as_array().expect("a list").iter().map(|item| &item["id"]).collect();
    assert_eq!(ids, [&first["id"], &urgent["id"]], "{waiting:#}");
    assert_eq!((&waiting[1]["priority"], &waiting[1]["confirmed"]), (&Value::from(90), &Value::from(true)));
    let id = first["id"].as_str().expect("text").to_owned();
    ok(&stand.loam, &["downlink", "cancel", &id]);
    ok(&stand.loam, &["downlink", "cancel", &id]);
    assert_eq!(json(&stand.loam, &["downlink", "list", EUI]).as_array().map(Vec::len), Some(1));
    let all = json(&stand.loam, &["downlink", "list", EUI, "--all"]);
    assert!(all.as_array().is_some_and(|items| items.iter().any(|i| i["state"] == "cancelled")), "{all:#}");
}

// ---- words of these tests ------------------------------------------------------------------------------------------

/// Runs a command that has to succeed; gives its standard output.
fn ok(loam: &Loam, arguments: &[&str]) -> String {
    let (code, out, err) = loam.cli(arguments);
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    out
}

/// The same, as JSON.
fn json(loam: &Loam, arguments: &[&str]) -> Value {
    let mut all = vec!["--output", "json"];
    all.extend(arguments);
    let out = ok(loam, &all);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
}

/// One object a line.
fn lines(out: &str) -> Vec<Value> {
    out.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn line_with(out: &str, start: &str) -> String {
    let found = out.lines().map(str::trim).find(|line| line.starts_with(start));
    found.unwrap_or_else(|| panic!("{start} in {out}")).to_owned()
}

/// Runs a command without naming a server.
fn bare(arguments: &[&str], directory: &Path) -> (i32, String, String) {
    let output = Command::new(loam_tests::binary())
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("the loam binary is built before the tests");
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Runs a command that finds the server by its data directory alone, with text on its standard input.
fn with_input(loam: &Loam, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(loam_tests::binary())
        .arg("--data-dir")
        .arg(data_dir(loam))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the loam binary is built before the tests");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it is read");
    let output = child.wait_with_output().expect("the child is ours");
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// A `loam events tail` in the background.
struct Tail {
    child: std::process::Child,
}

impl Tail {
    /// Starts with the earliest event, so that nothing depends on when it begins.
    fn start(loam: &Loam, arguments: &[&str]) -> Self {
        let child = Command::new(loam_tests::binary())
            .arg("--data-dir")
            .arg(data_dir(loam))
            .args(["events", "tail", "--output", "json", "--from", "earliest"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the loam binary is built before the tests");
        Self { child }
    }

    /// Waits until it ends by itself; gives what it has written.
    fn finish(&mut self) -> Vec<Value> {
        let deadline = std::time::Instant::now() + DEADLINE;
        while self.child.try_wait().expect("the child is ours").is_none() {
            assert!(std::time::Instant::now() < deadline, "the tail did not end");
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        let mut out = String::new();
        let mut stdout = self.child.stdout.take().expect("it is piped");
        std::io::Read::read_to_string(&mut stdout, &mut out).expect("it can be read");
        lines(&out)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn data_dir(loam: &Loam) -> PathBuf {
    loam.data_dir().to_owned()
}

fn device() -> VirtualDevice {
    let mut app_key = [0; 16];
    for (byte, digits) in app_key.iter_mut().zip(APP_KEY.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).expect("ASCII");
        *byte = u8::from_str_radix(digits, 16).expect("hexadecimal");
    }
    let root = RootKeys { app_key, nwk_key: None };
    let join_eui = JoinEui::new(0x70b3_d57e_d000_0001);
    VirtualDevice::otaa(DevEui::new(DEVICE), join_eui, RegionId::Eu868, root)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}
