#![allow(clippy::unwrap_used)]
use super::*;

/// DEDUP-001.
#[test]
fn copies_within_the_window_become_one_frame() {
    let mut dedup = Dedup::new(DedupLimits::default());
    assert_eq!(dedup.handle(frame(7), Counter::Fresh, heard(1, 10, 5), RX2_MS, at_ms(0)), Handled::Opened);
    assert_eq!(dedup.poll_timeout(), Some(at_ms(200)));
    assert_eq!(dedup.handle(frame(7), Counter::Repeat, heard(2, 99, 5), RX2_MS, at_ms(150)), Handled::Joined);
    assert_eq!(dedup.handle_timeout(at_ms(199)), []);

    let closed = dedup.handle_timeout(at_ms(200));

    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].frame, frame(7));
    assert!(!closed[0].repeat);
    assert_eq!(closed[0].opened_at, at_ms(0));
    assert_eq!(closed[0].receptions, [heard(1, 10, 5), heard(2, 99, 5)]);
    assert_eq!(dedup.handle_timeout(at_ms(200)), [], "a frame is given out once");
}

/// DEDUP-001: copies at 0..10 s.
#[test]
fn a_copy_within_the_rx2_delay_is_late_and_opens_nothing() {
    let mut dedup = Dedup::new(DedupLimits::default());
    dedup.handle(frame(7), Counter::Fresh, heard(1, 10, 5), RX2_MS, at_ms(0));
    dedup.handle_timeout(at_ms(200));

    assert_eq!(dedup.handle(frame(7), Counter::Repeat, heard(2, 99, 5), RX2_MS, at_ms(1_900)), Handled::Late);
    assert_eq!(
        dedup.handle(frame(7), Counter::RepeatExhausted, heard(3, 5, 5), RX2_MS, at_ms(2_000)),
        Handled::Late,
        "a late copy is none of the device's repetitions"
    );
    assert_eq!(
        dedup.handle(frame(7), Counter::Repeat, heard(2, 99, 5), RX2_MS, at_ms(1_950)),
        Handled::Absorbed
    );
    assert_eq!(dedup.open_count(), 0);
    assert_eq!(
        dedup.handle(frame(7), Counter::Repeat, heard(4, 8, 5), RX2_MS, at_ms(2_001)),
        Handled::OpenedRepeat,
        "after RX2 nobody can tell it from a repetition"
    );
}

/// The world found that it was answered beside the repetition (seed 14944).
#[test]
fn a_late_copy_of_the_first_transmission_is_no_repetition_of_the_second() {
    for wrap in [0, u32::MAX - 2_000_000] {
        let mut dedup = Dedup::new(DedupLimits::default());
        let reported = |tmst_us: u32| Heard { tmst_us: tmst_us.wrapping_add(wrap), ..heard(1, 0, 5) };
        dedup.handle(frame(7), Counter::Fresh, heard(2, 10, 5), RX2_MS, at_ms(0));
        dedup.handle_timeout(at_ms(200));
        let repetition = dedup.handle(frame(7), Counter::Repeat, reported(4_000_000), RX2_MS, at_ms(4_000));
        assert_eq!(repetition, Handled::OpenedRepeat);
        dedup.handle_timeout(at_ms(4_200));

        let late = dedup.handle(frame(7), Counter::Repeat, reported(700_000), RX2_MS, at_ms(4_300));

        assert_eq!(late, Handled::Late);
        assert_eq!(dedup.open_count(), 0);
        let next = dedup.handle(frame(7), Counter::Repeat, reported(8_000_000), RX2_MS, at_ms(6_000));
        assert_eq!(next, Handled::OpenedRepeat, "a later one is a repetition");
    }
}

#[test]
fn a_reception_that_is_reported_again_joins_no_repetition() {
    let mut dedup = Dedup::new(DedupLimits::default());
    dedup.handle(frame(7), Counter::Fresh, heard(1, 700_000, 5), RX2_MS, at_ms(0));
    dedup.handle_timeout(at_ms(200));
    dedup.handle(frame(7), Counter::Repeat, heard(2, 10, 5), RX2_MS, at_ms(4_000));

    let again = dedup.handle(frame(7), Counter::Repeat, heard(1, 700_000, 5), RX2_MS, at_ms(4_100));
    let repetition = dedup.handle(frame(7), Counter::Repeat, heard(1, 4_700_000, 5), RX2_MS, at_ms(4_150));

    assert_eq!((again, repetition), (Handled::Absorbed, Handled::Joined));
    let closed = dedup.handle_timeout(at_ms(4_200));
    assert_eq!(closed[0].receptions, [heard(2, 10, 5), heard(1, 4_700_000, 5)]);
}

