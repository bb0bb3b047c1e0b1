//! Receive windows: when, where, how fast, how long.

use mac::airtime::airtime_us;
use mac::downlink::join_windows;
use mac::region::{CodingRate, Modulation, RegionId};
use mac::session::Profile;
use mac::version::{MacVersion, RegionalRevision};

use crate::world::{Air, World, dr, hz};

/// RXWIN-001, JOIN-009: the delays of the Join-Accept are those used, RX2 a second later.
#[test]
fn every_receive_delay_is_kept_in_both_windows() {
    for rx_delay_s in 1..=15 {
        for air in [Air::ThroughRx1, Air::ThroughRx2] {
            let mut world = World::otaa(Profile { rx_delay_s, ..Profile::default() });
            world.air = air;
            let exchange = world.report_confirmed(b"x");
            let plan = exchange.step.unwrap().downlink.unwrap();
            assert_eq!(plan.rx1.unwrap().delay_s, rx_delay_s);
            assert_eq!(plan.rx2.unwrap().delay_s, rx_delay_s + 1);
            assert!(exchange.heard.is_some());
        }
    }
}

/// JOIN-009: offset, RX2 rate and channels of the Join-Accept too.
#[test]
fn a_joined_device_is_reached_with_what_its_join_accept_said() {
    for air in [Air::ThroughRx1, Air::ThroughRx2] {
        let mut world = World::otaa(Profile {
            rx1_dr_offset: 2,
            rx2_dr: Some(dr(3)),
            extra_channels: vec![hz(867_100_000), hz(867_300_000)],
            ..Profile::default()
        });
        world.air = air;
        world.device.dr = 5;
        world.device.adr = false;
        let exchange = world.report_confirmed(b"x");
        let plan = exchange.step.unwrap().downlink.unwrap();
        assert_eq!(plan.rx1.unwrap().dr, dr(3));
        assert_eq!(plan.rx2.unwrap().dr, dr(3));
        assert!(exchange.heard.unwrap().commands.is_empty(), "nothing is left to be asked");
    }
}

/// RXWIN-002: RX1 follows the uplink's channel and rate in every region.
#[test]
fn rx1_follows_the_uplink_in_every_region() {
    for &region in RegionId::ALL {
        let mut world = World::otaa(Profile { region, ..Profile::default() });
        world.device.adr = false;
        world.settle();
        for data_rate in 2..=5 {
            if world
                .device
                .channels()
                .iter()
                .all(|channel| channel.dr_max < dr(data_rate) || channel.dr_min > dr(data_rate))
            {
                continue;
            }
            world.device.dr = data_rate;
            assert!(world.report_confirmed(b"x").heard.is_some(), "{region} DR{data_rate}");
        }
    }
}

/// RXWIN-004: a Join-Request is answered after 5 and 6 s, in the windows of a device that has just booted.
#[test]
fn a_join_is_answered_after_five_and_six_seconds() {
    let profile = Profile { rx_delay_s: 1, rx1_dr_offset: 3, rx2_dr: Some(dr(3)), ..Profile::default() };
    let (rx1, rx2) = join_windows(&profile, hz(868_300_000), dr(5), Some(1));
    let (rx1, rx2) = (rx1.unwrap(), rx2.unwrap());
    assert_eq!((rx1.delay_s, rx1.freq, rx1.dr), (5, hz(868_300_000), dr(5)));
    assert_eq!((rx2.delay_s, rx2.freq, rx2.dr), (6, hz(869_525_000), dr(0)));

    let us = Profile { region: RegionId::Us915, ..Profile::default() };
    let (rx1, rx2) = join_windows(&us, hz(903_900_000), dr(0), Some(8));
    assert_eq!((rx1.unwrap().freq, rx1.unwrap().dr), (hz(923_300_000), dr(10)));
    assert_eq!((rx2.unwrap().freq, rx2.unwrap().dr), (hz(923_300_000), dr(8)));
    let (rx1, rx2) = join_windows(&us, hz(903_950_000), dr(0), None);
    assert!(rx1.is_none() && rx2.is_some(), "off the plan only RX2 is left");
}

/// JOIN-011, RXWIN-008: where a device boots with the downlink dwell limit, a list would make its accept too long in RX2; it
/// learns its channels afterwards.
#[test]
fn a_join_accept_keeps_the_dwell_limit_a_device_boots_with() {
    for &revision in RegionalRevision::ALL {
        let profile = Profile {
            region: RegionId::As923_1,
            revision,
            rx_delay_s: 1,
            extra_channels: vec![hz(923_600_000), hz(923_800_000)],
            adr: false,
            ..Profile::default()
        };
        let (_, downlink_dwell) = profile.region().dwell_defaults(revision);
        let cf_list = profile.join_settings().cf_list;
        assert_eq!(cf_list.is_some(), !downlink_dwell, "{revision}");
        let accept_len = if cf_list.is_some() { 33 } else { 17 };
        for data_rate in 2..=5 {
            let (rx1, rx2) = join_windows(&profile, hz(923_200_000), dr(data_rate), Some(0));
            for window in [rx1, rx2].into_iter().flatten().filter(|_| downlink_dwell) {
                let airtime = airtime_us(window.modulation, CodingRate::Cr4_5, accept_len, false).unwrap();
                assert!(
                    airtime <= 400_000,
                    "{revision}: {accept_len} bytes last {airtime} us at {}",
                    window.dr
                );
            }
        }

        let mut world = World::otaa(profile);
        world.settle();
        let has: Vec<_> = world.device.extra.values().copied().collect();
        assert_eq!(has, world.profile.extra_channels, "{revision}");
    }
}

