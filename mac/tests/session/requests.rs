//! What the network asks for: once it differs, until it is answered, not for ever.

use mac::command::{RxParamSetupAns, UplinkCommand};
use mac::phy::{DownFrame, parse_downlink};
use mac::region::RegionId;
use mac::session::Profile;
use mac::uplink::{Note, QueueHint, RequestKind};
use mac::version::{MacVersion, RegionalRevision};

use crate::world::{Air, World, dr, hz};

const RX_PARAM: u8 = 0x05;
const DEV_STATUS: u8 = 0x06;
const TX_PARAM: u8 = 0x09;

/// RXWIN-003, MAC-022, MAC-023, MAC-030: new windows are used with the answer, not before.
#[test]
fn new_receive_settings_are_used_from_the_answer_on() {
    let mut world = World::abp(windows_profile());
    let asking = world.report(b"1").step.unwrap().downlink.unwrap();
    assert_eq!((asking.rx1.unwrap().delay_s, asking.rx2.unwrap().dr), (1, dr(0)));
    assert_eq!((world.device.rx1_delay_s, world.device.rx2_dr), (5, 3));
    let answered = world.report(b"2");
    let plan = answered.step.unwrap().downlink.unwrap();
    assert_eq!((plan.rx1.unwrap().delay_s, plan.rx2.unwrap().delay_s), (5, 6));
    assert_eq!((plan.rx2.unwrap().dr, plan.rx2.unwrap().freq), (dr(3), hz(869_525_000)));
    assert!(answered.heard.is_some(), "the device is let stop repeating its answer");
    assert!(world.device.sticky.is_empty());
    assert!(world.report(b"3").built.is_none(), "and then there is silence");
}

/// MAC-008, MAC-030: a request that was lost is asked again and nothing is assumed.
#[test]
fn a_lost_request_is_asked_again_and_the_old_windows_hold() {
    let mut world = World::abp(windows_profile());
    world.air = Air::LosesDownlinks;
    for _ in 0..3 {
        world.report(b"x");
    }
    assert_eq!((world.session.mac.rx1_delay_s, world.session.mac.rx2_dr), (1, dr(0)));
    world.air = Air::ThroughRx1;
    world.report(b"x");
    world.settle();
    assert_eq!((world.session.mac.rx1_delay_s, world.session.mac.rx2_dr), (5, dr(3)));
}

/// MAC-008: the answer itself may be lost; it comes again, and RX1 of that uplink already uses the new values.
#[test]
fn an_answer_that_was_lost_is_taken_from_the_next_uplink() {
    let mut world = World::abp(windows_profile());
    world.report(b"1");
    world.now_ms += 600_000;
    let _lost = world.device.uplink(Some((2, b"lost")), false);
    world.restart();
    let exchange = world.report(b"3");
    assert!(exchange.heard.is_some());
    assert_eq!(world.session.mac.rx1_delay_s, 5);
}

/// MAC-009: an answer that is repeated is the same answer, and what stands behind it counts.
#[test]
fn a_repeated_answer_changes_nothing_and_hides_nothing() {
    let mut world = World::abp(windows_profile());
    world.report(b"1");
    world.air = Air::LosesDownlinks;
    world.report(b"2");
    let mac = world.session.mac.clone();
    for _ in 0..5 {
        world.device.says.push(UplinkCommand::LinkCheckReq);
        let exchange = world.report(b"x");
        let answers = exchange.step.unwrap().downlink.unwrap().commands;
        assert_eq!(answers.first(), Some(&0x02), "LinkCheckAns");
        assert_eq!(world.session.mac, mac);
    }
    assert_eq!(world.notes, []);
}

/// MAC-022: any refused part refuses all; after three times the network stops.
#[test]
fn refused_receive_settings_are_not_used_and_not_asked_for_ever() {
    let mut world = World::abp(windows_profile());
    world.device.habits.refuses_rx_param = true;
    for _ in 0..10 {
        world.report(b"x");
    }
    let asked = world.commands_heard().into_iter().flatten().filter(|cid| *cid == RX_PARAM).count();
    assert_eq!(asked, 3);
    assert_eq!((world.session.mac.rx1_dr_offset, world.session.mac.rx2_dr), (0, dr(0)));
    let refused = Note::MacRequestRefused { kind: RequestKind::RxParamSetup };
    assert_eq!(world.notes, [refused; 3]);

    // Another profile is another question.
    world.device.habits.refuses_rx_param = false;
    world.profile.rx1_dr_offset = 1;
    world.settle();
    assert_eq!(world.session.mac.rx1_dr_offset, 1);
}

