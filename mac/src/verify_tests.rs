#![allow(clippy::unwrap_used)]
use super::*;
use crate::ids::DevAddr;
use crate::keys::Key;
use crate::phy::UplinkFrame;

/// FCNT-001, FCNT-002: accepted are genuine frames with a counter above the last one, across roll-overs of the low half.
#[test]
fn a_genuine_frame_ahead_is_fresh_and_knows_its_full_counter() {
    for (last, sent) in
        [(None, 0), (None, 1), (None, 0xffff), (Some(0), 1), (Some(0xffff), 0x1_0000), (Some(0xfffe), 0x1_0001)]
    {
        let phy = phy(sent);
        let outcome = verified(&phy, &session_10(last, MacVersion::V1_0_4, false));
        assert!(
            matches!(outcome, Outcome::Fresh(proof) if proof.fcnt() == FCntUp::new(sent)),
            "{last:?} {sent}"
        );
    }
    let far = phy(0x2_0000 + 32_767);
    let outcome = verified(&far, &session_10(Some(0x1_ffff), MacVersion::V1_0_4, false));
    assert!(matches!(outcome, Outcome::Fresh(proof) if proof.fcnt() == FCntUp::new(0x2_0000 + 32_767)));
}

/// FCNT-006.
#[test]
fn a_jump_is_judged_by_version_and_only_when_the_frame_is_genuine() {
    for &version in MacVersion::ALL.iter().filter(|version| !version.is_1_1()) {
        for gap in [16_383, 16_384, 40_000] {
            let phy = phy(100 + gap);
            let outcome = verified(&phy, &session_10(Some(100), version, false));
            if version <= MacVersion::V1_0_3 && gap >= 16_384 {
                assert_eq!(outcome, Outcome::TooFar(FCntUp::new(100 + gap)), "{version}");
            } else {
                assert!(matches!(outcome, Outcome::Fresh(_)), "{version} {gap}");
            }
        }
    }
    let mut forged = phy(40_000);
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(verified(&forged, &session_10(Some(100), MacVersion::V1_0_3, false)), Outcome::NoMatch);
}

/// FCNT-013.
#[test]
fn a_counter_that_is_used_up_takes_no_frame_after_its_last() {
    let last = phy(u32::MAX);
    let outcome = verified(&last, &session_10(Some(u32::MAX - 1), MacVersion::V1_0_4, false));
    assert!(matches!(outcome, Outcome::Fresh(_)));
    let wrapped = phy(0);
    assert_eq!(verified(&wrapped, &session_10(Some(u32::MAX), MacVersion::V1_0_4, false)), Outcome::Exhausted);
    assert_eq!(forward_gap(WireFCnt::new(0), Some(FCntUp::new(u32::MAX))), u32::MAX);
}

/// FCNT-002: the gap only sorts candidates, so it has an answer for every counter.
#[test]
fn the_forward_gap_is_what_the_counter_advances_and_the_widest_there_is_when_it_cannot() {
    let gap = |wire, last: Option<u32>| forward_gap(WireFCnt::new(wire), last.map(FCntUp::new));
    for last in [0, 1, 0xfffe, 0xffff, 0x1_0000, 0x7fff_ffff, 0xfffe_ffff, 0xffff_0000, u32::MAX - 1, u32::MAX]
    {
        for step in [0, 1, 2, 0x7fff, 0xfffe, 0xffff] {
            let sent = last.wrapping_add(step);
            let expected = if sent < last { u32::MAX } else { step };
            assert_eq!(gap(FCntUp::new(sent).wire().value(), Some(last)), expected, "{last} + {step}");
        }
    }
    assert_eq!(gap(0xffff, None), 0xffff);
}

#[test]
fn the_last_frame_again_is_a_repeat() {
    let phy = phy(7);
    assert!(matches!(verified(&phy, &session_10(Some(7), MacVersion::V1_0_3, false)), Outcome::Repeat(_)));
}

