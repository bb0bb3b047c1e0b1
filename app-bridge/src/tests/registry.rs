//! Applications, profiles, devices and keys.

use proto::v1;
use store::{BridgeDeviceRow, Written};
use tonic::Code;

use super::world::{APP_S_KEY, DEV_ADDR, DEV_EUI, World, from_earliest, until, uplink};

const APP_KEY: &str = "8f3a1c5e7b2d4f60918273645546372a";

async fn world() -> World {
    World::new().await.with_application("none").await
}

fn create(device: v1::Device, app_key: &str, nwk_key: &str) -> v1::CreateDeviceRequest {
    let keys = v1::RootKeys { app_key: app_key.to_owned(), nwk_key: nwk_key.to_owned() };
    v1::CreateDeviceRequest { device: Some(device), keys: Some(keys) }
}

#[tokio::test]
async fn a_device_is_known_to_all_roles_when_its_creation_returns() {
    let world = world().await;
    world.create_device(DEV_EUI).await;
    let told = world.network.told.lock().devices[&DEV_EUI].clone();
    assert_eq!((told.join_eui, told.profile_id.as_str()), (0x70b3_d57e_d000_0000, "probe"));
    let joined = world.join.devices.lock()[&DEV_EUI].clone();
    assert_eq!(hex::encode(&joined.app_key), APP_KEY);
    assert_eq!(joined.mac_version(), v1::MacVersion::MacVersion103);
    assert!(world.store.bridge().device(DEV_EUI).await.unwrap().unwrap().provisioned);
}

