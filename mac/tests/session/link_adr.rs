//! Data rate, power, repetitions.

use std::collections::BTreeSet;

use mac::command::{DownlinkCommand, LinkAdrAns, LinkAdrReq, UplinkCommand};
use mac::region::RegionId;
use mac::session::Profile;
use mac::uplink::{Note, RequestKind};
use mac::version::{MacVersion, RegionalRevision};

use crate::device::Received;
use crate::world::{Air, World, dr};

const LINK_ADR: u8 = 0x03;

/// What a downlink asks for.
fn requests(heard: &Received) -> impl Iterator<Item = &LinkAdrReq> {
    heard.commands.iter().filter_map(|command| match command {
        DownlinkCommand::LinkAdrReq(request) => Some(request),
        _ => None,
    })
}

#[test]
fn a_strong_device_becomes_fast_and_quiet_and_then_is_left_alone() {
    for &region in RegionId::ALL {
        let mut world = World::otaa(Profile { region, ..Profile::default() });
        world.snr_db = 9.0;
        for _ in 0..60 {
            world.report(b"x");
        }
        let revision = world.profile.revision;
        assert_eq!(dr(world.device.dr), world.profile.region().adr_max_dr(revision), "{region}");
        assert!(world.device.tx_power > 0);
        assert_eq!(world.session.mac.tx_power, world.device.tx_power);
        assert!(world.report(b"x").built.is_none());
    }
}

#[test]
fn a_weak_device_is_not_slowed_down_by_the_network() {
    let mut world = World::otaa(Profile::default());
    world.device.dr = 3;
    world.snr_db = -14.0;
    for _ in 0..60 {
        world.report(b"x");
    }
    assert_eq!(world.device.dr, 3);
    assert!(!world.commands_heard().into_iter().flatten().any(|cid| cid == LINK_ADR));
}

/// MAC-013: one block, all of it with the same rate, power and repetitions. MAC-016: never 0 repetitions.
#[test]
fn all_requests_of_a_block_say_the_same() {
    let mut world = World::abp(Profile { region: RegionId::Us915, sub_bands: 0b10, ..Profile::default() });
    world.snr_db = 5.0;
    world.settle();
    for heard in &world.device.received {
        let block: Vec<_> =
            requests(heard).map(|request| (request.data_rate, request.tx_power, request.nb_trans)).collect();
        assert!(block.windows(2).all(|pair| pair[0] == pair[1]), "{block:?}");
        assert!(block.iter().all(|(_, _, nb_trans)| (1..=15).contains(nb_trans)));
    }
}

/// MAC-015: devices answer a block once or once for each of its requests; either way it is one answer.
#[test]
fn a_block_is_agreed_on_however_often_it_is_answered() {
    for &version in MacVersion::ALL {
        for answers_blocks_once in [false, true] {
            let mut sizes = BTreeSet::new();
            for sub_bands in [0xff, 0b1, 0b101, 0b1_0101, 0b101_0101] {
                let mut world = World::abp(Profile {
                    region: RegionId::Us915,
                    mac_version: version,
                    revision: RegionalRevision::Rp001_1_0_2B,
                    sub_bands,
                    ..Profile::default()
                });
                world.device.habits.answers_blocks_once = answers_blocks_once;
                world.snr_db = 5.0;
                world.settle();
                let size = |heard: &Vec<u8>| heard.iter().filter(|cid| **cid == LINK_ADR).count();
                sizes.extend(world.commands_heard().iter().map(size).filter(|size| *size > 0));
                assert_eq!(world.session.mac.channels, world.device.mask, "{version} {sub_bands:#b}");
                assert_eq!(world.device.mask, world.profile.region().sub_band_mask(sub_bands), "{version}");
                assert_eq!(world.session.mac.tx_power, world.device.tx_power, "{version}");
                assert_eq!(world.notes, [], "{version}");
            }
            assert_eq!(sizes, BTreeSet::from([1, 2, 3, 4, 5]), "{version}");
        }
    }
}

