//! What an operator lives through: ports taken, disks full, keys lost, copies put back, stops and starts. Each fault has a
//! sentence that names the thing and what to do, and none of them costs what was accepted.

#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use loam_tests::disk::{SmallDisk, fill};
use loam_tests::story::{self, DEVICE, GATEWAY, Stand, Stream, hex};
use loam_tests::{DEADLINE, Loam, Starting, eventually};
use mac::crypto::{derive_10, derive_11};
use mac::ids::{DevEui, DevNonce, GatewayEui, JoinEui};
use mac::join_frame::JoinAccept;
use mac::keys::{AppKey, AppSKey, NetworkKeys, NwkKey};
use mac::region::RegionId;
use proto::v1::{self, Region};
use simulator::device::{Heard, RootKeys, VirtualDevice};
use simulator::gateway::{Downlinks, VirtualGateway};
use tonic::Code;

/// A port that is taken is named, with what to do; nothing is left behind that keeps the next start away.
#[test]
fn a_port_in_use_is_named_and_the_server_does_not_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let tcp_address = tcp.local_addr().expect("an address").to_string();
    let udp_address = udp.local_addr().expect("an address").to_string();
    let data_dir = dir.path().join("data");

    for (setting, address, key) in
        [("LOAM_API__BIND", &tcp_address, "api.bind"), ("LOAM_GATEWAYS__UDP_BIND", &udp_address, "port")]
    {
        let (status, log) = refused_start(&data_dir, &[(setting, address)]);
        assert_eq!(status.code(), Some(1), "{log}");
        let last = log.lines().rfind(|line| line.starts_with("loam: ")).expect("a sentence for the person");
        assert!(last.contains(address) && last.contains("in use") && last.contains(key), "{last}");
        assert!(!data_dir.join("endpoints.json").exists(), "nobody is told of a server that is not there");
    }
    drop((tcp, udp));
    assert_eq!(Loam::start(&data_dir).terminate().code(), Some(0));
}

/// FCNT-014: one directory, one server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_on_one_directory_is_refused_and_the_first_goes_on() {
    let mut stand = Stand::set_up().await;
    let data_dir = stand.data_dir();
    let endpoints = fs::read(data_dir.join("endpoints.json")).expect("the first one tells where it is");

    let (status, log) = refused_start(&data_dir, &[]);

    assert_eq!(status.code(), Some(1), "{log}");
    let pid = stand.loam.pid().to_string();
    for words in [data_dir.to_str().expect("UTF-8"), &pid, "stop it or choose another"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert_eq!(fs::read(data_dir.join("endpoints.json")).expect("still there"), endpoints);
    stand.uplink_arrives(b"still here").await;
}

/// OPS-002: a database of a later version is left as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_of_a_newer_version_is_refused_and_left_as_it_is() {
    let (_, dir) = Stand::set_up().await.end();
    let data_dir = dir.path().join("data");
    let url = format!("sqlite://{}", data_dir.join("loam.db").display());
    let pool = sqlx::SqlitePool::connect(&url).await.expect("the database opens");
    let future = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                  VALUES (9999, 'from the future', 1, x'00', 0)";
    sqlx::query(future).execute(&pool).await.expect("a row");
    pool.close().await;
    let before = fs::read(data_dir.join("loam.db")).expect("a database");

    let (status, log) = refused_start(&data_dir, &[]);

    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("9999") && log.contains("install the newer loam"), "{log}");
    assert!(fs::read(data_dir.join("loam.db")).expect("a database") == before, "nothing was written");
}

/// Without the right key-encryption key nothing is opened, made anew or overwritten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_encryption_key_that_is_missing_or_wrong_is_refused_by_name() {
    let (_, dir) = Stand::set_up().await.end();
    let (_, other) = Stand::set_up().await.end();
    let data_dir = dir.path().join("data");
    let database = fs::read(data_dir.join("loam.db")).expect("a database");
    for name in ["kek", "app-kek"] {
        let path = data_dir.join(name);
        let right = fs::read(&path).expect("the key file");

        fs::remove_file(&path).expect("it was there");
        let (status, log) = refused_start(&data_dir, &[]);
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains(path.to_str().expect("UTF-8")) && log.contains("put it back"), "{log}");
        assert!(!path.exists(), "no other key is made in its place");

        fs::write(&path, b"no key at all\n").expect("it can be written");
        let (status, log) = refused_start(&data_dir, &[]);
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains(path.to_str().expect("UTF-8")) && log.contains("Put the right one back"), "{log}");

        fs::write(&path, &right).expect("it can be written");
    }
    let right = fs::read(data_dir.join("kek")).expect("the key file");
    fs::copy(other.path().join("data").join("kek"), data_dir.join("kek")).expect("another server's key");
    let (status, log) = refused_start(&data_dir, &[]);
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("does not open this database"), "{log}");
    assert!(fs::read(data_dir.join("loam.db")).expect("a database") == database, "nothing was written");

    // With the right one, all is as it was.
    fs::write(data_dir.join("kek"), &right).expect("it can be written");
    let loam = Loam::start(&data_dir);
    uplink_goes_through(&loam, b"still here").await;
}