#[tokio::test]
async fn a_creation_another_role_refuses_leaves_nothing_behind() {
    let world = world().await;
    world.join.refused.lock().insert(DEV_EUI);
    let status = world.devices().create_device(create(world.device(DEV_EUI), APP_KEY, "")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(world.store.bridge().device(DEV_EUI).await.unwrap().is_none());
    assert!(!world.network.told.lock().devices.contains_key(&DEV_EUI));
    assert!(!world.join.devices.lock().contains_key(&DEV_EUI));

    world.join.refused.lock().clear();
    world.create_device(DEV_EUI).await;
}

/// A change that is still to be told makes a device look like one whose creation was interrupted.
#[tokio::test]
async fn a_creation_that_is_refused_does_not_delete_the_device_that_was_there() {
    let world = world().await;
    world.create_device(DEV_EUI).await;
    world.join.refused.lock().insert(DEV_EUI);
    let device = v1::Device { name: "moved".to_owned(), ..world.device(DEV_EUI) };
    world.devices().update_device(v1::UpdateDeviceRequest { device: Some(device) }).await.unwrap();

    let again = world.devices().create_device(create(world.device(DEV_EUI), APP_KEY, "")).await;
    assert_eq!(again.unwrap_err().code(), Code::Unavailable);
    assert!(world.network.told.lock().devices.contains_key(&DEV_EUI), "its sessions are there");
    assert!(world.store.bridge().device(DEV_EUI).await.unwrap().is_some());

    world.join.refused.lock().clear();
    until("all roles know", || async {
        world.store.bridge().device(DEV_EUI).await.unwrap().unwrap().provisioned
    })
    .await;
}

#[tokio::test]
async fn a_creation_a_crash_interrupted_is_finished_at_the_start() {
    let world = world().await;
    assert_eq!(world.store.bridge().insert_device(half_created(0)).await.unwrap(), Written::Done);
    let world = world.restart().await;
    until("the device is provisioned", || async {
        world.store.bridge().device(DEV_EUI).await.unwrap().unwrap().provisioned
    })
    .await;
    assert!(world.network.told.lock().devices.contains_key(&DEV_EUI));
}

/// Only whoever created it has the keys, and was not answered.
#[tokio::test]
async fn a_creation_that_was_cut_off_before_the_keys_were_kept_can_be_asked_for_again() {
    let world = world().await;
    assert_eq!(world.store.bridge().insert_device(half_created(5)).await.unwrap(), Written::Done);
    let world = world.restart().await;
    until("both roles know the device", || async {
        world.network.told.lock().devices.contains_key(&DEV_EUI)
            && world.join.devices.lock().contains_key(&DEV_EUI)
    })
    .await;
    let device = world.device(DEV_EUI);
    let again = world.devices().create_device(create(device, APP_KEY, "")).await;
    again.expect("it is taken over");
    assert_eq!(hex::encode(&world.join.devices.lock()[&DEV_EUI].app_key), APP_KEY);
    assert!(world.store.bridge().device(DEV_EUI).await.unwrap().unwrap().provisioned);
}

#[tokio::test]
async fn keys_that_come_later_finish_a_creation_that_was_cut_off() {
    let world = world().await;
    assert_eq!(world.store.bridge().insert_device(half_created(5)).await.unwrap(), Written::Done);
    let world = world.restart().await;
    let keys = v1::RootKeys { app_key: APP_KEY.to_owned(), nwk_key: String::new() };
    let request = v1::SetKeysRequest { dev_eui: format!("{DEV_EUI:016x}"), keys: Some(keys) };
    world.devices().set_keys(request).await.unwrap();
    until("the device is provisioned", || async {
        world.store.bridge().device(DEV_EUI).await.unwrap().unwrap().provisioned
    })
    .await;
}

/// The row of a device no other role was told of.
fn half_created(join_eui: u64) -> BridgeDeviceRow {
    BridgeDeviceRow {
        dev_eui: DEV_EUI,
        join_eui,
        application_id: "soil".to_owned(),
        profile_id: "probe".to_owned(),
        ..BridgeDeviceRow::default()
    }
}

/// A profile another role refuses does not keep it from hearing of the rest.
#[tokio::test]
async fn a_profile_that_is_refused_holds_up_nobody_else() {
    let world = world().await;
    let refused = v1::Profile { id: "a-first".to_owned(), ..v1::Profile::default() };
    world.store.bridge().insert_profile(&refused).await.unwrap();
    world.network.refused_profiles.lock().insert(refused.id.clone());
    for (dev_eui, profile_id) in [(1, "a-first"), (DEV_EUI, "probe")] {
        let row = BridgeDeviceRow {
            dev_eui,
            application_id: "soil".to_owned(),
            profile_id: profile_id.to_owned(),
            ..BridgeDeviceRow::default()
        };
        assert_eq!(world.store.bridge().insert_device(row).await.unwrap(), Written::Done);
    }
    let world = world.restart().await;
    until("the device is provisioned", || async {
        world.store.bridge().device(DEV_EUI).await.unwrap().unwrap().provisioned
    })
    .await;
    assert!(!world.store.bridge().device(1).await.unwrap().unwrap().provisioned);
}

#[tokio::test]
async fn a_change_whose_caller_went_away_reaches_all_roles() {
    let world = world().await;
    world.create_device(DEV_EUI).await;
    let closed = world.join.gate.lock().await;
    let device = v1::Device { name: "moved".to_owned(), ..world.device(DEV_EUI) };
    let mut client = world.devices();
    let call =
        tokio::spawn(
            async move { client.update_device(v1::UpdateDeviceRequest { device: Some(device) }).await },
        );
    until("the row is written", || async {
        world.store.bridge().device(DEV_EUI).await.unwrap().unwrap().name == "moved"
    })
    .await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    // What follows on the same connection is answered after the server has heard of it.
    for _ in 0..3 {
        world.applications().list_applications(v1::ListApplicationsRequest::default()).await.unwrap();
    }
    drop(closed);
    until("all roles know", || async {
        world.store.bridge().device(DEV_EUI).await.unwrap().unwrap().provisioned
    })
    .await;
}

#[tokio::test]
async fn a_deletion_waits_for_the_creation_it_meets() {
    let world = world().await;
    let closed = world.join.gate.lock().await;
    let (mut creator, mut deleter) = (world.devices(), world.devices());
    let request = create(world.device(DEV_EUI), APP_KEY, "");
    let creation = tokio::spawn(async move { creator.create_device(request).await });
    until("the row is written", || async { world.store.bridge().device(DEV_EUI).await.unwrap().is_some() })
        .await;
    let request = v1::DeleteDeviceRequest { dev_eui: format!("{DEV_EUI:016x}") };
    let mut deletion = tokio::spawn(async move { deleter.delete_device(request).await });
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), &mut deletion).await;
    assert!(early.is_err(), "the creation is not done: {early:?}");

    drop(closed);
    creation.await.unwrap().unwrap();
    deletion.await.unwrap().unwrap();
    assert!(world.store.bridge().device(DEV_EUI).await.unwrap().is_none());
    assert!(world.network.told.lock().devices.is_empty());
    assert!(world.join.devices.lock().is_empty());
}

