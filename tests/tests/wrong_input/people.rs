//! What people mistype, in the API and on the command line.

use loam_tests::Client;
use loam_tests::story::{self, DEV_ADDR, DEVICE, Stand, hex};
use proto::v1::{self, Region};
use tonic::Code;

use crate::{APP_KEY, JOIN_EUI, OTHER_KEY, device_state, otaa, register_otaa};

/// API-005, API-001: a person who mistypes is told what, where and what is right; the key is not repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_names_and_keys_are_refused_by_the_api_and_nothing_is_made() {
    let stand = Stand::set_up().await;
    let mut client = stand.client.clone();
    let before = everything(&client).await;
    let euis = [
        ("", "dev_eui"),
        ("70b3d57ed005", "16"),
        ("70b3d57ed005000", "16"),
        ("70b3d57ed005000g", "hexadecimal"),
        ("70b3d57ed00500010", "16"),
        ("0000000000000000", "zero"),
    ];
    let keys = [
        ("8a3f5c1e9b7d2046e1c8a97f3b5d60", "30"),
        ("8a3f5c1e9b7d2046e1c8a97f3b5d602", "31"),
        ("8a3f5c1e9b7d2046e1c8a97f3b5d602x", "hexadecimal"),
        ("00000000000000000000000000000000", "zero"),
        ("8a3f5c1e9b7d2046e1c8a97f3b5d60248a3f", "36"),
    ];
    let device = |dev_eui: &str, join_eui: &str| v1::Device {
        dev_eui: dev_eui.into(),
        join_eui: join_eui.into(),
        ..story::device(1)
    };
    let good_keys = Some(v1::RootKeys { app_key: hex(&APP_KEY), nwk_key: String::new() });

    for (eui, words) in euis {
        let create = v1::CreateDeviceRequest {
            device: Some(device(eui, &hex(&JOIN_EUI.to_be_bytes()))),
            keys: good_keys.clone(),
        };
        let refused = client.devices.create_device(create).await.expect_err(eui);
        refused_with(&refused, "dev_eui", words);
        let gateway =
            v1::Gateway { gateway_eui: eui.into(), region: Region::Eu868.into(), ..v1::Gateway::default() };
        let create = v1::CreateGatewayRequest { gateway: Some(gateway) };
        let refused = client.gateways.create_gateway(create).await.expect_err(eui);
        refused_with(&refused, "gateway_eui", if eui.is_empty() { "16" } else { words });
        let get = v1::GetDeviceRequest { dev_eui: eui.into() };
        refused_with(&client.devices.get_device(get).await.expect_err(eui), "dev_eui", words);
        if !eui.is_empty() && eui != "0000000000000000" {
            let create = v1::CreateDeviceRequest {
                device: Some(device("70b3d57ed0059999", eui)),
                keys: good_keys.clone(),
            };
            let refused = client.devices.create_device(create).await.expect_err(eui);
            refused_with(&refused, "join_eui", words);
        }
    }
    for (key, words) in keys {
        let create = v1::CreateDeviceRequest {
            device: Some(device("70b3d57ed0059999", &hex(&JOIN_EUI.to_be_bytes()))),
            keys: Some(v1::RootKeys { app_key: key.into(), nwk_key: String::new() }),
        };
        let refused = client.devices.create_device(create).await.expect_err(key);
        refused_with(&refused, "app_key", words);
        never_told(&refused, key);
        let set = v1::SetKeysRequest {
            dev_eui: format!("{DEVICE:016x}"),
            keys: Some(v1::RootKeys { app_key: key.into(), nwk_key: String::new() }),
        };
        let refused = client.devices.set_keys(set).await.expect_err(key);
        assert!([Code::InvalidArgument, Code::FailedPrecondition].contains(&refused.code()), "{refused:?}");
        never_told(&refused, key);
        let activate = v1::ActivateDeviceRequest {
            dev_eui: format!("{DEVICE:016x}"),
            dev_addr: format!("{DEV_ADDR:08x}"),
            nwk_s_key: key.into(),
            app_s_key: hex(&OTHER_KEY),
            ..v1::ActivateDeviceRequest::default()
        };
        let refused = client.devices.activate_device(activate.clone()).await.expect_err(key);
        refused_with(&refused, "nwk_s_key", words);
        never_told(&refused, key);
        let activate =
            v1::ActivateDeviceRequest { nwk_s_key: hex(&OTHER_KEY), app_s_key: key.into(), ..activate };
        let refused = client.devices.activate_device(activate).await.expect_err(key);
        refused_with(&refused, "app_s_key", words);
        never_told(&refused, key);
    }
    for dev_addr in ["", "0126", "0126000", "0126000g", "012600011"] {
        let activate = v1::ActivateDeviceRequest {
            dev_eui: format!("{DEVICE:016x}"),
            dev_addr: dev_addr.into(),
            nwk_s_key: hex(&OTHER_KEY),
            app_s_key: hex(&APP_KEY),
            ..v1::ActivateDeviceRequest::default()
        };
        let refused = client.devices.activate_device(activate).await.expect_err(dev_addr);
        refused_with(&refused, "dev_addr", "8");
    }
    for id in ["", "North", "7", "a b", &"a".repeat(65)] {
        let create = v1::CreateApplicationRequest { id: id.into(), name: "x".into() };
        let refused = client.applications.create_application(create).await.expect_err(id);
        refused_with(&refused, "id", "1 to 64");
    }
    let unknown = v1::Device { profile_id: "nowhere".into(), ..story::device(0x70b3_d57e_d005_9999) };
    let create = v1::CreateDeviceRequest { device: Some(unknown), keys: None };
    let refused = client.devices.create_device(create).await.expect_err("no such profile");
    assert!(refused.message().contains("nowhere"), "{refused:?}");

    // Too large for any purpose: refused by size, before anything is read.
    for (len, codes) in [
        (300 << 10, [Code::InvalidArgument, Code::InvalidArgument]),
        (6 << 20, [Code::OutOfRange, Code::ResourceExhausted]),
    ] {
        let set = v1::SetCodecRequest { id: "large".into(), script: " ".repeat(len) };
        let refused = client.codecs.set_codec(set).await.expect_err("too large");
        assert!(codes.contains(&refused.code()), "{len}: {refused:?}");
    }

    // Nothing was made, and the live session is the one of before.
    assert_eq!(everything(&client).await, before);
    let mut stand = stand;
    stand.uplink_arrives(b"still here").await;
}