/// FCNT-017: a database from an older time would use its counters and nonces a second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_copied_back_from_an_older_time_is_refused() {
    let (_, dir) = Stand::set_up().await.end();
    let data_dir = dir.path().join("data");
    let old = fs::read(data_dir.join("loam.db")).expect("a database");
    let loam = Loam::start(&data_dir);
    uplink_goes_through(&loam, b"later").await;
    assert_eq!(loam.terminate().code(), Some(0));
    let new = fs::read(data_dir.join("loam.db")).expect("a database");

    put_database(&data_dir, &old);
    let (status, log) = refused_start(&data_dir, &[]);
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("copied back from an older time") && log.contains("Put the newest loam.db"), "{log}");

    // Another directory's database is not taken for this one's either.
    let (_, other) = Stand::set_up().await.end();
    put_database(&data_dir, &fs::read(other.path().join("data").join("loam.db")).expect("a database"));
    let (status, log) = refused_start(&data_dir, &[]);
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("is not the one this directory belongs to"), "{log}");

    put_database(&data_dir, &new);
    let loam = Loam::start(&data_dir);
    let mut stream = Stream::earliest(&loam.client()).await;
    assert_eq!(stream.uplink().await.1.payload, b"later");
}

/// A backup is taken while frames come in, holds no key in the clear, and is not taken for the database itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_taken_under_load_and_is_not_taken_for_the_database() {
    let mut stand = Stand::set_up().await;
    stand.uplink_arrives(b"before the backup").await;
    let file = stand.scratch().join("backup.db");
    let path = file.to_str().expect("UTF-8").to_owned();
    let mut client = stand.client.clone();
    let backup = tokio::spawn(async move { client.system.backup(v1::BackupRequest { path }).await });
    let mut stream = Stream::latest(&stand.client).await;
    let mut sent = 0;
    while !backup.is_finished() || sent < 50 {
        let uplink = stand.device.uplink(sent, Some((1, b"under load")), false);
        stand.push(&uplink).await;
        sent += 1;
        tokio::task::yield_now().await;
    }
    let answer = backup.await.expect("no panic").expect("a backup").into_inner();
    assert_eq!(
        stream.uplinks(usize::try_from(sent).expect("small")).await.len(),
        usize::try_from(sent).expect("small")
    );
    assert_eq!(answer.size_bytes, fs::metadata(&file).expect("a file").len());
    assert_private(&file);

    // Refused: over an existing file, and where nobody can know what the path means.
    let mut client = stand.client.clone();
    let again = v1::BackupRequest { path: file.to_str().expect("UTF-8").into() };
    assert_eq!(client.system.backup(again).await.expect_err("it exists").code(), Code::AlreadyExists);
    let relative = v1::BackupRequest { path: "backup.db".into() };
    assert_eq!(client.system.backup(relative).await.expect_err("relative").code(), Code::InvalidArgument);
    let nowhere = v1::BackupRequest { path: "/nowhere/at/all/backup.db".into() };
    client.system.backup(nowhere).await.expect_err("no such directory");

    // A backup and its key in a fresh directory: refused with what it is, until the counter jump is there.
    let (_, dir) = stand.end();
    let fresh = dir.path().join("fresh");
    fs::create_dir(&fresh).expect("a directory");
    fs::copy(&file, fresh.join("loam.db")).expect("a copy");
    for name in ["kek", "app-kek"] {
        fs::copy(dir.path().join("data").join(name), fresh.join(name)).expect("a copy");
    }
    let (status, log) = refused_start(&fresh, &[]);
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("copied back"), "{log}");
    // With the stamp beside it, and in the place of the database: the same.
    fs::copy(dir.path().join("data").join("stamp"), fresh.join("stamp")).expect("a copy");
    let (status, log) = refused_start(&fresh, &[]);
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("written by `loam backup`") || log.contains("copied back"), "{log}");
}