/// JOIN-021: copies of a Join-Request over other gateways at 0, 0.25, 3 and 20 s are one request.
#[test]
fn copies_of_a_join_request_open_one_window_however_late_they_are() {
    const REMEMBERED_MS: u64 = 60_000;
    let mut dedup = Dedup::new(DedupLimits::default());
    let mut take = |gateway, ms| {
        let closed = dedup.handle_timeout(at_ms(ms)).len();
        let copy = heard(gateway, 10, 5);
        (closed, dedup.handle(join_frame(), Counter::Fresh, copy, REMEMBERED_MS, at_ms(ms)))
    };
    assert_eq!(take(1, 0), (0, Handled::Opened));
    assert_eq!(take(2, 0), (0, Handled::Joined));
    assert_eq!(take(3, 250), (1, Handled::Late));
    assert_eq!(take(4, 3_000), (0, Handled::Late));
    assert_eq!(take(5, 20_000), (0, Handled::Late));
}

/// DEDUP-002.
#[test]
fn one_gateway_that_reports_twice_counts_once_with_its_stronger_reception() {
    let mut dedup = Dedup::new(DedupLimits::default());
    dedup.handle(frame(7), Counter::Fresh, heard(1, 10, -3), RX2_MS, at_ms(0));
    assert_eq!(dedup.handle(frame(7), Counter::Repeat, heard(1, 12, 6), RX2_MS, at_ms(1)), Handled::Absorbed);
    assert_eq!(dedup.handle(frame(7), Counter::Repeat, heard(1, 11, -9), RX2_MS, at_ms(2)), Handled::Absorbed);

    let closed = dedup.handle_timeout(at_ms(200));
    assert_eq!(closed[0].receptions, [heard(1, 12, 6)]);
    assert_eq!(
        dedup.handle(frame(7), Counter::Repeat, heard(1, 12, 6), RX2_MS, at_ms(900)),
        Handled::Absorbed,
        "a datagram delivered twice is no repetition"
    );
}

/// ACK-010: a repetition is recognised as one whenever it comes.
#[test]
fn the_same_gateway_with_another_tmst_heard_a_repetition() {
    let mut dedup = Dedup::new(DedupLimits::default());
    dedup.handle(frame(7), Counter::Fresh, heard(1, u32::MAX - 5, 5), RX2_MS, at_ms(0));
    dedup.handle_timeout(at_ms(200));

    let second = heard(1, 1_500_000, 5);
    assert_eq!(dedup.handle(frame(7), Counter::Repeat, second, RX2_MS, at_ms(1_500)), Handled::OpenedRepeat);
    let closed = dedup.handle_timeout(at_ms(1_700));
    assert_eq!((closed.len(), closed[0].repeat), (1, true));

    let later = heard(1, 32_000_000, 5);
    dedup.handle_timeout(at_ms(32_000));
    assert_eq!(dedup.frame_count(), 0, "nothing is remembered for ever");
    assert_eq!(dedup.handle(frame(7), Counter::Repeat, later, RX2_MS, at_ms(32_000)), Handled::OpenedRepeat);
    let third = heard(1, 40_000_000, 5);
    dedup.handle_timeout(at_ms(32_200));
    assert_eq!(
        dedup.handle(frame(7), Counter::RepeatExhausted, third, RX2_MS, at_ms(40_000)),
        Handled::RepeatRefused
    );
    assert_eq!(dedup.open_count(), 0);
}

