//! Counters: each uplink once, each downlink number once.

use mac::dedup::Handled;
use mac::drop_reason::DropReason;
use mac::ids::FCntUp;
use mac::session::Profile;
use mac::uplink::Note;
use mac::version::MacVersion;

use crate::world::{Air, World};

/// FCNT-001, FCNT-008: a new session starts at 0 in both directions.
#[test]
fn a_new_session_starts_at_zero_both_ways() {
    let mut world = World::otaa(Profile::default());
    let first = world.report_confirmed(b"1");
    assert_eq!(world.delivered, [(0, b"1".to_vec())]);
    assert_eq!(first.built.unwrap().fcnt_down.value(), 0);
    world.report_confirmed(b"2");
    assert_eq!(world.session.fcnt_up, Some(FCntUp::new(1)));
    assert_eq!(world.device.last_n.unwrap().value(), 1);
}

/// FCNT-003: 15 transmissions over three gateways are one event.
#[test]
fn repetitions_are_delivered_once() {
    let mut world = World::abp(Profile::default());
    world.settle();
    world.session.mac.nb_trans = 15;
    world.gateways = 3;
    let delivered = world.delivered.len();
    world.now_ms += 60_000;
    let sent = world.device.uplink(Some((2, b"once")), false);
    for _ in 0..15 {
        world.transmit(&sent);
        world.now_ms += 7_000;
    }
    assert_eq!(world.delivered.len(), delivered + 1);
    assert_eq!(world.drops, []);
}

/// FCNT-004: more than NbTrans is refused, and told once.
#[test]
fn more_repetitions_than_allowed_do_nothing_and_are_told_once() {
    let mut world = World::abp(Profile::default());
    world.settle();
    world.session.mac.nb_trans = 3;
    world.now_ms += 60_000;
    let sent = world.device.uplink(Some((2, b"once")), false);
    for copy in 0..10 {
        let before = world.session.clone();
        let exchange = world.transmit(&sent);
        if copy >= 3 {
            assert!(exchange.step.is_none());
            assert_eq!(before.mac, world.session.mac);
            assert_eq!(before.n_fcnt_down, world.session.n_fcnt_down);
        }
        world.now_ms += 7_000;
    }
    assert_eq!(world.drops, [DropReason::NbTransExceeded; 7]);
    assert_eq!(world.excesses_told, 1);
}

/// FCNT-005, ACK-001, ACK-010: a confirmed uplink whose ACK was lost is acknowledged again with a new counter.
#[test]
fn a_repeated_confirmed_uplink_gets_another_ack_and_no_second_event() {
    for (version, limit) in [(MacVersion::V1_0_2, 8), (MacVersion::V1_0_4, 2)] {
        let mut world = World::abp(Profile { mac_version: version, ..Profile::default() });
        world.settle();
        world.session.mac.nb_trans = 2;
        let delivered = world.delivered.len();
        world.now_ms += 60_000;
        let sent = world.device.uplink(Some((2, b"valve is open")), true);
        let mut counters = Vec::new();
        for wait_ms in [300, 2_900, 10_000].into_iter().cycle().take(12) {
            world.air = Air::LosesDownlinks;
            counters.extend(world.transmit(&sent).built.map(|built| built.fcnt_down.value()));
            world.now_ms += 6_000 + wait_ms;
        }
        assert_eq!(counters.len(), limit, "{version}");
        assert!(counters.is_sorted_by(|one, other| one < other), "{counters:?}");
        assert_eq!(world.delivered.len(), delivered + 1);
        assert_eq!(world.drops.len(), 12 - limit);
    }
}

/// FCNT-007.
#[test]
fn an_old_frame_is_dropped_and_changes_nothing() {
    let mut world = World::abp(Profile::default());
    world.settle();
    let recorded = world.device.uplink(Some((2, b"recorded")), false);
    world.transmit(&recorded);
    for _ in 0..100 {
        world.report(b"later");
    }
    let before = world.session.clone();
    let exchange = world.transmit(&recorded);
    assert!(exchange.step.is_none());
    assert_eq!(world.drops, [DropReason::FcntReplayed]);
    assert_eq!(world.session.mac, before.mac);
    assert_eq!((world.session.fcnt_up, world.session.n_fcnt_down), (before.fcnt_up, before.n_fcnt_down));
    assert_eq!(world.session.adr, before.adr);
}

/// FCNT-007: only a device that may start its counter again, and then its other settings begin anew as well.
#[test]
fn a_device_that_may_start_again_does_so_once_with_its_settings() {
    let mut world = World::abp(Profile::default());
    world.settle();
    for _ in 0..100 {
        world.report(b"before");
    }
    assert_eq!(world.session.mac.rx1_delay_s, 5);
    let n_fcnt_down = world.session.n_fcnt_down;

    // The battery is changed; the device forgets everything but its keys.
    let fresh = World::abp(Profile::default()).device;
    let (last_n, last_a) = (world.device.last_n, world.device.last_a);
    world.device = mac_device_with(fresh, last_n, last_a);
    world.report(b"refused");
    assert_eq!(world.drops, [DropReason::FcntReplayed]);

    world.device.fcnt_up = 0;
    world.allow_fcnt_reset = true;
    world.notes.clear();
    let delivered = world.delivered.len();
    let exchange = world.report(b"again");
    assert_eq!(world.delivered[delivered..], [(0, b"again".to_vec())]);
    assert_eq!(world.notes, [Note::FcntReset { to: FCntUp::new(0) }]);
    assert!(exchange.step.unwrap().mac_changed);
    assert!(exchange.heard.is_some(), "the answer went to the windows a device boots with");
    assert_eq!(world.session.n_fcnt_down, n_fcnt_down + 1, "downlink counters go on");

    world.notes.clear();
    world.settle();
    assert_eq!(world.session.mac.rx1_delay_s, 5);
    assert_eq!(world.notes, []);
}

