//! The counter of a session against a model of twenty lines.

use mac::dedup::Counter;
use mac::fcnt::{MAX_FCNT_GAP, guess_fcnt_down, guess_fcnt_up, replayed_fcnt_up};
use mac::ids::{DevAddr, DevEui, FCntDown, FCntUp, SessionId, WireFCnt};
use mac::keys::{Key, NetworkKeys};
use mac::phy::{Frame, UplinkFrame, parse_uplink};
use mac::region::DataRate;
use mac::session::{AbpParams, Profile, Session};
use mac::units::{Hz, Timestamp};
use mac::uplink::{RadioContext, Reply, apply, apply_repeat};
use mac::verify::{Candidate, Outcome, SentWith, verify, verify_replay};
use mac::version::MacVersion;
use proptest::prelude::*;

/// Counters near the edges of the low half and of the whole.
fn counters() -> impl Strategy<Value = u32> {
    let edge = (
        prop::sample::select(vec![0_u32, 0x0001_0000, 0x0002_0000, 0x8000_0000, 0xffff_0000, u32::MAX]),
        -40_i64..40,
    );
    let near_an_edge = edge
        .prop_map(|(edge, off)| u32::try_from((i64::from(edge) + off).clamp(0, i64::from(u32::MAX))).unwrap());
    prop_oneof![3 => near_an_edge, 1 => any::<u32>()]
}

/// The smallest counter with these low bits that is not behind, found by looking.
fn looked_up(wire: u16, last: Option<u32>) -> Option<u32> {
    let last = last.unwrap_or(0);
    let epochs = u64::from(last) >> 16..=(u64::from(last) >> 16) + 1;
    epochs
        .map(|epoch| epoch << 16 | u64::from(wire))
        .find(|full| *full >= u64::from(last))
        .and_then(|full| u32::try_from(full).ok())
}