/// A forwarder that got no PUSH_ACK sends the same reception again; the device has not sent it again, and nothing is
/// answered whose windows are over.
#[test]
fn a_reception_that_is_reported_again_after_rx2_is_not_a_repetition() {
    let mut dedup = Dedup::new(DedupLimits::default());
    dedup.handle(frame(7), Counter::Fresh, heard(1, 50, 5), RX2_MS, at_ms(0));
    dedup.handle(frame(7), Counter::Repeat, heard(2, 90, 5), RX2_MS, at_ms(10));
    dedup.handle_timeout(at_ms(200));

    for (gateway, tmst_us) in [(1, 50), (2, 90)] {
        let again = heard(gateway, tmst_us, 5);
        assert_eq!(dedup.handle(frame(7), Counter::Repeat, again, RX2_MS, at_ms(2_100)), Handled::Absorbed);
    }
    // The repetition that does come is one, and the first transmission is still known after it.
    let repetition = heard(1, 3_000_050, 5);
    assert_eq!(
        dedup.handle(frame(7), Counter::Repeat, repetition, RX2_MS, at_ms(3_000)),
        Handled::OpenedRepeat
    );
    dedup.handle_timeout(at_ms(3_200));
    let first = heard(2, 90, 5);
    assert_eq!(dedup.handle(frame(7), Counter::Repeat, first, RX2_MS, at_ms(9_000)), Handled::Absorbed);
}

#[test]
fn the_tmst_of_one_reception_may_wrap() {
    assert!(is_same_reception(u32::MAX - 3, 4));
    assert!(is_same_reception(4, u32::MAX - 3));
    assert!(!is_same_reception(0, 1_000_000));
}

#[test]
fn frames_close_in_the_order_they_came_and_do_not_mix() {
    let mut dedup = Dedup::new(DedupLimits::default());
    dedup.handle(frame(9), Counter::Fresh, heard(1, 10, 5), RX2_MS, at_ms(0));
    dedup.handle(frame(3), Counter::Fresh, heard(1, 90, 5), RX2_MS, at_ms(50));
    dedup.handle(join_frame(), Counter::Fresh, heard(1, 95, 5), 6_000, at_ms(60));

    let closed: Vec<FrameId> =
        dedup.handle_timeout(at_ms(1_000)).into_iter().map(|closed| closed.frame).collect();
    assert_eq!(closed, [frame(9), frame(3), join_frame()]);
}

#[test]
fn a_full_memory_forgets_closed_frames_first_and_then_refuses() {
    let mut dedup = Dedup::new(DedupLimits { frames_max: 2, ..DedupLimits::default() });
    dedup.handle(frame(1), Counter::Fresh, heard(1, 10, 5), RX2_MS, at_ms(0));
    dedup.handle_timeout(at_ms(200));
    dedup.handle(frame(2), Counter::Fresh, heard(1, 20, 5), RX2_MS, at_ms(300));
    assert_eq!(dedup.handle(frame(3), Counter::Fresh, heard(1, 30, 5), RX2_MS, at_ms(310)), Handled::Opened);
    assert_eq!(dedup.handle(frame(4), Counter::Fresh, heard(1, 40, 5), RX2_MS, at_ms(320)), Handled::Full);
    assert_eq!(dedup.frame_count(), 2);

    let closed = dedup.close_all(at_ms(330));
    assert_eq!(closed.len(), 2, "the end of the process loses no open window");
    assert_eq!(dedup.open_count(), 0);
}

/// The world found that a Join-Request was answered twice (seed 60419).
#[test]
fn a_process_that_was_held_up_still_knows_what_is_late() {
    const HELD_UP_MS: u64 = 54_000_000;
    let mut dedup = Dedup::new(DedupLimits::default());
    dedup.handle(join_frame(), Counter::Fresh, heard(1, 10, 5), 60_000, at_ms(0));
    assert_eq!(dedup.handle_timeout(at_ms(HELD_UP_MS)).len(), 1);

    let copy = |gateway, ms, dedup: &mut Dedup<Heard>| {
        dedup.handle(join_frame(), Counter::Fresh, heard(gateway, 20, 5), 60_000, at_ms(HELD_UP_MS + ms))
    };
    assert_eq!(copy(2, 118, &mut dedup), Handled::Late);
    assert_eq!(copy(3, 59_800, &mut dedup), Handled::Late);
    assert_eq!(copy(4, 59_801, &mut dedup), Handled::Opened);
}