/// Telling a profile makes the network server look at all its devices.
#[tokio::test]
async fn a_profile_is_told_when_it_changes_or_was_lost_and_not_with_each_device() {
    let world = world().await;
    let puts = || world.network.told.lock().profile_puts;
    let before = puts();
    world.create_device(1).await;
    world.create_device(2).await;
    assert_eq!(puts(), before);

    world.network.told.lock().profiles.clear();
    world.create_device(3).await;
    assert_eq!(puts(), before + 1);
    assert_eq!(world.network.told.lock().profiles["probe"].rx_delay_s, 5);
}

#[tokio::test]
async fn what_exists_already_stays_as_it_was() {
    let world = world().await;
    world.create_device(DEV_EUI).await;
    let second = v1::Device { name: "other".to_owned(), ..world.device(DEV_EUI) };
    let status = world.devices().create_device(create(second, &"11".repeat(16), "")).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(status.message().contains("70b3d57ed0000001"), "{}", status.message());
    assert_eq!(hex::encode(&world.join.devices.lock()[&DEV_EUI].app_key), APP_KEY);

    let application = v1::CreateApplicationRequest { id: "soil".to_owned(), name: String::new() };
    assert_eq!(
        world.applications().create_application(application).await.unwrap_err().code(),
        Code::AlreadyExists
    );
}

/// API-005.
#[tokio::test]
async fn malformed_euis_and_keys_are_refused_with_the_field_and_what_is_wrong() {
    let world = world().await;
    let good = world.device(DEV_EUI);
    let with_eui = |dev_eui: &str| v1::Device { dev_eui: dev_eui.to_owned(), ..good.clone() };
    let cases = [
        (create(with_eui("70b3d57ed000001"), APP_KEY, ""), "device.dev_eui: has 15 characters"),
        (create(with_eui("70b3d57ed0000001aa"), APP_KEY, ""), "device.dev_eui: has 18 characters"),
        (create(with_eui("70b3d57ed000000g"), APP_KEY, ""), "device.dev_eui: `g` at character 16"),
        (create(with_eui(""), APP_KEY, ""), "device.dev_eui: has 0 characters"),
        (create(with_eui("0000000000000000"), APP_KEY, ""), "device.dev_eui: is all zeros"),
        (
            create(v1::Device { join_eui: "0".repeat(16), ..good.clone() }, APP_KEY, ""),
            "device.join_eui: is all zeros",
        ),
        (
            create(v1::Device { join_eui: String::new(), ..good.clone() }, APP_KEY, ""),
            "device.join_eui: is empty",
        ),
        (create(good.clone(), &APP_KEY[1..], ""), "keys.app_key: AppKey has 31 characters"),
        (create(good.clone(), &APP_KEY.replace('8', "x"), ""), "keys.app_key: AppKey has something else"),
        (create(good.clone(), &"0".repeat(32), ""), "keys.app_key: AppKey is all zeros"),
        (create(good.clone(), "", ""), "keys.app_key: AppKey has 0 characters"),
        (create(good.clone(), APP_KEY, APP_KEY), "keys.nwk_key: is of LoRaWAN 1.1"),
        (
            create(v1::Device { application_id: "So".to_owned(), ..good.clone() }, APP_KEY, ""),
            "device.application_id: `S`",
        ),
        (
            create(v1::Device { codec_id: "gone".to_owned(), ..good.clone() }, APP_KEY, ""),
            "device.codec_id: there is no codec `gone`",
        ),
    ];
    for (request, words) in cases {
        let status = world.devices().create_device(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().starts_with(words), "{words} / {}", status.message());
        assert!(!status.message().contains(&APP_KEY[4..]), "a key is not shown");
    }
    let elsewhere = v1::Device { application_id: "nowhere".to_owned(), ..good };
    let status = world.devices().create_device(create(elsewhere, APP_KEY, "")).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, "application nowhere does not exist; create it first")
    );
    assert_eq!(world.store.bridge().device_count().await.unwrap(), 0, "nothing half-written");
}