/// MAC-015: one answer of a block that refuses refuses the block.
#[test]
fn answers_to_a_block_that_differ_refuse_it() {
    let mut world = World::abp(Profile { region: RegionId::Us915, sub_bands: 0b10, ..Profile::default() });
    world.device.habits.deaf_to = vec![LINK_ADR];
    world.report(b"1");
    let before = world.session.mac.channels;
    let answer = |status| UplinkCommand::LinkAdrAns(LinkAdrAns::from_bytes([status]));
    world.device.says = vec![answer(0b111), answer(0b110)];
    world.report(b"2");
    assert_eq!(world.session.mac.channels, before);
    assert_eq!(world.notes, [Note::MacRequestRefused { kind: RequestKind::LinkAdr }]);
}

/// MAC-014: what was refused is remembered; a slower rate and more power are tried instead.
#[test]
fn a_refused_rate_or_power_is_not_asked_for_ever() {
    let mut world = World::otaa(Profile::default());
    world.device.habits.dr_max = Some(4);
    world.device.habits.tx_power_max = Some(2);
    world.snr_db = 12.0;
    for _ in 0..60 {
        world.report(b"x");
    }
    assert_eq!((world.device.dr, world.session.mac.dr), (4, Some(dr(4))));
    assert!(world.device.tx_power <= 2 && world.device.tx_power == world.session.mac.tx_power);
    let refused = world
        .notes
        .iter()
        .filter(|note| matches!(note, Note::MacRequestRefused { kind: RequestKind::LinkAdr }));
    assert!(refused.count() <= 6);
    assert!(world.report(b"x").built.is_none());
}

/// MAC-014: a device that refuses every block, even one that leaves its channels as they are, is let alone at last: each
/// request costs a downlink.
#[test]
fn a_device_that_refuses_every_block_is_not_asked_for_ever() {
    for &region in RegionId::ALL {
        let mut world = World::otaa(Profile { region, ..Profile::default() });
        world.device.habits.refuses_masks = true;
        world.snr_db = 9.0;
        for _ in 0..40 {
            world.report(b"x");
        }
        let asked = world.commands_heard().len();
        assert!(asked <= 9, "{region}: asked {asked} times");
        assert!(world.report(b"x").built.is_none(), "{region}");

        // Another profile is another question.
        world.device.habits.refuses_masks = false;
        world.profile.rx_delay_s = 4;
        for _ in 0..40 {
            world.report(b"x");
        }
        assert_eq!(dr(world.device.dr), world.profile.region().adr_max_dr(world.profile.revision), "{region}");
    }
}

/// MAC-008: a LinkADRReq that is not answered rests, so that a deaf link is not shouted at.
#[test]
fn a_deaf_device_is_asked_five_times_and_later_again() {
    let mut world = World::otaa(Profile::default());
    world.device.habits.deaf_to = vec![LINK_ADR];
    world.snr_db = 9.0;
    for _ in 0..30 {
        world.report(b"x");
    }
    assert_eq!(world.commands_heard().len(), 5);
    for _ in 0..30 {
        world.report(b"x");
    }
    assert_eq!(world.commands_heard().len(), 6);
    world.device.habits.deaf_to.clear();
    for _ in 0..40 {
        world.report(b"x");
    }
    assert_eq!(world.device.dr, 5);
}

/// MAC-018: a device that asks for a sign of life gets it in the same windows, with or without ADR.
#[test]
fn adr_ack_req_is_answered_at_once() {
    for adr in [true, false] {
        let mut world = World::otaa(Profile { adr, ..Profile::default() });
        world.snr_db = -9.0;
        world.settle();
        // At the slowest rate a device does not ask: it has nothing left to give.
        world.device.dr = 1;
        world.device.adr_ack_cnt = 64;
        let exchange = world.report(b"x");
        assert!(exchange.heard.is_some());
        assert_eq!(world.device.adr_ack_cnt, 0);
        world.settle();
    }
}