/// OPS-003: a log on a full disk is a lesser trouble than a server that ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_does_not_harm_the_server() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let full = ["sh", "-c", "exec \"$@\" >/dev/full 2>/dev/full", "sh"];
    let settings = [("LOAM_SERVER__LOG_LEVEL", "debug")];
    let started = Starting::spawn_through(&full, &dir.path().join("data"), &settings).ready();
    let mut stand = Stand::around(started.expect("it starts"), dir).await;
    stand.uplink_arrives(b"nobody reads the log").await;
    let (status, _dir) = stand.end();
    assert!(status.success(), "{status}");
}

/// OPS-003: while nothing can be made durable nothing is acknowledged, and what was acknowledged is there afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_withholds_the_acknowledgement_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data_dir = dir.path().join("data");
    fs::create_dir(&data_dir).expect("empty");
    let Some(_mount) = SmallDisk::mount(&data_dir, "12m") else {
        println!(
            "skipped: a small file system cannot be mounted here (that needs root); the store has its own test of a full disk"
        );
        return;
    };
    let loam = Loam::start(&data_dir);
    let client = loam.client();
    story::register_basics(&client, Region::Eu868, &[GATEWAY]).await;
    story::register_abp(&client, DEVICE, story::DEV_ADDR).await;
    let (gateway, _downlinks) =
        VirtualGateway::connect(loam.udp, GatewayEui::new(GATEWAY)).await.expect("a downlink path");
    let mut device = story::abp_device(DEVICE, story::DEV_ADDR);
    let mut acknowledged = Vec::new();
    assert!(push_one(&gateway, &mut device, &mut acknowledged).await, "a healthy server acknowledges");

    // Full, sooner or later: SQLite has some room in its files.
    let ballast = data_dir.join("ballast");
    fill(&ballast);
    let deadline = Instant::now() + DEADLINE;
    while story::http_get(loam.api, "/readyz").await.0 == 200 {
        push_one(&gateway, &mut device, &mut acknowledged).await;
        assert!(Instant::now() < deadline, "the server never noticed that its disk is full");
    }
    let (status, body) = story::http_get(loam.api, "/readyz").await;
    assert_eq!(status, 503);
    assert!(body.starts_with("not ready: "), "{body}");
    assert_eq!(story::http_get(loam.api, "/healthz").await.0, 200, "the process itself is well");

    // Not ready: a forwarder that stores and forwards keeps what it has.
    for _ in 0..3 {
        assert!(
            !push_one(&gateway, &mut device, &mut acknowledged).await,
            "acknowledged without a place to keep it"
        );
    }
    let told = story::drops(&client).await;
    let not_ready = told.iter().find(|d| d.reason == "not_ready").expect("a person sees it");
    assert!(not_ready.hint.contains("disk") && !not_ready.detail.is_empty(), "{not_ready:?}");
    let application = v1::CreateApplicationRequest { id: "another".into(), name: "x".repeat(100) };
    let refused = client.clone().applications.create_application(application).await;
    if let Err(refused) = refused {
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        assert!(refused.message().contains("space"), "a person is told why: {refused:?}");
    }
    assert!(loam.log().contains("full"), "{}", loam.log());

    // With space it goes on by itself.
    fs::remove_file(&ballast).expect("it was there");
    eventually("ready again", async || (story::http_get(loam.api, "/readyz").await.0 == 200).then_some(()))
        .await;
    assert!(push_one(&gateway, &mut device, &mut acknowledged).await, "acknowledged again");
    let last = *acknowledged.last().expect("some were");
    let mut stream = Stream::earliest(&client).await;
    let mut delivered = Vec::new();
    while delivered.last() != Some(&last) {
        delivered.push(stream.uplink().await.1.fcnt_up);
    }
    assert!(delivered.is_sorted_by(|a, b| a < b), "in order and once: {delivered:?}");
    let lost: Vec<_> = acknowledged.iter().filter(|fcnt| !delivered.contains(fcnt)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    drop(stream);
    assert_eq!(loam.terminate().code(), Some(0));
}