/// MAC-022: only all three bits together mean that the device uses the new settings.
#[test]
fn each_status_of_the_receive_settings_means_what_it_says() {
    for status in 0..8 {
        let mut world = World::abp(windows_profile());
        // It says what the test says, and changes nothing itself.
        world.device.habits.deaf_to = vec![RX_PARAM];
        world.report(b"1");
        world.air = Air::LosesDownlinks;
        world.device.says = vec![UplinkCommand::RxParamSetupAns(RxParamSetupAns::from_bytes([status]))];
        let plan = world.report(b"2").step.unwrap().downlink.unwrap();
        let new = status == 7;
        let mac = &world.session.mac;
        assert_eq!((mac.rx1_dr_offset, mac.rx2_dr), if new { (2, dr(3)) } else { (0, dr(0)) }, "{status:#05b}");
        assert_eq!(plan.rx2.unwrap().dr, mac.rx2_dr, "{status:#05b}");
        let refused = Note::MacRequestRefused { kind: RequestKind::RxParamSetup };
        assert_eq!(world.notes.contains(&refused), !new, "{status:#05b}");
    }
}

/// MAC-008, MAC-032: what is never answered stops after five times and holds nothing up.
#[test]
fn a_request_without_an_answer_stops_and_the_others_go_on() {
    let mut world = World::abp(Profile {
        region: RegionId::As923_1,
        downlink_dwell: Some(false),
        uplink_dwell: Some(false),
        device_status_interval_s: 86_400,
        ..Profile::default()
    });
    world.device.habits.deaf_to = vec![TX_PARAM];
    for _ in 0..12 {
        world.report(b"x");
    }
    let heard = world.commands_heard();
    assert_eq!(heard.iter().flatten().filter(|cid| **cid == TX_PARAM).count(), 5);
    assert_eq!(heard.iter().flatten().filter(|cid| **cid == DEV_STATUS).count(), 1);
    assert_eq!(world.session.mac.rx1_delay_s, 5);
    assert_eq!(world.notes, [Note::MacRequestGivenUp { kind: RequestKind::TxParamSetup }]);
    assert!(world.report(b"x").built.is_none());
}

/// MAC-031: told where the region knows it, and only there.
#[test]
fn dwell_and_power_are_told_in_regions_that_know_them() {
    for &region in RegionId::ALL {
        let knows = matches!(region, RegionId::As923_1 | RegionId::Au915);
        let mut world = World::otaa(Profile {
            region,
            max_eirp_dbm: Some(10),
            uplink_dwell: Some(false),
            ..Profile::default()
        });
        world.settle();
        let told = world.commands_heard().into_iter().flatten().filter(|cid| *cid == TX_PARAM).count();
        assert_eq!(told, usize::from(knows), "{region}");
    }
    let mut old = World::otaa(Profile {
        region: RegionId::As923_1,
        mac_version: MacVersion::V1_0_1,
        revision: RegionalRevision::Rp001_1_0_2,
        max_eirp_dbm: Some(10),
        ..Profile::default()
    });
    old.settle();
    assert!(!old.commands_heard().into_iter().flatten().any(|cid| cid == TX_PARAM));
}

/// MAC-024: by interval, published, and not asked again before its time.
#[test]
fn the_status_is_asked_for_by_interval() {
    let mut world = World::otaa(Profile { device_status_interval_s: 6_000, ..Profile::default() });
    world.settle();
    let count =
        |world: &World| world.commands_heard().into_iter().flatten().filter(|cid| *cid == DEV_STATUS).count();
    assert_eq!(count(&world), 1);
    let status = world.session.mac.status.unwrap();
    assert_eq!((status.battery, status.margin_db), (200, -5));
    for _ in 0..40 {
        world.report(b"x");
    }
    // 40 reports are 24,000 s; an answer comes a report after its question.
    assert_eq!(count(&world), 4);

    let mut never = World::otaa(Profile::default());
    never.settle();
    assert_eq!(count(&never), 0);
}

