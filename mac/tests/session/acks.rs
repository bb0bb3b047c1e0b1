//! Acknowledgements, both ways.

use mac::downlink::{AppPayload, DownlinkError, build};
use mac::ids::FCntDown;
use mac::session::Profile;
use mac::uplink::{DeviceAnswer, Note, Reply};
use mac::version::MacVersion;

use crate::world::{Air, World};

/// ACK-001, ACK-003: ACK answers a confirmed uplink and nothing else.
#[test]
fn the_ack_bit_answers_a_confirmed_uplink_and_only_that() {
    let mut world = settled(Profile::default());
    assert!(world.report_confirmed(b"1").heard.unwrap().ack);
    assert!(world.report(b"2").built.is_none());
    world.enqueue(b"down", false);
    assert!(!world.report(b"3").heard.unwrap().ack);
    world.enqueue(b"down", false);
    assert!(world.report_confirmed(b"4").heard.unwrap().ack);
    assert!(world.device.received.iter().filter(|heard| heard.ack).count() == 2);
}

/// ACK-002: an ACK belongs to the latest uplink, and is not sent on its own again.
#[test]
fn an_ack_that_was_lost_is_not_sent_with_the_next_uplink() {
    let mut world = settled(Profile::default());
    world.air = Air::LosesDownlinks;
    world.report_confirmed(b"1");
    world.air = Air::ThroughRx1;
    assert!(world.report(b"2").built.is_none());
}

/// ACK-004: an uplink without ACK is the device's no, told once; a retry takes a new counter.
#[test]
fn an_unanswered_confirmed_downlink_is_told_once_and_its_retry_has_a_new_counter() {
    let mut world = settled(Profile::default());
    world.device.habits.never_acks = true;
    world.enqueue(b"open", true);
    let first = world.report(b"1").built.unwrap();
    assert!(first.confirmed);
    assert_eq!(world.session.outstanding_confirmed(), Some(first.fcnt_down));
    world.report(b"2");
    world.report(b"3");
    assert_eq!(world.device_answers, [DeviceAnswer::NotAcknowledged(first.fcnt_down)]);
    assert_eq!(world.session.outstanding_confirmed(), None);

    world.device.habits.never_acks = false;
    world.enqueue(b"open", true);
    let retry = world.report(b"4").built.unwrap();
    assert!(retry.fcnt_down > first.fcnt_down);
    world.report(b"5");
    assert_eq!(world.device_answers[1..], [DeviceAnswer::Acknowledged(retry.fcnt_down)]);
}

/// ACK-005, ACK-006: one confirmed downlink at a time, each answered by itself.
#[test]
fn three_confirmed_downlinks_go_out_one_after_the_other() {
    let mut world = settled(Profile::default());
    for bytes in [b"a", b"b", b"c"] {
        world.enqueue(bytes, true);
    }
    let mut sent = Vec::new();
    for round in 0..4 {
        let exchange = world.report(b"x");
        sent.extend(exchange.built.map(|built| built.fcnt_down));
        assert_eq!(world.device_answers.len(), round, "each uplink answers exactly the one before");
    }
    let acknowledged: Vec<_> = sent.into_iter().map(DeviceAnswer::Acknowledged).collect();
    assert_eq!(world.device_answers, acknowledged);
}

/// ACK-006.
#[test]
fn an_ack_for_nothing_is_noted_and_ignored() {
    let mut world = settled(Profile::default());
    world.device.ack_due = Some(0);
    world.report(b"x");
    assert_eq!(world.device_answers, []);
    assert_eq!(world.notes, [Note::StrayAck]);
    assert_eq!(world.delivered.last().unwrap().1, b"x");
}

/// ACK-008: both directions name the frame they acknowledge, across a restart.
#[test]
fn acks_of_1_1_are_bound_to_the_frame_they_acknowledge() {
    let mut world = settled(Profile { mac_version: MacVersion::V1_1_0, ..Profile::default() });
    // The device checks the MIC with the counter of its own last uplink.
    for _ in 0..3 {
        assert!(world.report_confirmed(b"x").heard.unwrap().ack);
    }
    world.enqueue(b"open", true);
    let sent = world.report(b"x").built.unwrap();
    world.restart();
    world.report(b"ack");
    assert_eq!(world.device_answers, [DeviceAnswer::Acknowledged(sent.fcnt_down)]);

    // An ACK recorded in answer to an older uplink does not convince the device later.
    let recorded = world.report_confirmed(b"y").built.unwrap();
    world.air = Air::LosesDownlinks;
    world.report_confirmed(b"z");
    world.device.last_n = recorded.fcnt_down.value().checked_sub(1).map(FCntDown::new);
    let uplink = world.device.last.clone().unwrap();
    let (freq, dr) = mac::region::region(world.profile.region)
        .rx1(uplink.freq, Some(uplink.channel), uplink.dr, 0, false, world.profile.revision)
        .unwrap();
    assert!(world.device.receive(&recorded.phy, freq, dr, 5).is_none());
}

/// ACK-009.
#[test]
fn f_pending_tells_whether_more_waits_behind_the_frame() {
    for depth in 0..3_usize {
        let mut world = settled(Profile::default());
        for _ in 0..depth {
            world.enqueue(b"down", false);
        }
        let mut seen = Vec::new();
        for _ in 0..depth.max(1) {
            seen.push(world.report_confirmed(b"x").heard.unwrap().f_pending);
        }
        let expected: Vec<bool> = (1..=depth.max(1)).map(|sent| sent < depth).collect();
        assert_eq!(seen, expected, "depth {depth}");
    }
}

/// RXWIN-012: an uplink that came too late is delivered, plans nothing and uses no number.
#[test]
fn an_uplink_that_came_too_late_is_not_answered() {
    let mut world = settled(Profile::default());
    world.reply = Reply::TooLate;
    let before = world.session.n_fcnt_down;
    world.enqueue(b"down", true);
    let exchange = world.report_confirmed(b"late");
    assert!(exchange.step.unwrap().downlink.is_none());
    assert_eq!(world.session.n_fcnt_down, before);
    assert_eq!(world.delivered.last().unwrap().1, b"late");
}

#[test]
fn a_payload_nobody_asked_for_makes_no_frame() {
    let mut world = settled(Profile::default());
    let plan = world.report_confirmed(b"x").step.unwrap().downlink.unwrap();
    let app = AppPayload { f_port: 1, frm_payload: vec![1], confirmed: false };
    let keys = world.session.keys.clone();
    assert_eq!(build(&plan, &keys, Some(app.clone()), false), Err(DownlinkError::NotAsked));

    world.enqueue(b"down", false);
    let plan = world.report(b"x").step.unwrap().downlink.unwrap();
    assert!(!plan.must_send);
    assert_eq!(build(&plan, &keys, None, true), Ok(None), "nothing to say without it");
    let port_0 = AppPayload { f_port: 0, ..app.clone() };
    assert_eq!(build(&plan, &keys, Some(port_0), false), Err(DownlinkError::Port { f_port: 0 }));
    let too_long = AppPayload { frm_payload: vec![0; 240], ..app };
    assert_eq!(build(&plan, &keys, Some(too_long), false), Err(DownlinkError::TooLong { len: 240 }));
}

fn settled(profile: Profile) -> World {
    let mut world = World::otaa(profile);
    world.settle();
    world.device_answers.clear();
    world.device.received.clear();
    world.notes.clear();
    world
}