/// OPS-006: the last window of a server that ends is one like all others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirmed_downlink_still_leaves_while_the_server_ends() {
    // A window so wide that it is open when the signal comes.
    let mut stand = Stand::set_up_with(&[("LOAM_NETWORK__DEDUP_WINDOW_MS", "500")]).await;
    for payload in [b"open", b"shut"] {
        let order = v1::EnqueueDownlinkRequest {
            dev_eui: format!("{DEVICE:016x}"),
            f_port: 9,
            content: Some(v1::enqueue_downlink_request::Content::Payload(payload.to_vec())),
            confirmed: payload == b"shut",
            ..v1::EnqueueDownlinkRequest::default()
        };
        stand.client.downlinks.enqueue_downlink(order).await.expect("taken");
    }
    let mut device = stand.device.clone();
    let mut copies = 0;
    // Once the first one has left, the network server knows that more waits.
    let mut heard = Heard::default();
    while heard.payload.is_none() {
        stand.push(&device.uplink(0, Some((1, b"awake")), true)).await;
        copies += 1;
        heard = hear(&mut stand.downlinks, &mut device).await;
    }
    assert_eq!(heard.payload, Some((9, b"open".to_vec())));
    stand.push(&device.uplink(0, Some((1, b"last words")), false)).await;
    eventually("the frame is verified", async || {
        let info =
            stand.client.clone().system.get_info(v1::GetInfoRequest {}).await.expect("info").into_inner();
        (info.copies == copies + 1).then_some(())
    })
    .await;

    let Stand { loam, mut downlinks, .. } = stand;
    assert_eq!(loam.terminate().code(), Some(0));
    let heard = hear(&mut downlinks, &mut device).await;
    assert_eq!((heard.payload, heard.confirmed), (Some((9, b"shut".to_vec())), true));
}

/// Waits for the next downlink and gives it to the device.
async fn hear(downlinks: &mut Downlinks, device: &mut VirtualDevice) -> Heard {
    let left = tokio::time::timeout(DEADLINE, downlinks.recv()).await.expect("a downlink before the deadline");
    device.take_downlink(&left.expect("the gateway goes on").phy_payload).expect("for this device")
}

