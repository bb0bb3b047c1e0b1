//! What only 1.1 has: rekeying, reset, encrypted FOpts, device mode.

use mac::command::{DeviceMode, DeviceModeInd, UplinkCommand};
use mac::drop_reason::DropReason;
use mac::session::{DeviceClass, Profile};
use mac::version::MacVersion;

use crate::world::{Air, World};

/// MAC-037, MAC-038: nothing counts before RekeyInd; with it the session begins.
#[test]
fn a_joined_device_is_refused_until_it_says_rekey_ind() {
    let mut world = World::otaa(profile());
    world.device.wants_rekey = false;
    let before = world.session.clone();
    world.report(b"too early");
    assert_eq!(world.drops, [DropReason::AwaitingRekeyInd]);
    assert_eq!(world.delivered, []);
    assert_eq!((world.session.fcnt_up, &world.session.mac), (before.fcnt_up, &before.mac));

    world.device.wants_rekey = true;
    let exchange = world.report(b"now");
    assert!(exchange.step.unwrap().session_confirmed);
    assert_eq!(exchange.heard.unwrap().commands.first().map(|command| command.cid()), Some(0x0b));
    assert!(!world.session.mac.pending);
    assert!(!world.device.wants_rekey);
    assert!(!world.report(b"later").step.unwrap().session_confirmed);
}

/// MAC-037: RekeyInd is repeated until RekeyConf comes, and confirmed each time.
#[test]
fn a_lost_rekey_conf_is_sent_again() {
    let mut world = World::otaa(profile());
    world.air = Air::LosesDownlinks;
    world.report(b"1");
    world.restart();
    assert!(world.report(b"2").built.is_some());
    world.air = Air::ThroughRx1;
    world.report(b"3");
    assert!(!world.device.wants_rekey);
    assert_eq!(world.delivered.len(), 3);
}

/// MAC-036, MAC-037: each word belongs to its kind of device.
#[test]
fn rekey_ind_of_a_personalised_and_reset_ind_of_a_joined_device_are_ignored() {
    let mut joined = World::otaa(profile());
    joined.settle();
    joined.device.wants_reset = true;
    let mac = joined.session.mac.clone();
    assert!(joined.report(b"x").built.is_none());
    assert_eq!(joined.session.mac, mac);

    let mut personalised = World::abp(profile());
    personalised.settle();
    personalised.device.wants_rekey = true;
    assert!(personalised.report(b"x").built.is_none());

    let mut old = World::otaa(Profile::default());
    old.settle();
    (old.device.wants_rekey, old.device.wants_reset) = (true, true);
    assert!(old.report(b"x").built.is_none());
    assert_eq!(old.delivered.last().unwrap().1, b"x");
}

/// MAC-036: a personalised device that lost its settings says so; the settings begin anew, the counters go on.
#[test]
fn reset_ind_begins_the_settings_anew_and_keeps_the_counters() {
    let mut world = World::abp(profile());
    world.snr_db = 9.0;
    world.settle();
    assert_eq!(world.session.mac.rx1_delay_s, 5);
    let (fcnt_up, n_fcnt_down) = (world.session.fcnt_up.unwrap(), world.session.n_fcnt_down);

    let fresh = World::abp(profile()).device;
    let device = &mut world.device;
    *device = crate::device::Device {
        fcnt_up: device.fcnt_up,
        last_n: device.last_n,
        last_a: device.last_a,
        ..fresh
    };
    let exchange = world.report(b"rebooted");
    let plan = exchange.step.unwrap().downlink.unwrap();
    assert_eq!(plan.rx1.unwrap().delay_s, 1, "the windows a device boots with");
    assert!(exchange.heard.unwrap().commands.iter().any(|command| command.cid() == 0x01));
    assert!(world.session.fcnt_up.unwrap() > fcnt_up && world.session.n_fcnt_down > n_fcnt_down);
    assert!(!world.device.wants_reset);
    world.settle();
    assert_eq!(world.session.mac.rx1_delay_s, 5);
}

/// MAC-042.
#[test]
fn the_class_a_1_1_device_names_is_confirmed_and_remembered() {
    let mut world = World::otaa(profile());
    world.settle();
    for (class, remembered) in [(DeviceMode::ClassC, DeviceClass::C), (DeviceMode::ClassA, DeviceClass::A)] {
        world.device.says.push(UplinkCommand::DeviceModeInd(DeviceModeInd { class }));
        let heard = world.report(b"x").heard.unwrap();
        assert_eq!(heard.commands.len(), 1);
        assert_eq!(heard.commands[0].cid(), 0x20);
        assert_eq!(world.session.mac.class, remembered);
    }
    world.device.says.push(UplinkCommand::DeviceModeInd(DeviceModeInd { class: DeviceMode::Reserved(1) }));
    assert!(world.report(b"x").built.is_none());

    let mut old = World::otaa(Profile::default());
    old.settle();
    old.device.says.push(UplinkCommand::DeviceModeInd(DeviceModeInd { class: DeviceMode::ClassC }));
    assert!(old.report(b"x").built.is_none());
    assert_eq!(old.session.mac.class, DeviceClass::A);
}

/// JOIN-018: a new join begins everything anew.
#[test]
fn a_new_session_knows_nothing_of_the_one_before() {
    for version in [MacVersion::V1_0_3, MacVersion::V1_1_0] {
        let mut world = World::otaa(Profile { mac_version: version, ..Profile::default() });
        let begun = world.session.mac.clone();
        world.snr_db = 9.0;
        world.settle();
        assert_ne!(world.session.mac, begun);
        let joined_again = World::otaa(world.profile.clone()).session;
        assert_eq!(joined_again.mac, begun);
        assert_eq!((joined_again.fcnt_up, joined_again.n_fcnt_down, joined_again.a_fcnt_down), (None, 0, 0));
    }
}

fn profile() -> Profile {
    Profile { mac_version: MacVersion::V1_1_0, ..Profile::default() }
}