/// API-005: keys out of examples are taken, for devices come with them, and noted.
#[tokio::test]
async fn a_key_that_is_easily_guessed_is_noted_in_the_audit_trail() {
    let world = world().await;
    let published = "2b7e151628aed2a6abf7158809cf4f3c";
    world.devices().create_device(create(world.device(DEV_EUI), published, "")).await.unwrap();
    let audit = world.store.bridge().audit(i64::MAX, 10).await.unwrap();
    let weak = audit.iter().find(|row| row.action == "keys.weak").unwrap();
    assert_eq!((weak.actor.as_str(), weak.subject.as_str()), ("admin", "70b3d57ed0000001"));
    assert!(!format!("{audit:?}").contains("2b7e"));
}

/// FCNT-007: a device starts its counter again only where somebody allowed it, and that is on record.
#[tokio::test]
async fn allowing_a_counter_to_start_again_is_audited_and_told_to_the_network_server() {
    let world = world().await;
    world.create_device(DEV_EUI).await;
    assert!(!world.network.told.lock().devices[&DEV_EUI].allow_fcnt_reset);
    for allow_fcnt_reset in [true, true, false] {
        let device = v1::Device { allow_fcnt_reset, ..world.device(DEV_EUI) };
        world.devices().update_device(v1::UpdateDeviceRequest { device: Some(device) }).await.unwrap();
        assert_eq!(world.network.told.lock().devices[&DEV_EUI].allow_fcnt_reset, allow_fcnt_reset);
    }
    let audit = world.store.bridge().audit(i64::MAX, 20).await.unwrap();
    let told: Vec<_> = audit.iter().filter(|row| row.action == "device.fcnt_reset").collect();
    assert_eq!(told.iter().map(|row| row.detail.as_str()).collect::<Vec<_>>(), ["refused", "allowed"]);
    assert!(told.iter().all(|row| row.subject == "70b3d57ed0000001" && row.actor == "admin"));
}

/// API-001: keys are written, never read back; changes of keys are audited.
#[tokio::test]
async fn keys_are_never_read_back() {
    let world = world().await;
    world.create_device(DEV_EUI).await;
    let dev_eui = format!("{DEV_EUI:016x}");
    let keys = v1::RootKeys { app_key: "c0ffee00112233445566778899aabbcc".to_owned(), nwk_key: String::new() };
    let set = v1::SetKeysRequest { dev_eui: dev_eui.clone(), keys: Some(keys) };
    world.devices().set_keys(set).await.unwrap();

    let status = v1::GetKeysStatusRequest { dev_eui: dev_eui.clone() };
    let status = world.devices().get_keys_status(status).await.unwrap().into_inner();
    assert!(status.has_app_key && !status.has_nwk_key);
    let shown = world.devices().get_device(v1::GetDeviceRequest { dev_eui: dev_eui.clone() }).await.unwrap();
    assert!(!format!("{shown:?}").contains("c0ffee"));
    world.devices().delete_keys(v1::DeleteKeysRequest { dev_eui }).await.unwrap();

    let audit = world.store.bridge().audit(i64::MAX, 10).await.unwrap();
    let actions: Vec<&str> = audit.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(&actions[..2], ["keys.delete", "keys.set"]);
    assert!(audit.iter().all(|row| !format!("{row:?}").contains("c0ffee")));
}