fn mac_device_with(
    device: crate::device::Device,
    last_n: Option<mac::ids::FCntDown>,
    last_a: Option<mac::ids::FCntDown>,
) -> crate::device::Device {
    crate::device::Device { last_n, last_a, ..device }
}

#[test]
fn a_slow_copy_of_an_older_frame_is_no_new_start() {
    let mut world = World::abp(Profile::default());
    world.settle();
    world.allow_fcnt_reset = true;
    world.now_ms += 60_000;
    let older = world.device.uplink(Some((2, b"older")), false);
    world.transmit(&older);
    world.report(b"newer");
    let before = world.session.fcnt_up;
    assert_eq!(world.copy(&older, 2), None);
    assert_eq!(world.drops, [DropReason::FcntReplayed]);
    assert_eq!(world.session.fcnt_up, before);
}

/// FCNT-012: 1.1 counts network and application downlinks apart, 1.0 together.
#[test]
fn network_and_application_downlinks_have_the_counters_of_their_version() {
    for (version, apart) in [(MacVersion::V1_0_4, false), (MacVersion::V1_1_0, true)] {
        let mut world = World::otaa(Profile { mac_version: version, adr: false, ..Profile::default() });
        world.settle();
        let before = world.counters_sent();
        let (n, a) = (world.session.n_fcnt_down, world.session.a_fcnt_down);
        for round in 0..6 {
            if round % 2 == 0 {
                world.enqueue(b"application", false);
            }
            world.report_confirmed(b"?");
        }
        let new: Vec<_> = world.counters_sent().difference(&before).copied().collect();
        if apart {
            // A frame with payload uses the application's number; the network's, reserved beside it, is a gap.
            let network: Vec<_> = new.iter().filter(|(is_app, _)| !is_app).map(|(_, fcnt)| *fcnt).collect();
            let application: Vec<_> = new.iter().filter(|(is_app, _)| *is_app).map(|(_, fcnt)| *fcnt).collect();
            assert_eq!(network, [n + 1, n + 3, n + 5]);
            assert_eq!(application, [a, a + 1, a + 2]);
        } else {
            assert_eq!(new, (n..n + 6).map(|fcnt| (false, fcnt)).collect::<Vec<_>>());
            assert_eq!(world.session.a_fcnt_down, 0);
        }
    }
}

/// FCNT-013: near the end downlinks are refused, never wrapped; uplinks are still heard.
#[test]
fn a_downlink_counter_that_is_used_up_refuses_and_does_not_wrap() {
    let mut world = World::abp(Profile::default());
    world.settle();
    world.session.n_fcnt_down = u32::MAX - 1;
    world.device.last_n = Some(mac::ids::FCntDown::new(u32::MAX - 2));
    assert!(world.report_confirmed(b"last").heard.is_some());
    let refused = world.report_confirmed(b"one more");
    assert!(refused.built.is_none());
    assert_eq!(world.notes.last(), Some(&Note::FcntDownExhausted));
    assert_eq!(world.session.n_fcnt_down, u32::MAX);
    assert_eq!(world.delivered.last().unwrap().1, b"one more");
}

/// FCNT-016.
#[test]
fn one_counter_with_two_contents_is_reported_and_not_delivered() {
    let mut world = World::abp(Profile::default());
    world.settle();
    world.now_ms += 60_000;
    let mut twin = world.device.clone();
    let one = world.device.uplink(Some((2, b"open")), false);
    let other = twin.uplink(Some((2, b"shut")), false);
    world.transmit(&one);
    world.now_ms += 7_000;
    let delivered = world.delivered.clone();
    world.transmit(&other);
    assert_eq!(world.drops, [DropReason::FcntReuse]);
    assert_eq!(world.delivered, delivered);
}

/// DEDUP-001: copies before and after the window, over several gateways.
#[test]
fn late_copies_complete_the_receptions_and_nothing_else() {
    let mut world = World::abp(Profile::default());
    world.settle();
    world.now_ms += 60_000;
    let sent = world.device.uplink(Some((2, b"x")), true);
    assert_eq!(world.copy(&sent, 1), Some(Handled::Opened));
    assert_eq!(world.copy(&sent, 2), Some(Handled::Joined));
    let first = world.close();
    assert!(first.built.is_some());
    let before = world.session.clone();
    assert_eq!(world.copy(&sent, 3), Some(Handled::Late));
    world.now_ms += 5_700;
    assert_eq!(world.copy(&sent, 4), Some(Handled::Late));
    assert!(world.close().step.is_none());
    assert_eq!(world.session.n_fcnt_down, before.n_fcnt_down);
    world.now_ms += 1_000;
    assert_eq!(world.copy(&sent, 5), Some(Handled::OpenedRepeat), "after RX2 it is a repetition");
}

/// The same after a restart, when what is in memory only is gone.
#[test]
fn after_a_restart_the_last_frame_again_is_still_no_new_one() {
    let mut world = World::abp(Profile::default());
    world.settle();
    world.now_ms += 60_000;
    let sent = world.device.uplink(Some((2, b"x")), true);
    world.transmit(&sent);
    let delivered = world.delivered.len();
    world.restart();
    world.now_ms += 8_000;
    let again = world.transmit(&sent);
    assert!(again.built.is_some(), "it is acknowledged");
    assert_eq!(world.delivered.len(), delivered);
}