/// The same on the command line: exit code 2, a sentence that names the value's fault, nothing done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_names_and_keys_are_refused_by_the_command_line_and_nothing_is_made() {
    let stand = Stand::set_up().await;
    let before = everything(&stand.client).await;
    let device = |dev_eui: &'static str, join_eui: &'static str, key: &'static str| {
        vec![
            "device",
            "create",
            dev_eui,
            "--application",
            story::APPLICATION,
            "--profile",
            story::PROFILE,
            "--join-eui",
            join_eui,
            "--app-key",
            key,
        ]
    };
    const GOOD: &str = "8a3f5c1e9b7d2046e1c8a97f3b5d6024";
    const JOIN: &str = "70b3d57ed0000001";
    const NEW: &str = "70b3d57ed0059999";
    let cases = [
        (vec!["gateway", "create", "0016c001ff10aa", "--region", "EU868"], "14 hexadecimal digits"),
        (vec!["gateway", "create", "0016c001ff10aa0", "--region", "EU868"], "odd"),
        (vec!["gateway", "create", "0016c001ff10aa0z", "--region", "EU868"], "character 16"),
        (vec!["gateway", "create", "0000000000000000", "--region", "EU868"], "all-zero"),
        (vec!["gateway", "create", "0016c001ff10aa09", "--region", "EU869"], "EU868"),
        (device("70b3d57ed00599", JOIN, GOOD), "14 hexadecimal digits"),
        (device("70b3d57ed005999", JOIN, GOOD), "odd"),
        (device("70b3d57ed005999x", JOIN, GOOD), "character 16"),
        (device("0000000000000000", JOIN, GOOD), "all-zero"),
        (device(NEW, "70b3d57ed00000", GOOD), "14 hexadecimal digits"),
        (device(NEW, JOIN, "8a3f5c1e9b7d2046e1c8a97f3b5d60"), "30 hexadecimal digits"),
        (device(NEW, JOIN, "8a3f5c1e9b7d2046e1c8a97f3b5d602"), "31 hexadecimal digits"),
        (device(NEW, JOIN, "8a3f5c1e9b7d2046e1c8a97f3b5d602x"), "character 32"),
        (device(NEW, JOIN, "00000000000000000000000000000000"), "all-zero"),
        (device(NEW, JOIN, "@nowhere.key"), "nowhere.key"),
        (vec!["device", "activate", NEW, "--dev-addr", "0126", "--nwk-s-key", GOOD, "--app-s-key", GOOD], "8"),
        (vec!["downlink", "enqueue", "70b3d57ed0050001", "--port", "2", "abc"], "odd"),
        (vec!["downlink", "enqueue", "70b3d57ed0050001", "--port", "0", "ab"], "0"),
        (vec!["decode", "4"], "odd"),
        (vec!["decode", "00"], "malformed"),
        (vec!["events", "tail", "--from", "yesterday"], "earliest"),
    ];
    for (arguments, words) in cases {
        let (code, out, err) = stand.loam.cli(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {out}{err}");
        assert!(err.contains(words), "{arguments:?}: {err}");
        assert!(!err.contains("8a3f5c1e9b7d") && !err.contains("2b7e1516"), "a key is repeated: {err}");
    }
    assert_eq!(everything(&stand.client).await, before);
}