/// OPS-006: what was received before the end is there after it, and nobody is kept waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_told_to_end_closes_its_windows_first() {
    // Windows so wide that all frames are in one when the signal comes.
    let mut stand = Stand::set_up_with(&[("LOAM_NETWORK__DEDUP_WINDOW_MS", "1000")]).await;
    for number in 1..20 {
        story::register_abp(&stand.client, DEVICE + number, story::DEV_ADDR).await;
    }
    let mut devices: Vec<_> = (1..20).map(|n| story::abp_device(DEVICE + n, story::DEV_ADDR)).collect();
    devices.push(stand.device.clone());
    let mut open = Stream::latest(&stand.client).await;
    for device in &mut devices {
        stand.push(&device.uplink(0, Some((1, b"last words")), true)).await;
    }
    eventually("every frame is verified", async || {
        let info =
            stand.client.clone().system.get_info(v1::GetInfoRequest {}).await.expect("info").into_inner();
        (info.copies == 20).then_some(())
    })
    .await;
    let info = stand.client.system.get_info(v1::GetInfoRequest {}).await.expect("info").into_inner();
    assert_eq!(info.uplinks, 0, "the windows are open");

    let asked = Instant::now();
    let (status, dir) = stand.end();

    assert_eq!(status.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
    // A reader's stream may have had them before it ended; the log has them for sure.
    let _ = tokio::time::timeout(Duration::from_millis(1), open.event()).await;
    let data_dir = dir.path().join("data");
    assert!(!data_dir.join("endpoints.json").exists());
    let loam = Loam::start(&data_dir);
    let mut stream = Stream::earliest(&loam.client()).await;
    let arrived = stream.uplinks(20).await;
    assert!(arrived.iter().all(|(_, uplink)| uplink.payload == b"last words"));
    let log = fs::read_to_string(dir.path().join("data.log")).expect("a log");
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

/// API-001, CRYPTO-024: whoever reads the disk or the log reads no key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_in_the_clear_in_any_file_or_in_the_log() {
    let mut stand = Stand::set_up_with(&[("LOAM_SERVER__LOG_LEVEL", "trace")]).await;
    let mut secrets = Secrets::default();
    secrets.add("NwkSKey (ABP)", &story::AbpKeys::of(DEVICE).nwk_s_key);
    secrets.add("AppSKey (ABP)", &story::AbpKeys::of(DEVICE).app_s_key);
    let join_eui = JoinEui::new(0x70b3_d57e_d000_0001);
    let app_key = *b"\x9e\x41\xd7\x0c\x5b\xf8\x23\xa6\x77\x1d\xc0\x92\x3a\xee\x64\x5f";
    let nwk_key = *b"\x0b\xc8\x7e\x19\xf2\x64\xad\x33\x58\x90\xe1\x4c\x2f\xb7\x06\xd5";
    let app_key_11 = *b"\xd3\x28\x8f\x61\x04\xba\x9c\x57\xe6\x12\x7b\x4d\xf0\x83\x35\xc9";
    secrets.add("AppKey", &app_key);
    secrets.add("NwkKey (1.1)", &nwk_key);
    secrets.add("AppKey (1.1)", &app_key_11);
    let newest = v1::Profile {
        id: "newest".into(),
        mac_version: v1::MacVersion::MacVersion110.into(),
        regional_revision: v1::RegionalRevision::Rp00111RevB.into(),
        ..story::profile(Region::Eu868)
    };
    let create = v1::CreateProfileRequest { profile: Some(newest) };
    stand.client.profiles.create_profile(create).await.expect("a new profile");

    for (dev_eui, profile, root) in [
        (DEVICE + 1, story::PROFILE, RootKeys { app_key, nwk_key: None }),
        (DEVICE + 2, "newest", RootKeys { app_key: app_key_11, nwk_key: Some(nwk_key) }),
    ] {
        let device =
            v1::Device { join_eui: join_eui.to_string(), profile_id: profile.into(), ..story::device(dev_eui) };
        let keys = v1::RootKeys {
            app_key: hex(&root.app_key),
            nwk_key: root.nwk_key.map(|key| hex(&key)).unwrap_or_default(),
        };
        let create = v1::CreateDeviceRequest { device: Some(device), keys: Some(keys) };
        stand.client.devices.create_device(create).await.expect("a new device");
        let mut device = VirtualDevice::otaa(DevEui::new(dev_eui), join_eui, RegionId::Eu868, root.clone());
        let accept = story::join_over_the_air(&stand.gateway, &mut stand.downlinks, &mut device).await;
        let (network, app_s_key) = session_keys(&root, join_eui, &accept);
        secrets.add("FNwkSIntKey", network.f_nwk_s_int.expose());
        secrets.add("SNwkSIntKey", network.s_nwk_s_int.expose());
        secrets.add("NwkSEncKey", network.nwk_s_enc.expose());
        secrets.add("AppSKey", app_s_key.expose());
        let mut stream = Stream::latest(&stand.client).await;
        stand.push(&device.uplink(0, Some((1, b"encrypted")), true)).await;
        assert_eq!(stream.uplink().await.1.payload, b"encrypted");
        let answer = tokio::time::timeout(DEADLINE, stand.downlinks.recv()).await.expect("an answer in time");
        let answer = answer.expect("the gateway goes on");
        assert!(device.take_downlink(&answer.phy_payload).expect("a downlink for this device").ack);
    }
    let backup = stand.scratch().join("backup.db");
    let path = backup.to_str().expect("UTF-8").to_owned();
    stand.client.system.backup(v1::BackupRequest { path }).await.expect("a backup");

    // While it runs, with its WAL, and after its end.
    secrets.are_nowhere_in(stand.scratch());
    let data_dir = stand.data_dir();
    for name in ["admin.key", "kek", "app-kek", "loam.db"] {
        assert_private(&data_dir.join(name));
    }
    let admin_key = fs::read_to_string(data_dir.join("admin.key")).expect("the first start makes it");
    let log = stand.loam.log();
    assert!(log.contains("TRACE"), "the log tells everything it has");
    assert!(!log.contains(admin_key.trim()), "the admin key is in the log");
    let (_, dir) = stand.end();
    secrets.are_nowhere_in(dir.path());
}