#[test]
fn a_stronger_copy_takes_the_place_of_its_gateways_first_and_of_no_other() {
    let mut dedup = Dedup::new(DedupLimits::default());
    dedup.handle(frame(7), Counter::Fresh, heard(1, 100, -3), RX2_MS, at_ms(0));
    dedup.handle(frame(7), Counter::Repeat, heard(2, 500_000, 1), RX2_MS, at_ms(1));
    dedup.handle(frame(7), Counter::Repeat, heard(1, 900_000, 6), RX2_MS, at_ms(2));
    assert_eq!(dedup.open_count(), 1);
    assert_eq!(dedup.handle_timeout(at_ms(200))[0].receptions, [heard(1, 900_000, 6), heard(2, 500_000, 1)]);

    for again in [heard(1, 900_000, 6), heard(2, 500_000, 1)] {
        assert_eq!(dedup.handle(frame(7), Counter::Repeat, again, RX2_MS, at_ms(300)), Handled::Absorbed);
    }
    assert_eq!((dedup.open_count(), dedup.frame_count()), (0, 1));
    dedup.handle_timeout(at_ms(30_000));
    assert_eq!(dedup.frame_count(), 0, "after half a minute nothing is left");
}

#[test]
fn a_session_that_ends_gives_out_its_open_frames_at_once_and_no_others() {
    let mut dedup = Dedup::new(DedupLimits::default());
    let of_other = FrameId::Data { session: SessionId::new(2), fcnt: FCntUp::new(7), content: 0 };
    dedup.handle(frame(8), Counter::Fresh, heard(1, 10, 5), RX2_MS, at_ms(0));
    dedup.handle(of_other, Counter::Fresh, heard(1, 20, 5), RX2_MS, at_ms(10));
    dedup.handle(join_frame(), Counter::Fresh, heard(1, 25, 5), RX2_MS, at_ms(15));
    dedup.handle(frame(7), Counter::Fresh, heard(1, 30, 5), RX2_MS, at_ms(20));
    let FrameId::Data { session, .. } = frame(7) else { unreachable!("it is a data frame") };
    assert_ne!(session, SessionId::new(2));

    let closed: Vec<FrameId> =
        dedup.close_session(session, at_ms(30)).into_iter().map(|closed| closed.frame).collect();

    assert_eq!(closed, [frame(8), frame(7)], "in the order they came");
    assert_eq!(dedup.close_session(session, at_ms(30)), []);
    assert_eq!(
        dedup.handle(frame(7), Counter::Repeat, heard(2, 40, 5), RX2_MS, at_ms(40)),
        Handled::Late,
        "a frame is given out once"
    );
    assert_eq!(dedup.handle_timeout(at_ms(300)).len(), 2);
}

#[test]
fn a_frame_heard_by_a_crowd_keeps_so_many_gateways() {
    let mut dedup = Dedup::new(DedupLimits { gateways_max: 2, ..DedupLimits::default() });
    dedup.handle(frame(1), Counter::Fresh, heard(1, 10, 5), RX2_MS, at_ms(0));
    dedup.handle(frame(1), Counter::Repeat, heard(2, 10, 5), RX2_MS, at_ms(0));
    assert_eq!(dedup.handle(frame(1), Counter::Repeat, heard(3, 10, 5), RX2_MS, at_ms(0)), Handled::Absorbed);
    assert_eq!(dedup.handle_timeout(at_ms(200))[0].receptions.len(), 2);
    assert_eq!(dedup.handle(frame(1), Counter::Repeat, heard(4, 10, 5), RX2_MS, at_ms(300)), Handled::Absorbed);
}

const RX2_MS: u64 = 2_000;

#[derive(Clone, Debug, Eq, PartialEq)]
struct Heard {
    gateway: u64,
    tmst_us: u32,
    snr_db: i8,
}

impl Reception for Heard {
    fn gateway_eui(&self) -> GatewayEui {
        GatewayEui::new(self.gateway)
    }
    fn tmst_us(&self) -> u32 {
        self.tmst_us
    }
    fn is_stronger_than(&self, other: &Self) -> bool {
        self.snr_db > other.snr_db
    }
}

fn heard(gateway: u64, tmst_us: u32, snr_db: i8) -> Heard {
    Heard { gateway, tmst_us, snr_db }
}

fn frame(fcnt: u32) -> FrameId {
    FrameId::Data { session: SessionId::new(1), fcnt: FCntUp::new(fcnt), content: 0xfeed }
}

fn join_frame() -> FrameId {
    FrameId::Join { dev_eui: DevEui::new(1), dev_nonce: DevNonce::new(2), content: 3 }
}

fn at_ms(ms: u64) -> Mono {
    Mono::from_us(ms * 1_000)
}