/// MAC-019: a device that chooses for itself is not steered, and neither is one whose profile says so.
#[test]
fn nobody_is_steered_who_does_not_want_it() {
    for (device_adr, profile_adr) in [(false, true), (true, false), (false, false)] {
        let mut world = World::otaa(Profile { adr: profile_adr, ..Profile::default() });
        world.device.adr = device_adr;
        world.snr_db = 12.0;
        for _ in 0..40 {
            world.report(b"x");
        }
        assert_eq!((world.device.dr, world.device.tx_power), (0, 0));
        assert!(!world.commands_heard().into_iter().flatten().any(|cid| cid == LINK_ADR));
    }
}

/// A profile may get another region while its devices have sessions.
#[test]
fn a_power_of_the_region_before_is_not_told() {
    let mut world = World::otaa(Profile::default());
    world.session.mac.tx_power = 14;
    world.snr_db = 9.0;

    for _ in 0..60 {
        world.report(b"x");
    }

    let steps = world.profile.region().tx_power_steps(world.profile.revision);
    let told: Vec<u8> = world
        .device
        .received
        .iter()
        .flat_map(requests)
        .filter(|request| request.ch_mask_cntl == 0)
        .map(|request| request.tx_power)
        .collect();
    assert!(!told.is_empty() && told.iter().all(|power| *power < steps), "{told:?}");
}

/// MAC-017: "leave as it is" exists from 1.0.4 on; before, the present values are told.
#[test]
fn a_mask_for_a_device_that_is_not_steered_leaves_rate_and_power() {
    for &version in MacVersion::ALL {
        let mut world = World::abp(Profile {
            region: RegionId::Us915,
            mac_version: version,
            revision: RegionalRevision::Rp001_1_0_3A,
            sub_bands: 0b10,
            ..Profile::default()
        });
        world.device.adr = false;
        world.device.dr = 2;
        world.settle();
        let told: Vec<_> = world
            .device
            .received
            .iter()
            .flat_map(requests)
            .map(|request| (request.data_rate.value(), request.tx_power))
            .collect();
        let expected = if version >= MacVersion::V1_0_4 { (15, 15) } else { (2, 0) };
        assert!(!told.is_empty() && told.iter().all(|told| *told == expected), "{version} {told:?}");
        assert_eq!(world.device.dr, 2);
    }
}

/// MAC-020: after a long silence device and network agree again within two uplinks.
#[test]
fn after_a_back_off_both_sides_agree_again() {
    for (version, silence) in [
        (MacVersion::V1_0_3, 100),
        (MacVersion::V1_0_4, 100),
        (MacVersion::V1_0_4, 140),
        (MacVersion::V1_0_3, 300),
        (MacVersion::V1_1_0, 300),
    ] {
        let mut world = World::otaa(Profile {
            region: RegionId::Us915,
            mac_version: version,
            sub_bands: 0b10,
            ..Profile::default()
        });
        world.snr_db = 9.0;
        for _ in 0..60 {
            world.report(b"x");
        }
        assert!(world.device.tx_power > 0);

        // The gateway's transmitter is broken for days, then for a while nothing is heard of the device either.
        world.air = Air::LosesDownlinks;
        for _ in 0..silence {
            world.now_ms += 600_000;
            let sent = world.device.uplink(Some((2, b"x")), false);
            if silence < 200 {
                world.transmit(&sent);
            }
        }
        world.air = Air::ThroughRx1;
        world.snr_db = -12.0;
        for _ in 0..2 {
            world.report(b"x");
        }
        let mac = &world.session.mac;
        assert_eq!(mac.channels, world.device.mask, "{version} {silence}");
        assert_eq!(mac.tx_power, world.device.tx_power, "{version} {silence}");
        assert_eq!(mac.nb_trans, world.device.nb_trans, "{version} {silence}");
    }
}

#[test]
fn losses_bring_repetitions_and_calm_takes_them_back() {
    let mut world = World::otaa(Profile::default());
    world.snr_db = -10.0;
    world.device.dr = 0;
    for round in 0..60 {
        if round % 4 == 0 {
            let _lost = world.device.uplink(Some((2, b"lost")), false);
        }
        world.report(b"x");
    }
    assert!(world.device.nb_trans >= 2);
    assert_eq!(world.session.mac.nb_trans, world.device.nb_trans);
    for _ in 0..80 {
        world.report(b"x");
    }
    assert_eq!(world.device.nb_trans, 1);
}