/// `/healthz`, `/readyz`, `/metrics`, and logs for machines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_metrics_and_logs_are_there_for_machines() {
    let mut stand =
        Stand::set_up_with(&[("LOAM_SERVER__LOG_FORMAT", "json"), ("LOAM_SERVER__LOG_LEVEL", "debug")]).await;
    stand.uplink_arrives(b"counted").await;

    assert_eq!(story::http_get(stand.loam.api, "/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(story::http_get(stand.loam.api, "/readyz").await, (200, "ready\n".to_owned()));
    let (status, _) = story::http_get(stand.loam.api, "/nothing-here").await;
    assert!((400..500).contains(&status), "{status}");
    let (status, metrics) = story::http_get(stand.loam.api, "/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit_once(' ').map(|(_, value)| value.parse::<f64>());
        assert!(matches!(value, Some(Ok(_))), "{line}");
    }
    for line in ["loam_uplinks_total 1", "loam_devices 1", "loam_sessions 1"] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
    for stage in ["verify", "commit", "payload", "turnaround", "join"] {
        let name = format!("loam_{stage}_seconds_count");
        assert!(metrics.contains(&name), "{name} in\n{metrics}");
    }

    let log = stand.loam.log();
    assert!(log.lines().count() > 1, "{log}");
    for line in log.lines() {
        let entry: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "target"] {
            assert!(entry.get(field).is_some_and(serde_json::Value::is_string), "{field} in {line}");
        }
    }
}

/// A key that does not exist is refused with the nearest one, in the file and in the environment.
#[test]
fn an_unknown_configuration_key_is_refused_with_the_nearest_name() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data_dir = dir.path().join("data");
    for (text, words) in [
        ("[gateways]\nudp_bnd = \"127.0.0.1:0\"\n", "gateways.udp_bind"),
        ("[gatewys]\nudp_bind = \"127.0.0.1:0\"\n", "[gateways]"),
        ("udp_bind = \"127.0.0.1:0\"\n", "gateways.udp_bind"),
        ("[network]\ndedup_window_ms = 5\n", "20 to 1000"),
        ("[api]\nbind = \"localhost\"\n", "127.0.0.1:8080"),
        ("[api\n", "TOML"),
    ] {
        let file = dir.path().join("loam.toml");
        fs::write(&file, text).expect("a file");
        let output = Command::new(loam_tests::binary())
            .args(["serve", "--config", file.to_str().expect("UTF-8"), "--data-dir"])
            .arg(&data_dir)
            .output()
            .expect("the binary is built");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}: {err}");
        assert!(err.contains(words), "{text}: {err}");
        assert!(!data_dir.exists(), "{text}: nothing is made");
        fs::remove_file(&file).expect("it was there");
    }
    let (status, log) = refused_start(&data_dir, &[("LOAM_API__BNID", "127.0.0.1:0")]);
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("LOAM_API__BIND"), "{log}");
    let (status, log) = refused_start(&data_dir, &[("LOAM_API__BIND", "0.0.0.0:0")]);
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("--insecure") && log.contains("tls_cert"), "{log}");
}

/// OPS-001: `loam serve` without a file, on nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_needs_nothing_but_a_place() {
    let free = std::net::TcpListener::bind("127.0.0.1:8080").is_ok()
        && std::net::UdpSocket::bind("0.0.0.0:1700").is_ok();
    if !free {
        println!("skipped: somebody uses the default ports of this machine");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut child = Command::new(loam_tests::binary())
        .args(["serve", "--data-dir", "here/and/there"])
        .current_dir(dir.path())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the binary is built");
    let data_dir = dir.path().join("here/and/there");

    let endpoints =
        eventually("the server is ready", async || fs::read_to_string(data_dir.join("endpoints.json")).ok())
            .await;
    let endpoints: serde_json::Value = serde_json::from_str(&endpoints).expect("JSON");
    assert_eq!(endpoints["api"], "127.0.0.1:8080");
    assert_eq!(endpoints["udp"], "0.0.0.0:1700");
    // The command line finds server and key by the directory alone.
    let output = Command::new(loam_tests::binary())
        .args(["gateway", "list", "--output", "json", "--data-dir", "here/and/there"])
        .current_dir(dir.path())
        .output()
        .expect("the binary is built");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "[]");
    child.kill().expect("the child is ours");
    child.wait().expect("the child is ours");
}

// ---- words of these tests ------------------------------------------------------------------------------------------