/// RXWIN-005, FCNT-010: one uplink, one plan, one frame: the windows are choices. The world refuses a counter that comes twice.
#[test]
fn one_uplink_brings_at_most_one_frame() {
    let mut world = World::otaa(Profile::default());
    for round in 0..20 {
        let before = world.sent.len();
        world.enqueue(b"down", round % 2 == 0);
        world.report_confirmed(b"x");
        assert!(world.sent.len() <= before + 1);
    }
}

/// RXWIN-007: a payload that fits only one window goes there; one that fits neither is not taken.
#[test]
fn a_payload_fits_the_window_it_is_sent_in() {
    let mut world = World::otaa(Profile { adr: false, ..Profile::default() });
    world.settle();
    world.device.dr = 5;
    for (len, rx1, rx2) in [(51, true, true), (52, true, false), (242, true, false)] {
        world.enqueue(&vec![7; len], false);
        let exchange = world.report(b"x");
        let built = exchange.built.unwrap();
        assert_eq!((built.fits_rx1, built.fits_rx2), (rx1, rx2), "{len} bytes");
        assert_eq!(exchange.heard.unwrap().payload.len(), len);
    }
    world.enqueue(&[7; 243], false);
    assert!(world.report(b"x").built.is_none());
    assert_eq!(world.queue.len(), 1, "it stays queued");

    // At the slow end RX2 may be the larger one.
    let mut world = World::otaa(Profile { adr: false, rx2_dr: Some(dr(5)), ..Profile::default() });
    world.settle();
    world.enqueue(&[7; 100], false);
    let built = world.report(b"x").built.unwrap();
    assert_eq!((built.fits_rx1, built.fits_rx2), (false, true));
}

/// RXWIN-007: commands in FOpts take their bytes from the payload.
#[test]
fn commands_beside_a_payload_shrink_its_room() {
    let mut world = World::otaa(Profile { adr: false, ..Profile::default() });
    world.settle();
    world.device.dr = 5;
    world.device.says.push(mac::command::UplinkCommand::LinkCheckReq);
    world.enqueue(&[7; 240], false);
    let room = world.report(b"x").step.unwrap().downlink.unwrap().ask_payload.unwrap();
    assert_eq!((room.rx1, room.rx2), (Some(239), Some(48)));
}

/// RXWIN-008: with the downlink dwell limit no downlink lasts longer than 400 ms.
#[test]
fn the_dwell_limit_bounds_every_downlink() {
    let mut world = World::otaa(Profile {
        region: RegionId::As923_1,
        revision: RegionalRevision::Rp001_1_0_3A,
        adr: false,
        ..Profile::default()
    });
    for data_rate in 2..=5 {
        world.device.dr = data_rate;
        for len in [8, 11, 53, 125, 242] {
            world.enqueue(&vec![7; len], false);
            let exchange = world.report_confirmed(b"x");
            let plan = exchange.step.unwrap().downlink.unwrap();
            for window in [plan.rx1, plan.rx2].into_iter().flatten() {
                let longest = usize::from(window.max_m) + 5;
                let airtime = airtime_us(window.modulation, CodingRate::Cr4_5, longest, false).unwrap();
                assert!(airtime <= 400_000, "{} {longest} bytes last {airtime} us", window.dr);
                assert!(matches!(window.modulation, Modulation::Lora { .. }));
            }
            world.queue.clear();
        }
    }
}

/// Without a limit the same device may be sent longer frames, but only once it has answered.
#[test]
fn the_boot_dwell_limit_is_kept_until_the_device_answers() {
    let mut world = World::otaa(Profile {
        region: RegionId::As923_1,
        revision: RegionalRevision::Rp001_1_0_3A,
        uplink_dwell: Some(false),
        downlink_dwell: Some(false),
        mac_version: MacVersion::V1_0_3,
        adr: false,
        ..Profile::default()
    });
    world.device.habits.deaf_to = vec![0x09];
    for _ in 0..3 {
        let plan = world.report(b"x").step.unwrap().downlink.unwrap();
        assert_eq!(plan.rx2.unwrap().max_m, 19);
    }
    world.device.habits.deaf_to.clear();
    world.report(b"x");
    let answered = world.report_confirmed(b"x").step.unwrap().downlink.unwrap();
    assert_eq!(answered.rx2.unwrap().max_m, 59, "RX1 and RX2 of the uplink with the answer use it");
    assert!(!world.session.mac.downlink_dwell);
}