#[test]
fn an_old_frame_matches_nothing_and_is_called_a_replay_by_the_second_try() {
    for (last, old) in [(100, 99), (100, 0), (0x1_0003, 0x1_0002), (0x1_0003, 0xfff0), (0x5_0000, 0x4_ffff)] {
        let phy = phy(old);
        let candidate = session_10(Some(last), MacVersion::V1_0_4, false);
        assert_eq!(verified(&phy, &candidate), Outcome::NoMatch, "{last} {old}");
        let Ok(Frame::DataUp(frame)) = parse_uplink(&phy) else { panic!() };
        assert_eq!(
            verify_replay(&frame, &candidate, SENT_WITH),
            Outcome::Replayed(FCntUp::new(old)),
            "{last} {old}"
        );
    }
    let mut forged = phy(99);
    *forged.last_mut().unwrap() ^= 1;
    let Ok(Frame::DataUp(frame)) = parse_uplink(&forged) else { panic!() };
    assert_eq!(
        verify_replay(&frame, &session_10(Some(100), MacVersion::V1_0_4, false), SENT_WITH),
        Outcome::NoMatch
    );
    assert_eq!(
        verify_replay(&frame, &session_10(None, MacVersion::V1_0_4, false), SENT_WITH),
        Outcome::NoMatch
    );
}

/// FCNT-007.
#[test]
fn a_counter_that_starts_again_counts_only_for_a_device_that_may() {
    let phy = phy(0);
    assert_eq!(verified(&phy, &session_10(Some(100), MacVersion::V1_0_3, false)), Outcome::NoMatch);
    let outcome = verified(&phy, &session_10(Some(100), MacVersion::V1_0_3, true));
    assert!(matches!(outcome, Outcome::Reset(proof) if proof.fcnt() == FCntUp::new(0)));
    assert!(matches!(verified(&phy, &session_10(Some(u32::MAX), MacVersion::V1_0_3, true)), Outcome::Reset(_)));
}

/// ACK-008: the MIC of a 1.1 uplink holds for one data rate, one channel, and with ACK for one downlink.
#[test]
fn a_1_1_frame_is_bound_to_channel_rate_and_the_downlink_it_acknowledges() {
    let context = UplinkMicContext11 { conf_fcnt: 9, tx_dr: 3, tx_ch: 2 };
    let phy = UplinkFrame { ack: true, ..parts(5) }.seal(&keys_11(), Some(context)).unwrap();
    let keys = keys_11();
    let candidate = |conf_fcnt| Candidate {
        version: MacVersion::V1_1_0,
        f_nwk_s_int: &keys.f_nwk_s_int,
        s_nwk_s_int: Some(&keys.s_nwk_s_int),
        conf_fcnt,
        ..session_10(Some(4), MacVersion::V1_1_0, false)
    };
    let sent = |dr, channel| SentWith { dr: DataRate::new(dr), channel };
    let Ok(Frame::DataUp(frame)) = parse_uplink(&phy) else { panic!() };
    assert!(matches!(verify(&frame, &candidate(9), sent(3, Some(2))), Outcome::Fresh(_)));
    assert_eq!(verify(&frame, &candidate(8), sent(3, Some(2))), Outcome::NoMatch);
    assert_eq!(verify(&frame, &candidate(9), sent(2, Some(2))), Outcome::NoMatch);
    assert_eq!(verify(&frame, &candidate(9), sent(3, Some(1))), Outcome::NoMatch);
    assert_eq!(verify(&frame, &candidate(9), sent(3, None)), Outcome::NoMatch);
    assert_eq!(
        verify(&frame, &Candidate { s_nwk_s_int: None, ..candidate(9) }, sent(3, Some(2))),
        Outcome::NoMatch
    );

    // Sent again on another channel it has another MIC and the same content.
    let elsewhere = UplinkMicContext11 { tx_ch: 1, ..context };
    let again = UplinkFrame { ack: true, ..parts(5) }.seal(&keys_11(), Some(elsewhere)).unwrap();
    assert_ne!(phy, again);
    let Ok(Frame::DataUp(other)) = parse_uplink(&again) else { panic!() };
    let (Outcome::Fresh(one), Outcome::Fresh(two)) =
        (verify(&frame, &candidate(9), sent(3, Some(2))), verify(&other, &candidate(9), sent(3, Some(1))))
    else {
        panic!()
    };
    assert_eq!(one.content(), two.content());
}