#[tokio::test]
async fn a_personalised_device_gets_its_session_and_its_payloads_are_decrypted() {
    let world = world().await;
    let device = v1::Device { join_eui: String::new(), ..world.device(DEV_EUI) };
    let request = v1::CreateDeviceRequest { device: Some(device), keys: None };
    world.devices().create_device(request).await.unwrap();
    assert!(world.join.devices.lock().is_empty());

    let activate = v1::ActivateDeviceRequest {
        dev_eui: format!("{DEV_EUI:016x}"),
        dev_addr: format!("{DEV_ADDR:08X}"),
        nwk_s_key: "11".repeat(16),
        app_s_key: hex::encode(APP_S_KEY),
        fcnt_up: Some(41),
        fcnt_down: 7,
        ..v1::ActivateDeviceRequest::default()
    };
    let session_id = world.devices().activate_device(activate.clone()).await.unwrap().into_inner().session_id;
    let told = world.network.told.lock().activations[0].clone();
    assert_eq!(
        (told.session_id, told.dev_addr, told.fcnt_up, told.fcnt_down),
        (session_id, DEV_ADDR, Some(41), 7)
    );
    assert_eq!(told.f_nwk_s_int_key, [0x11; 16]);
    assert_eq!((&told.s_nwk_s_int_key, &told.nwk_s_enc_key), (&told.f_nwk_s_int_key, &told.f_nwk_s_int_key));

    world.network.log_record(uplink(DEV_EUI, session_id, 42, b"hello"));
    assert_eq!(world.watch(from_earliest()).await.uplink().await.payload, b"hello");

    for (request, words) in [
        (
            v1::ActivateDeviceRequest { dev_addr: "2601".to_owned(), ..activate.clone() },
            "dev_addr: has 4 characters",
        ),
        (
            v1::ActivateDeviceRequest { app_s_key: "0".repeat(32), ..activate.clone() },
            "app_s_key: AppSKey is all zeros",
        ),
        (
            v1::ActivateDeviceRequest { nwk_s_enc_key: "22".repeat(16), ..activate.clone() },
            "nwk_s_enc_key: is of LoRaWAN 1.1",
        ),
    ] {
        let status = world.devices().activate_device(request).await.unwrap_err();
        assert!(status.message().starts_with(words), "{words} / {}", status.message());
    }
    assert_eq!(world.network.told.lock().activations.len(), 1);
}

#[tokio::test]
async fn a_device_of_1_1_needs_all_its_keys() {
    let world = world().await;
    let profile = v1::Profile {
        id: "modern".to_owned(),
        region: v1::Region::Eu868 as i32,
        mac_version: v1::MacVersion::MacVersion110 as i32,
        ..v1::Profile::default()
    };
    world.profiles().create_profile(v1::CreateProfileRequest { profile: Some(profile) }).await.unwrap();
    let device = v1::Device { profile_id: "modern".to_owned(), ..world.device(DEV_EUI) };
    let status = world.devices().create_device(create(device.clone(), APP_KEY, "")).await.unwrap_err();
    assert!(status.message().starts_with("keys.nwk_key: NwkKey has 0 characters"), "{}", status.message());
    world.devices().create_device(create(device, APP_KEY, &"33".repeat(16))).await.unwrap();

    let mut activate = v1::ActivateDeviceRequest {
        dev_eui: format!("{DEV_EUI:016x}"),
        dev_addr: "26011bda".to_owned(),
        nwk_s_key: "11".repeat(16),
        app_s_key: "22".repeat(16),
        ..v1::ActivateDeviceRequest::default()
    };
    let status = world.devices().activate_device(activate.clone()).await.unwrap_err();
    assert!(status.message().starts_with("s_nwk_s_int_key: "), "{}", status.message());
    activate.s_nwk_s_int_key = "44".repeat(16);
    activate.nwk_s_enc_key = "55".repeat(16);
    world.devices().activate_device(activate).await.unwrap();
    let told = world.network.told.lock().activations[0].clone();
    assert_eq!((told.s_nwk_s_int_key, told.nwk_s_enc_key), (vec![0x44; 16], vec![0x55; 16]));
}