#[test]
fn a_device_that_never_tells_its_status_is_asked_five_times_an_interval() {
    let mut world = World::otaa(Profile { device_status_interval_s: 60_000, adr: false, ..Profile::default() });
    world.device.habits.deaf_to = vec![DEV_STATUS];
    for _ in 0..90 {
        world.report(b"x");
    }
    assert_eq!(world.commands_heard().into_iter().flatten().filter(|cid| *cid == DEV_STATUS).count(), 5);
}

/// MAC-003, MAC-005: more than 15 bytes of commands take port 0, and the payload waits with FPending.
#[test]
fn many_commands_take_port_0_and_the_payload_waits() {
    let mut world = World::abp(Profile { extra_channels: channels(), ..windows_profile() });
    world.enqueue(b"down", false);
    let heard = world.report(b"x").heard.unwrap();
    assert_eq!(heard.f_port, Some(0));
    assert!(heard.f_pending);
    assert!(heard.payload.is_empty());
    assert_eq!(world.queue.len(), 1);
    world.settle();
    assert_eq!(world.queue.len(), 0);
    assert!(world.device.received.iter().any(|heard| heard.payload == b"down"));
}

/// The payload was not asked for, so nobody but the plan can know that it waits.
#[test]
fn a_frame_whose_commands_leave_no_place_says_that_a_payload_waits() {
    for queue in [None, Some(QueueHint { next_len: 4 })] {
        let mut world = World::abp(Profile { extra_channels: channels(), ..windows_profile() });
        if queue.is_some() {
            world.enqueue(b"down", false);
        }
        let plan = world.report(b"x").step.unwrap().downlink.unwrap();
        assert!(plan.ask_payload.is_none() && plan.commands.len() > 15);

        let built = mac::downlink::build(&plan, &world.session.keys, None, false).unwrap().unwrap();

        let Some(DownFrame::Data(frame)) = parse_downlink(&built.phy) else { panic!("no data frame") };
        assert_eq!(frame.f_pending, queue.is_some());
    }
}

/// OPS-004: a clock that was set back must not silence the question until it has caught up.
#[test]
fn a_status_of_the_future_is_asked_for_again() {
    let mut world = World::otaa(Profile { device_status_interval_s: 6_000, ..Profile::default() });
    world.now_ms += 10 * 365 * 86_400_000;
    world.settle();
    world.now_ms -= 10 * 365 * 86_400_000;

    world.settle();

    let asked = world.commands_heard().into_iter().flatten().filter(|cid| *cid == DEV_STATUS).count();
    assert_eq!(asked, 2);
}

/// MAC-005: exactly 15 bytes still travel in FOpts.
#[test]
fn fifteen_bytes_travel_in_fopts_and_sixteen_do_not() {
    for (checks, f_port, in_fopts) in [(5, None, 15), (6, Some(0), 0)] {
        let mut world = World::otaa(Profile { adr: false, ..Profile::default() });
        world.device.says = vec![UplinkCommand::LinkCheckReq; checks];
        let heard = world.report(b"x").heard.unwrap();
        assert_eq!((heard.f_port, heard.in_fopts, heard.commands.len()), (f_port, in_fopts, checks));
    }
}

/// MAC-004, MAC-006: no command is cut, and the answers fit one uplink at the rate the device uses.
#[test]
fn a_small_window_takes_whole_commands_and_answers_that_fit() {
    let mut world = World::abp(Profile {
        region: RegionId::As923_1,
        revision: RegionalRevision::Rp001_1_0_3A,
        rx1_dr_offset: 1,
        max_eirp_dbm: Some(10),
        device_status_interval_s: 60,
        extra_channels: vec![hz(923_600_000), hz(923_800_000), hz(924_000_000)],
        ..Profile::default()
    });
    for _ in 0..12 {
        if let Some(heard) = world.report(b"x").heard {
            let down: usize = heard.commands.iter().map(mac::command::DownlinkCommand::len).sum();
            let up: usize = heard.commands.iter().map(mac::command::DownlinkCommand::answer_len).sum();
            assert!(down <= 11 && up <= 11, "{down} {up}");
        }
    }
    assert_eq!(world.device.extra.len(), 3, "all of it arrives, a piece at a time");
    assert_eq!(world.session.mac.rx1_dr_offset, 1);
}

fn windows_profile() -> Profile {
    Profile { rx1_dr_offset: 2, rx2_dr: Some(dr(3)), adr: false, ..Profile::default() }
}

fn channels() -> Vec<mac::units::Hz> {
    [867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000].map(hz).to_vec()
}