proptest! {
    /// FCNT-002, at the edges of 16 and 32 bits.
    #[test]
    fn the_guess_is_the_smallest_counter_that_is_not_behind(last in counters(), near in -3_i16..=3, far in any::<Option<u16>>()) {
        let wire = far.unwrap_or_else(|| FCntUp::new(last).wire().value().wrapping_add_signed(near));
        let guess = guess_fcnt_up(WireFCnt::new(wire), Some(FCntUp::new(last))).map(FCntUp::value);
        prop_assert_eq!(guess, looked_up(wire, Some(last)));
        let down = guess_fcnt_down(WireFCnt::new(wire), Some(FCntDown::new(last))).map(FCntDown::value);
        prop_assert_eq!(down, guess);
        prop_assert_eq!(guess_fcnt_up(WireFCnt::new(wire), None), Some(FCntUp::new(u32::from(wire))));
        let behind = replayed_fcnt_up(WireFCnt::new(wire), FCntUp::new(last)).map(FCntUp::value);
        prop_assert!(behind.is_none_or(|behind| behind < last && behind >> 16 == last >> 16));
        prop_assert_eq!(behind.is_none(), guess.is_some_and(|guess| guess >> 16 == last >> 16));
    }

    /// FCNT: what was sent is what is guessed, as long as fewer than 65,536 frames were lost.
    #[test]
    fn the_guess_is_what_was_sent(last in counters(), lost in 0_u32..0xffff) {
        let Some(sent) = last.checked_add(lost) else { return Ok(()) };
        let guess = guess_fcnt_up(FCntUp::new(sent).wire(), Some(FCntUp::new(last)));
        prop_assert_eq!(guess, Some(FCntUp::new(sent)));
    }

    /// FCNT-001, FCNT-006, MIC: any sequence of genuine frames, replays, repetitions and forgeries against the model.
    #[test]
    fn no_sequence_of_frames_takes_a_counter_back_or_twice(
        version in prop::sample::select(MacVersion::ALL.to_vec()),
        first in counters(),
        frames in prop::collection::vec(sent_frames(), 1..24),
    ) {
        let mut session = session(version, first.checked_sub(1));
        let mut model = Model { last: session.fcnt_up.map(FCntUp::value), version };
        let mut taken = Vec::new();
        let mut now_us = 1_000_000;
        let mut fcnt = first;
        for frame in frames {
            now_us += 10_000_000;
            fcnt = frame.step.from(fcnt);
            let phy = frame.phy(&session, fcnt);
            let Ok(Frame::DataUp(parsed)) = parse_uplink(&phy) else { panic!("no data frame") };
            let candidate = candidate(&session);
            let sent_with = SentWith { dr: DR, channel: Some(0) };
            let outcome = verify(&parsed, &candidate, sent_with);
            prop_assert_eq!(kind(&outcome), model.judge(fcnt, frame.forged));
            let (Outcome::Fresh(proof) | Outcome::Repeat(proof)) = outcome else {
                if !frame.forged && matches!(outcome, Outcome::NoMatch) && model.last.is_some_and(|last| fcnt < last && last - fcnt < 0x1_0000) {
                    prop_assert_eq!(verify_replay(&parsed, &candidate, sent_with), Outcome::Replayed(FCntUp::new(fcnt)));
                }
                continue;
            };
            let uplink = proof.open(&phy).unwrap();
            let (n, a) = (session.n_fcnt_down, session.a_fcnt_down);
            let now = Timestamp::from_us(now_us);
            match session.recheck(&uplink) {
                Ok(Counter::Fresh) => {
                    session.open_uplink(&Profile::default(), &uplink, now);
                    taken.push(fcnt);
                    model.last = Some(fcnt);
                    apply(&mut session, &Profile::default(), &uplink, &RADIO, None, now);
                }
                Ok(Counter::Repeat) => {
                    session.count_repeat();
                    let step = apply_repeat(&mut session, &Profile::default(), &uplink, &RADIO, now);
                    prop_assert!(step.app_payload.is_none());
                }
                Ok(Counter::RepeatExhausted) | Err(_) => prop_assert!(taken.is_empty() || taken.last() == Some(&fcnt)),
            }
            prop_assert!(session.n_fcnt_down >= n && session.n_fcnt_down - n <= 1);
            prop_assert!(session.a_fcnt_down >= a && session.a_fcnt_down - a <= 1);
            prop_assert_eq!(session.fcnt_up.map(FCntUp::value), model.last);
        }
        prop_assert!(taken.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", taken);
    }
}

/// How the counter of a frame lies to that of the frame before.
#[derive(Clone, Copy, Debug)]
enum Step {
    Ahead(u32),
    Behind(u32),
    Same,
}

impl Step {
    fn from(self, fcnt: u32) -> u32 {
        match self {
            Self::Ahead(by) => fcnt.saturating_add(by),
            Self::Behind(by) => fcnt.saturating_sub(by),
            Self::Same => fcnt,
        }
    }
}

#[derive(Clone, Debug)]
struct SentFrame {
    step: Step,
    forged: bool,
    confirmed: bool,
}

fn sent_frames() -> impl Strategy<Value = SentFrame> {
    let step = prop_oneof![
        6 => (1_u32..4).prop_map(Step::Ahead),
        2 => prop::sample::select(vec![MAX_FCNT_GAP - 1, MAX_FCNT_GAP, 0xfffe, 0xffff, 0x1_0000, 0x1_0001]).prop_map(Step::Ahead),
        2 => (1_u32..70_000).prop_map(Step::Behind),
        2 => Just(Step::Same),
    ];
    (step, prop::bool::weighted(0.1), any::<bool>()).prop_map(|(step, forged, confirmed)| SentFrame {
        step,
        forged,
        confirmed,
    })
}

impl SentFrame {
    /// The payload follows from the counter: the same counter is the same frame again.
    fn phy(&self, session: &Session, fcnt: u32) -> Vec<u8> {
        let frame = UplinkFrame {
            confirmed: self.confirmed,
            dev_addr: session.dev_addr,
            adr: true,
            adr_ack_req: false,
            ack: false,
            class_b: false,
            fcnt: FCntUp::new(fcnt),
            // A 1.1 session is told so by its first uplinks.
            fopts: vec![0x0b, 1],
            f_port: Some(2),
            frm_payload: fcnt.to_be_bytes().to_vec(),
        };
        let context =
            mac::crypto::UplinkMicContext11 { conf_fcnt: session.conf_fcnt(), tx_dr: DR.value(), tx_ch: 0 };
        let keys =
            if self.forged { NetworkKeys::from_nwk_s_key(&Key::new([9; 16])) } else { session.keys.clone() };
        frame.seal(&keys, session.version.is_1_1().then_some(context)).unwrap()
    }
}

/// What a session may do with a frame whose true counter is known.
struct Model {
    last: Option<u32>,
    version: MacVersion,
}

impl Model {
    fn judge(&self, fcnt: u32, forged: bool) -> &'static str {
        let wire = FCntUp::new(fcnt).wire().value();
        let Some(guess) = looked_up(wire, self.last) else { return "exhausted" };
        if forged || guess != fcnt {
            return "no match";
        }
        match self.last {
            Some(last) if last == fcnt => "repeat",
            Some(last) if self.version.has_max_fcnt_gap() && fcnt - last >= MAX_FCNT_GAP => "too far",
            Some(_) | None => "fresh",
        }
    }
}

fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Exhausted => "exhausted",
        Outcome::Fresh(_) => "fresh",
        Outcome::NoMatch => "no match",
        Outcome::Repeat(_) => "repeat",
        Outcome::Replayed(_) => "replayed",
        Outcome::Reset(_) => "reset",
        Outcome::TooFar(_) => "too far",
    }
}

fn session(version: MacVersion, last: Option<u32>) -> Session {
    let params = AbpParams {
        id: SessionId::new(1),
        dev_eui: DevEui::new(2),
        dev_addr: DevAddr::new(0x2601_0203),
        version,
        keys: NetworkKeys::from_nwk_s_key(&Key::new([7; 16])),
        fcnt_up: last.map(FCntUp::new),
        fcnt_down: 0,
    };
    Session::new_abp(&Profile::default(), params, Timestamp::from_us(0))
}

fn candidate(session: &Session) -> Candidate<'_> {
    Candidate {
        session: session.id,
        version: session.version,
        f_nwk_s_int: &session.keys.f_nwk_s_int,
        s_nwk_s_int: Some(&session.keys.s_nwk_s_int),
        conf_fcnt: session.conf_fcnt(),
        last: session.fcnt_up,
        allow_fcnt_reset: false,
    }
}

const DR: DataRate = DataRate::new(0);
const RADIO: RadioContext = RadioContext {
    freq: Hz::new(868_100_000),
    dr: DR,
    channel: Some(0),
    snr_db: Some(3.0),
    gateway_count: 1,
    ended_at_gps_us: None,
    reply: Reply::Possible,
};