#[tokio::test]
async fn what_is_in_use_is_not_deleted_and_a_deleted_device_is_gone_everywhere() {
    let world = world().await;
    world.create_device(DEV_EUI).await;
    let application = v1::DeleteApplicationRequest { id: "soil".to_owned() };
    let status = world.applications().delete_application(application.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let profile = v1::DeleteProfileRequest { id: "probe".to_owned() };
    assert_eq!(
        world.profiles().delete_profile(profile.clone()).await.unwrap_err().code(),
        Code::FailedPrecondition
    );

    let dev_eui = format!("{DEV_EUI:016x}");
    let downlink = v1::EnqueueDownlinkRequest {
        dev_eui: dev_eui.clone(),
        f_port: 1,
        content: Some(v1::enqueue_downlink_request::Content::Payload(vec![1])),
        ..v1::EnqueueDownlinkRequest::default()
    };
    let item = world.downlinks().enqueue_downlink(downlink).await.unwrap().into_inner().downlink.unwrap();
    world.devices().delete_device(v1::DeleteDeviceRequest { dev_eui: dev_eui.clone() }).await.unwrap();
    assert!(world.network.told.lock().devices.is_empty() && world.join.devices.lock().is_empty());
    until("the waiting downlink is cancelled", || async {
        world.network.states_of(&item.id) == [v1::DownlinkState::Queued, v1::DownlinkState::Cancelled]
    })
    .await;
    let gone = world.devices().get_device(v1::GetDeviceRequest { dev_eui }).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    world.applications().delete_application(application).await.unwrap();
    world.profiles().delete_profile(profile).await.unwrap();
}

#[tokio::test]
async fn lists_come_in_pages() {
    let world = world().await;
    for dev_eui in 1..=5 {
        world.create_device(dev_eui).await;
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListDevicesRequest { application_id: "soil".to_owned(), page_size: 2, page_token };
        let page = world.devices().list_devices(request).await.unwrap().into_inner();
        assert!(page.devices.len() <= 2);
        seen.extend(page.devices.into_iter().map(|device| device.dev_eui));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (1..=5).map(|eui| format!("{eui:016x}")).collect::<Vec<_>>());
    let application = v1::GetApplicationRequest { id: "soil".to_owned() };
    let application = world.applications().get_application(application).await.unwrap().into_inner().application;
    assert_eq!(application.unwrap().device_count, 5);
}

#[tokio::test]
async fn an_update_reaches_the_network_server_and_the_next_event() {
    let world = world().await.with_joined_device().await;
    world.uplink(&[1]);
    let mut stream = world.watch(from_earliest()).await;
    stream.uplink().await;
    let device = v1::Device { name: "moved".to_owned(), disabled: true, ..world.device(DEV_EUI) };
    world.devices().update_device(v1::UpdateDeviceRequest { device: Some(device.clone()) }).await.unwrap();
    assert!(world.network.told.lock().devices[&DEV_EUI].disabled);
    world.uplink(&[2]);
    loop {
        let (event, _) = stream.event().await;
        if let Some(v1::event::Kind::Uplink(_)) = event.kind {
            assert_eq!(event.device_name, "moved");
            break;
        }
    }
    let unknown = v1::Device { dev_eui: "00000000000000ff".to_owned(), ..device };
    let status =
        world.devices().update_device(v1::UpdateDeviceRequest { device: Some(unknown) }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn a_codec_is_compiled_before_it_is_kept_and_can_be_tested_on_bytes() {
    let world = World::new().await;
    for (id, script) in [
        ("bad", "function decodeUplink(input) {"),
        ("none", "function decodeUplink(i) { return {data: {}}; }"),
        ("empty", ""),
    ] {
        let status = world
            .codecs()
            .set_codec(v1::SetCodecRequest { id: id.to_owned(), script: script.to_owned() })
            .await;
        assert_eq!(status.unwrap_err().code(), Code::InvalidArgument, "{id}");
    }
    let script = "function decodeUplink(input) { return { data: { sum: input.bytes[0] + input.bytes[1] } }; }";
    let set = v1::SetCodecRequest { id: "sum".to_owned(), script: script.to_owned() };
    assert_eq!(world.codecs().set_codec(set.clone()).await.unwrap().into_inner().codec.unwrap().revision, 1);
    assert_eq!(world.codecs().set_codec(set).await.unwrap().into_inner().codec.unwrap().revision, 2);
    let call = v1::test_codec_request::Call::DecodeUplink(v1::test_codec_request::UplinkCall {
        bytes: vec![2, 3],
        f_port: 1,
    });
    let test = v1::TestCodecRequest { id: "sum".to_owned(), script: String::new(), call: Some(call) };
    assert_eq!(world.codecs().test_codec(test).await.unwrap().into_inner().data_json, r#"{"sum":5}"#);
    let list = world.codecs().list_codecs(v1::ListCodecsRequest {}).await.unwrap().into_inner().codecs;
    assert_eq!((list.len(), list[0].script.as_str()), (1, ""));
}