/// Starts a server that is expected to end by itself; gives its status and what it has logged.
fn refused_start(data_dir: &Path, settings: &[(&str, &str)]) -> (ExitStatus, String) {
    let log = data_dir.with_extension("log");
    let _ = fs::remove_file(&log);
    let mut child =
        Loam::command(data_dir, settings).spawn().expect("the loam binary is built before the tests");
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            return (status, fs::read_to_string(&log).expect("a log"));
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("a server that should refuse runs: {}", fs::read_to_string(&log).unwrap_or_default());
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The device of a [`Stand`] whose server was started again sends an uplink.
async fn uplink_goes_through(loam: &Loam, payload: &[u8]) {
    let (gateway, _downlinks) =
        VirtualGateway::connect(loam.udp, GatewayEui::new(GATEWAY)).await.expect("a downlink path");
    let mut stream = Stream::latest(&loam.client()).await;
    let sent = story::abp_device(DEVICE, story::DEV_ADDR).uplink(0, Some((1, payload)), false);
    gateway.push(&[story::heard(&gateway, &sent)]).await.expect("loopback takes a datagram");
    assert_eq!(stream.uplink().await.1.payload, payload);
}

/// Puts these bytes in the place of the database, as somebody with a copy would.
fn put_database(data_dir: &Path, bytes: &[u8]) {
    for companion in ["loam.db-wal", "loam.db-shm"] {
        let _ = fs::remove_file(data_dir.join(companion));
    }
    fs::write(data_dir.join("loam.db"), bytes).expect("it can be written");
}

/// Sends one uplink and waits a moment for its PUSH_ACK; true when it came.
async fn push_one(gateway: &VirtualGateway, device: &mut VirtualDevice, acknowledged: &mut Vec<u32>) -> bool {
    let counts = gateway.counts();
    let before = counts.push_acks.load(Ordering::Relaxed);
    let sent = device.uplink(0, Some((1, b"21.5")), false);
    gateway.push(&[story::heard(gateway, &sent)]).await.expect("loopback takes a datagram");
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        if counts.push_acks.load(Ordering::Relaxed) > before {
            acknowledged.push(sent.fcnt);
            return true;
        }
        story::pause(Duration::from_millis(2)).await;
    }
    false
}

#[cfg(unix)]
fn assert_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o077, 0, "{} is for others too: {mode:o}", path.display());
}

/// What a device derives from its root keys and the accept.
fn session_keys(root: &RootKeys, join_eui: JoinEui, accept: &[u8]) -> (NetworkKeys, AppSKey) {
    let key = root.nwk_key.unwrap_or(root.app_key);
    let accept = JoinAccept::open(accept, &key).expect("an accept").accept;
    // The first nonce of a virtual device.
    let dev_nonce = DevNonce::new(1);
    if accept.dl_settings.opt_neg {
        derive_11(&NwkKey::new(key), &AppKey::new(root.app_key), accept.join_nonce, join_eui, dev_nonce)
    } else {
        derive_10(&key, accept.join_nonce, accept.net_id, dev_nonce)
    }
}

/// Keys nobody may find: as bytes, in hexadecimal, in base64, in either byte order.
#[derive(Default)]
struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    fn add(&mut self, name: &str, key: &[u8; 16]) {
        let mut reversed = *key;
        reversed.reverse();
        for (order, bytes) in [("", *key), (" reversed", reversed)] {
            let mut add =
                |form: &str, needle: &[u8]| self.0.push((format!("{name}{order}, {form}"), needle.to_vec()));
            add("raw", &bytes);
            add("hexadecimal", hex(&bytes).as_bytes());
            add("upper case", hex(&bytes).to_uppercase().as_bytes());
            // Without the last group, whose form depends on what follows.
            let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
            add("base64", &base64.as_bytes()[..20]);
            add("as a list", format!("{bytes:?}").trim_matches(['[', ']']).as_bytes());
        }
    }

    fn are_nowhere_in(&self, directory: &Path) {
        let mut by_start: HashMap<&[u8], Vec<&(String, Vec<u8>)>> = HashMap::new();
        for needle in &self.0 {
            by_start.entry(&needle.1[..START]).or_default().push(needle);
        }
        let mut files = 0;
        let mut directories = vec![directory.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                let bytes = match fs::read(&path) {
                    // The stamp is written beside itself and renamed while the server runs.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    read => read.expect("a file"),
                };
                files += 1;
                for (at, start) in bytes.windows(START).enumerate() {
                    for (name, needle) in by_start.get(start).into_iter().flatten() {
                        assert!(!bytes[at..].starts_with(needle), "{name} is in {}", path.display());
                    }
                }
            }
        }
        assert!(files > 5, "there is something to look at");
    }
}

/// Bytes by which a place is worth a second look.
const START: usize = 4;