/// A second device of one DevEUI, a second gateway, application and profile: refused, and the first is as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_exists_already_is_not_made_twice() {
    let mut stand = Stand::set_up().await;
    let dev_eui = DEVICE + 7;
    register_otaa(&stand.client, dev_eui, story::PROFILE, &APP_KEY).await;
    let before = everything(&stand.client).await;

    let again = v1::CreateDeviceRequest {
        device: Some(v1::Device {
            join_eui: format!("{JOIN_EUI:016x}"),
            name: "another".into(),
            ..story::device(dev_eui)
        }),
        keys: Some(v1::RootKeys { app_key: hex(&OTHER_KEY), nwk_key: String::new() }),
    };
    let refused = stand.client.devices.create_device(again).await.expect_err("it exists");
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains(&format!("{dev_eui:016x}")), "{refused:?}");
    let (code, _, err) = stand.loam.cli(&[
        "device",
        "create",
        &format!("{dev_eui:016x}"),
        "--application",
        story::APPLICATION,
        "--profile",
        story::PROFILE,
        "--join-eui",
        &format!("{JOIN_EUI:016x}"),
        "--app-key",
        &hex(&OTHER_KEY),
    ]);
    assert_eq!(code, 4, "{err}");
    assert!(err.contains(&format!("{dev_eui:016x}")) && err.contains("exists"), "{err}");
    for arguments in [
        vec!["gateway", "create", "0016c001ff10aa01", "--region", "EU868"],
        vec!["application", "create", story::APPLICATION],
        vec!["profile", "create", story::PROFILE, "--region", "US915"],
    ] {
        let (code, _, err) = stand.loam.cli(&arguments);
        assert_eq!(code, 4, "{arguments:?}: {err}");
    }

    // The first one's key is the one that counts.
    assert_eq!(everything(&stand.client).await, before);
    let mut device = otaa(dev_eui, JOIN_EUI, &APP_KEY);
    story::join_over_the_air(&stand.gateway, &mut stand.downlinks, &mut device).await;
    stand.uplink_arrives(b"still here").await;
}

/// What is registered, in words that can be compared.
async fn everything(client: &Client) -> String {
    let mut client = client.clone();
    let devices =
        client.devices.list_devices(v1::ListDevicesRequest::default()).await.expect("a list").into_inner();
    let gateways =
        client.gateways.list_gateways(v1::ListGatewaysRequest::default()).await.expect("a list").into_inner();
    let applications = client
        .applications
        .list_applications(v1::ListApplicationsRequest::default())
        .await
        .expect("a list")
        .into_inner();
    let profiles =
        client.profiles.list_profiles(v1::ListProfilesRequest::default()).await.expect("a list").into_inner();
    let gateways: Vec<_> = gateways.gateways.into_iter().map(|item| item.gateway).collect();
    let state = device_state(&client, DEVICE).await;
    format!("{devices:#?}\n{gateways:#?}\n{applications:#?}\n{profiles:#?}\n{state:#?}")
}

fn refused_with(refused: &tonic::Status, field: &str, words: &str) {
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains(field), "{field}: {refused:?}");
    assert!(refused.message().contains(words), "{words}: {refused:?}");
}

fn never_told(refused: &tonic::Status, key: &str) {
    assert!(!refused.message().contains(&key[..12]), "a key is repeated: {refused:?}");
}