#[test]
fn a_proof_opens_only_the_frame_it_was_made_for() {
    let (one, other) = (phy(7), phy(8));
    let Outcome::Fresh(proof) = verified(&one, &session_10(None, MacVersion::V1_0_3, false)) else { panic!() };
    assert!(proof.open(&one).is_some_and(|uplink| uplink.fcnt() == FCntUp::new(7)));
    assert!(proof.open(&other).is_none());
    assert!(proof.open(&one[..one.len() - 1]).is_none());
    assert!(proof.open(&[]).is_none());
}

/// FCNT-001: against a model of a few lines, in any order of genuine frames, exactly those above the last one are fresh.
#[test]
fn any_order_of_genuine_frames_follows_the_model() {
    let mut seed = 12_345_u64;
    let mut last: Option<u32> = None;
    for _ in 0..2_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let near = last.unwrap_or(0);
        let step = u32::try_from(seed >> 48).unwrap() % 40_000;
        let sent = if seed & 1 == 0 { near.saturating_add(step) } else { near.saturating_sub(step % 50) };
        let phy = phy(sent);
        let outcome = verified(&phy, &session_10(last, MacVersion::V1_0_4, false));
        match last {
            Some(last) if sent == last => assert!(matches!(outcome, Outcome::Repeat(_))),
            Some(last) if sent < last => assert_eq!(outcome, Outcome::NoMatch),
            _ => {
                assert!(matches!(outcome, Outcome::Fresh(proof) if proof.fcnt().value() == sent));
                last = Some(sent);
            }
        }
    }
}

const SENT_WITH: SentWith = SentWith { dr: DataRate::new(0), channel: Some(0) };

fn parts(fcnt: u32) -> UplinkFrame {
    UplinkFrame {
        confirmed: false,
        dev_addr: DevAddr::new(0x2601_0203),
        adr: false,
        adr_ack_req: false,
        ack: false,
        class_b: false,
        fcnt: FCntUp::new(fcnt),
        fopts: Vec::new(),
        f_port: Some(1),
        frm_payload: vec![1, 2, 3],
    }
}

fn phy(fcnt: u32) -> Vec<u8> {
    parts(fcnt).seal(&NetworkKeys::from_nwk_s_key(&Key::new([7; 16])), None).unwrap()
}

fn verified(phy: &[u8], candidate: &Candidate<'_>) -> Outcome {
    let Ok(Frame::DataUp(frame)) = parse_uplink(phy) else { panic!() };
    verify(&frame, candidate, SENT_WITH)
}

fn session_10(last: Option<u32>, version: MacVersion, allow_fcnt_reset: bool) -> Candidate<'static> {
    static KEY: FNwkSIntKey = FNwkSIntKey::new([7; 16]);
    Candidate {
        session: SessionId::new(1),
        version,
        f_nwk_s_int: &KEY,
        s_nwk_s_int: None,
        conf_fcnt: 0,
        last: last.map(FCntUp::new),
        allow_fcnt_reset,
    }
}

fn keys_11() -> NetworkKeys {
    NetworkKeys {
        f_nwk_s_int: FNwkSIntKey::new([1; 16]),
        s_nwk_s_int: SNwkSIntKey::new([2; 16]),
        nwk_s_enc: NwkSEncKey::new([3; 16]),
    }
}
