//! The deduplication window: whatever the order of the copies, one event with all receptions.

use std::collections::{BTreeMap, BTreeSet};

use mac::dedup::{Counter, Dedup, DedupLimits, FrameId, Handled, Reception, WINDOW_MS};
use mac::ids::{FCntUp, GatewayEui, SessionId};
use mac::units::Mono;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Copy {
    frame: u8,
    gateway: u8,
    at_ms: u64,
    tmst_us: u32,
    snr_db: i8,
}

impl Reception for Copy {
    fn gateway_eui(&self) -> GatewayEui {
        GatewayEui::new(self.gateway.into())
    }
    fn tmst_us(&self) -> u32 {
        self.tmst_us
    }
    fn is_stronger_than(&self, other: &Self) -> bool {
        self.snr_db > other.snr_db
    }
}

/// Copies of some frames, one of each gateway at most, all sent at one moment and arriving within `spread_ms` of it, in any order.
fn copies(spread_ms: u64) -> impl Strategy<Value = Vec<Copy>> {
    let copy = (0_u8..4, 0_u8..6, 0..spread_ms, any::<i8>());
    let offsets = prop::array::uniform6(any::<u32>());
    (prop::collection::vec(copy, 1..24), offsets).prop_map(|(mut copies, offsets)| {
        let mut seen = BTreeSet::new();
        copies.retain(|(frame, gateway, ..)| seen.insert((*frame, *gateway)));
        copies.sort_by_key(|(_, _, at_ms, _)| *at_ms);
        copies
            .into_iter()
            .map(|(frame, gateway, at_ms, snr_db)| {
                // Every gateway has a counter of its own, and each frame another moment on it.
                let tmst_us = offsets[usize::from(gateway)].wrapping_add(u32::from(frame) * 400_000);
                Copy { frame, gateway, at_ms, tmst_us, snr_db }
            })
            .collect()
    })
}

/// What came out: the receptions of each frame's window, and the late ones.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    windows: BTreeMap<u8, BTreeSet<Copy>>,
    late: BTreeSet<Copy>,
}

fn run(copies: &[Copy]) -> Seen {
    let mut dedup = Dedup::new(DedupLimits::default());
    let mut seen = Seen::default();
    let mut counted = BTreeSet::new();
    let close = |dedup: &mut Dedup<Copy>, seen: &mut Seen, now: Mono| {
        for closed in dedup.handle_timeout(now) {
            let FrameId::Data { fcnt, .. } = closed.frame else { panic!("only data frames came") };
            let frame = u8::try_from(fcnt.value()).unwrap();
            assert!(!closed.repeat, "a copy was taken for a repetition");
            assert!(
                seen.windows.insert(frame, closed.receptions.into_iter().collect()).is_none(),
                "two events of one frame"
            );
        }
    };
    for copy in copies {
        let now = Mono::from_us(copy.at_ms * 1_000);
        close(&mut dedup, &mut seen, now);
        // The session knows the counter from the first copy on.
        let counter = if counted.contains(&copy.frame) { Counter::Repeat } else { Counter::Fresh };
        let id = FrameId::Data { session: SessionId::new(1), fcnt: FCntUp::new(copy.frame.into()), content: 7 };
        match dedup.handle(id, counter, *copy, LATE_MS, now) {
            Handled::Opened => assert!(counted.insert(copy.frame)),
            Handled::Joined => {}
            Handled::Late => assert!(seen.late.insert(*copy)),
            other @ (Handled::Absorbed | Handled::Full | Handled::OpenedRepeat | Handled::RepeatRefused) => {
                panic!("{copy:?} became {other:?}")
            }
        }
    }
    close(&mut dedup, &mut seen, Mono::from_us(60_000_000));
    assert_eq!(dedup.open_count(), 0);
    dedup.handle_timeout(Mono::from_us(120_000_000));
    assert_eq!(dedup.frame_count(), 0, "nothing is remembered for ever");
    seen
}

proptest! {
    /// DEDUP-001.
    #[test]
    fn copies_in_any_order_are_one_event_with_all_receptions(copies in copies(WINDOW_MS)) {
        let seen = run(&copies);
        let mut expected: BTreeMap<u8, BTreeSet<Copy>> = BTreeMap::new();
        for copy in &copies {
            expected.entry(copy.frame).or_default().insert(*copy);
        }
        prop_assert_eq!(seen.windows, expected);
        prop_assert!(seen.late.is_empty());
    }

    /// DEDUP-001: what comes after the window completes the event and opens no other.
    #[test]
    fn a_copy_is_in_the_event_or_late_and_never_lost(copies in copies(LATE_MS)) {
        let seen = run(&copies);
        let mut all: Vec<Copy> = seen.windows.values().flatten().chain(&seen.late).copied().collect();
        let mut sent = copies.clone();
        all.sort();
        sent.sort();
        prop_assert_eq!(all, sent);
        for late in &seen.late {
            let first_ms = copies.iter().filter(|copy| copy.frame == late.frame).map(|copy| copy.at_ms).min();
            prop_assert!(late.at_ms >= first_ms.unwrap() + WINDOW_MS);
        }
    }

    /// DEDUP-002: the same reception delivered twice, or on two channels of one gateway, counts once, wherever tmst stands modulo 2^32.
    #[test]
    fn one_gateways_second_report_adds_nothing(
        tmst_us in any::<u32>(), apart_us in 0_u32..=20_000, ahead in any::<bool>(), later_ms in 0_u64..LATE_MS,
    ) {
        let mut dedup = Dedup::new(DedupLimits::default());
        let id = FrameId::Data { session: SessionId::new(1), fcnt: FCntUp::new(1), content: 7 };
        let first = Copy { frame: 1, gateway: 1, at_ms: 0, tmst_us, snr_db: 0 };
        let tmst_us = if ahead { tmst_us.wrapping_add(apart_us) } else { tmst_us.wrapping_sub(apart_us) };
        let second = Copy { tmst_us, ..first };
        prop_assert_eq!(dedup.handle(id, Counter::Fresh, first, LATE_MS, Mono::from_us(0)), Handled::Opened);
        let now = Mono::from_us(later_ms * 1_000);
        let mut closed = dedup.handle_timeout(now);
        prop_assert_eq!(dedup.handle(id, Counter::Repeat, second, LATE_MS, now), Handled::Absorbed);
        closed.extend(dedup.handle_timeout(Mono::from_us(60_000_000)));
        prop_assert_eq!(closed.len(), 1);
        prop_assert_eq!(closed[0].receptions.len(), 1);
    }
}

/// The RX2 delay of a slow profile.
const LATE_MS: u64 = 6_000;
