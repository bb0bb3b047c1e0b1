//! Frames in all shapes: every length, every FType, every flag, and bytes that are no frame at all.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use mac::crypto::{self, Direction, FOptsCounter, UplinkMicContext11};
use mac::drop_reason::DropReason;
use mac::ids::{DevAddr, DevEui, DevNonce, FCntDown, FCntUp, JoinEui, JoinNonce, NetId};
use mac::join_frame::{AcceptMic, DlSettings, JoinAccept, JoinReqType, JoinRequest, RejoinKind, RejoinRequest};
use mac::keys::{AppKey, AppSKey, FNwkSIntKey, Key, NetworkKeys, NwkKey, NwkSEncKey, SNwkSIntKey};
use mac::phy::{
    AnyFrame, BuildError, DataUp, DecodeKeys, DownFrame, DownlinkFrame, Frame, JoinContext, MicVerdict,
    UplinkFrame, parse_any, parse_downlink, parse_uplink,
};
use proptest::prelude::*;

const DEV_ADDR: DevAddr = DevAddr::new(0x0102_0304);
const DEV_EUI: DevEui = DevEui::new(0x0203_0405_0607_0809);
const JOIN_EUI: JoinEui = JoinEui::new(0x70b3_d57e_d000_0001);
const ROOT_KEY: [u8; 16] = [0x2b; 16];

/// PARSE-001.
#[test]
fn only_major_version_r1_is_processed() {
    for major in 1..=3 {
        let mut phy = uplink_10(1, &[], Some(1), b"x");
        phy[0] |= major;
        assert_eq!(parse_uplink(&phy), Err(DropReason::UnknownMajor));
        assert_eq!(parse_downlink(&phy), None);
    }
    assert!(parse_uplink(&uplink_10(1, &[], Some(1), b"x")).is_ok());
}

/// PARSE-002, PARSE-003: FType 6 is told apart here; what becomes of it depends on the device's version.
#[test]
fn each_ftype_goes_its_own_way_on_the_uplink_path() {
    let mut data = uplink_10(1, &[], Some(1), b"x");
    for (ftype, up) in [(1, false), (2, true), (3, false), (4, true), (5, false)] {
        data[0] = ftype << 5;
        match parse_uplink(&data) {
            Ok(Frame::DataUp(frame)) => assert!(up && frame.confirmed == (ftype == 4)),
            other => assert!(!up && other == Err(DropReason::NotAnUplink), "{ftype}: {other:?}"),
        }
    }
    let join = JoinRequest::seal(JOIN_EUI, DEV_EUI, DevNonce::new(7), &ROOT_KEY);
    assert!(matches!(parse_uplink(&join), Ok(Frame::JoinRequest(_))));
    let rejoin = RejoinRequest::seal(RejoinKind::Type0(NetId::new(0x13)), DEV_EUI, 1, &ROOT_KEY);
    assert!(matches!(parse_uplink(&rejoin), Ok(Frame::Rejoin(_))));
}

/// PARSE-004.
#[test]
fn a_frame_of_twelve_bytes_is_a_frame_without_a_port() {
    let phy = uplink_10(9, &[], None, &[]);
    assert_eq!(phy.len(), 12);
    let frame = data_up(&phy);
    assert_eq!((frame.f_port, frame.frm_payload, frame.fcnt.value()), (None, &[][..], 9));
}

/// PARSE-005.
#[test]
fn a_data_frame_cut_short_is_malformed() {
    let phy = uplink_10(9, &[], None, &[]);
    for len in 0..12 {
        assert_eq!(parse_uplink(&phy[..len]), Err(DropReason::Malformed), "{len}");
    }
}

/// PARSE-006.
#[test]
fn fopts_longer_than_the_frame_are_malformed() {
    for fopts_len in 1..=15 {
        for present in 0..fopts_len {
            let mut phy = uplink_10(1, &vec![0x02; usize::from(present)], None, &[]);
            phy[5] = phy[5] & 0xf0 | fopts_len;
            assert_eq!(parse_uplink(&phy), Err(DropReason::Malformed), "{fopts_len} of {present}");
        }
    }
}

/// PARSE-007.
#[test]
fn mac_commands_in_both_places_are_refused_and_never_built() {
    let mut phy = uplink_10(1, &[0x02], Some(1), &[0x06]);
    phy[9] = 0;
    assert_eq!(parse_uplink(&phy), Err(DropReason::Fport0WithFopts));

    let refused = uplink(1, &[0x02], Some(0), &[0x06]).seal(&keys_10(), None);
    assert_eq!(refused, Err(BuildError::FPort0WithFOpts));
}

/// PARSE-008, PARSE-009, PARSE-010: every port is told as it is; an empty payload behind a port is legal.
#[test]
fn every_port_is_read_with_and_without_a_payload() {
    for f_port in 0..=255 {
        for payload in [&[][..], b"x"] {
            let phy = uplink_10(1, &[], Some(f_port), payload);
            let frame = data_up(&phy);
            assert_eq!((frame.f_port, frame.frm_payload), (Some(f_port), payload));
        }
    }
    let refused = uplink(1, &[], None, b"x").seal(&keys_10(), None);
    assert_eq!(refused, Err(BuildError::PayloadWithoutFPort { len: 1 }));
}

/// PARSE-011: 22 and 24 bytes, each with a MIC that holds over them.
#[test]
fn a_join_request_has_23_bytes() {
    for len in [12, 22, 24] {
        let mut phy = vec![0; len - 4];
        phy.extend(crypto::join_mic(&ROOT_KEY, &phy).to_bytes());
        assert_eq!(parse_uplink(&phy), Err(DropReason::Malformed), "{len}");
    }
}

/// CRYPTO-010, CRYPTO-011: the key is the caller's choice; any other does not fit.
#[test]
fn a_join_request_is_verified_by_its_root_key_only() {
    let phy = JoinRequest::seal(JOIN_EUI, DEV_EUI, DevNonce::new(0x0103), &ROOT_KEY);
    let request = JoinRequest::parse(&phy).unwrap();
    assert_eq!((request.join_eui, request.dev_eui, request.dev_nonce.value()), (JOIN_EUI, DEV_EUI, 0x0103));
    assert!(request.verify(&ROOT_KEY));
    assert!(!request.verify(&[0x2c; 16]));
    for index in 1..23 {
        let mut damaged = phy.clone();
        damaged[index] ^= 0x10;
        assert!(!JoinRequest::parse(&damaged).unwrap().verify(&ROOT_KEY), "{index}");
    }
    // RFU bits of the MHDR are ignored in meaning, but the MIC covers them.
    let mut rfu = phy;
    rfu[0] = 0x1c;
    assert!(!JoinRequest::parse(&rfu).unwrap().verify(&ROOT_KEY));
}

/// PARSE-012, PARSE-013, PARSE-014.
#[test]
fn a_rejoin_request_has_the_length_of_its_type() {
    for (kind, right) in [(0_u8, 19), (1, 24), (2, 19)] {
        for len in 6..=30 {
            let mut phy = vec![0; len];
            phy[0] = 0xc0;
            phy[1] = kind;
            let parsed = parse_uplink(&phy);
            if len == right {
                assert!(matches!(parsed, Ok(Frame::Rejoin(_))), "type {kind}, {len} bytes: {parsed:?}");
            } else {
                assert_eq!(parsed, Err(DropReason::Malformed), "type {kind}, {len} bytes");
            }
        }
    }
    for kind in 3..=255 {
        for len in [19, 24] {
            let mut phy = vec![0; len];
            phy[0] = 0xc0;
            phy[1] = kind;
            assert_eq!(parse_uplink(&phy), Err(DropReason::Malformed), "type {kind}");
        }
    }
}

/// CRYPTO-020, CRYPTO-021.
#[test]
fn a_rejoin_request_is_verified_by_its_own_key_only() {
    let keys = keys_11();
    for kind in
        [RejoinKind::Type0(NetId::new(0x13)), RejoinKind::Type2(NetId::new(0x13)), RejoinKind::Type1(JOIN_EUI)]
    {
        let phy = RejoinRequest::seal(kind, DEV_EUI, 0x0201, keys.s_nwk_s_int.expose());
        let request = RejoinRequest::parse(&phy).unwrap();
        assert_eq!((request.kind, request.dev_eui, request.rj_count), (kind, DEV_EUI, 0x0201));
        assert!(request.verify(keys.s_nwk_s_int.expose()));
        assert!(!request.verify(keys.f_nwk_s_int.expose()));
    }
}

/// PARSE-015.
#[test]
fn every_field_travels_least_significant_byte_first() {
    let join = JoinRequest::seal(JOIN_EUI, DEV_EUI, DevNonce::new(0x0103), &ROOT_KEY);
    assert_eq!(hex::encode(&join[..19]), "00010000d07ed5b37009080706050403020301");
    let phy = uplink_10(0x0001_0203, &[], None, &[]);
    assert_eq!(hex::encode(&phy[1..5]), "04030201");
    assert_eq!(hex::encode(&phy[6..8]), "0302");
}

/// PARSE-016, PARSE-018: RFU bits of the MHDR and of a downlink's FCtrl are ignored when read and 0 when sent.
#[test]
fn reserved_bits_are_ignored_when_read_and_zero_when_sent() {
    let mut phy = uplink_10(1, &[], Some(1), b"x");
    phy[0] |= 0x1c;
    assert!(matches!(parse_uplink(&phy), Ok(Frame::DataUp(_))));

    for flags in 0..16_u8 {
        let frame = DownlinkFrame {
            confirmed: flags & 1 != 0,
            adr: flags & 2 != 0,
            ack: flags & 4 != 0,
            f_pending: flags & 8 != 0,
            ..downlink(1, &[0x02, 7, 1], Some(1), b"x")
        };
        let phy = frame.seal(false, &keys_10(), 0, true).unwrap();
        assert_eq!(phy[0] & 0x1f, 0);
        assert_eq!(phy[5] & 0x40, 0);
        let Some(DownFrame::Data(read)) = parse_downlink(&phy) else { panic!() };
        let read = [read.confirmed, read.adr, read.ack, read.f_pending];
        assert_eq!(read, [1, 2, 4, 8].map(|bit| flags & bit != 0));
    }
    let accept = JoinAccept { rx_delay_s: 0xff, ..accept(None) };
    let opened = JoinAccept::open(&accept.seal(&AcceptMic::Plain(&ROOT_KEY), &ROOT_KEY), &ROOT_KEY).unwrap();
    assert_eq!(opened.accept.rx_delay_s, 15);
    assert_eq!(DlSettings { opt_neg: true, rx1_dr_offset: 0xff, rx2_dr: 0xff }.to_byte(), 0xff);
    assert_eq!(DlSettings::from_byte(0x53), DlSettings { opt_neg: false, rx1_dr_offset: 5, rx2_dr: 3 });
}

/// PARSE-021.
#[test]
fn a_proprietary_frame_is_passed_on_as_it_is() {
    for len in 0..=254 {
        let mut phy = vec![0xe0];
        phy.extend(std::iter::repeat_n(0x55, len));
        assert_eq!(parse_uplink(&phy), Ok(Frame::Proprietary(&phy[1..])));
    }
}

/// PARSE-022.
#[test]
fn a_frame_longer_than_a_radio_can_send_is_refused() {
    for ftype in 0..8 {
        let mut phy = vec![0; 256];
        phy[0] = ftype << 5;
        assert_eq!(parse_uplink(&phy), Err(DropReason::TooLong));
        assert_eq!(parse_downlink(&phy), None);
        assert!(matches!(parse_any(&phy, &DecodeKeys::default()), Err(DropReason::TooLong)));
    }
    assert_eq!(uplink_10(1, &[], Some(1), &[0; 242]).len(), 255);
    let refused = uplink(1, &[], Some(1), &[0; 243]).seal(&keys_10(), None);
    assert_eq!(refused, Err(BuildError::TooLong { len: 256 }));
    let refused = downlink(1, &[2; 16], None, &[]).seal(false, &keys_10(), 0, false);
    assert_eq!(refused, Err(BuildError::FOptsTooLong { len: 16 }));
}

/// CRYPTO-001, CRYPTO-007: the MIC covers the whole 32-bit counter, of which the frame carries half.
#[test]
fn a_frame_verifies_with_its_full_counter_only() {
    for fcnt in [0, 0xffff, 0x0001_0000, u32::MAX] {
        let phy = uplink_10(fcnt, &[], Some(1), b"21.5");
        let frame = data_up(&phy);
        let key = keys_10().f_nwk_s_int;
        let mic = |fcnt| crypto::uplink_mic_10(&key, DEV_ADDR, FCntUp::new(fcnt), frame.msg);
        assert_eq!(frame.mic, mic(fcnt));
        assert_ne!(frame.mic, mic(fcnt ^ 0x0001_0000));
    }
}

/// CRYPTO-007: encryption and decryption are one, at every length a frame has, and depend on all their inputs.
#[test]
fn a_payload_is_opened_by_the_same_key_counter_address_and_direction_only() {
    let key = [0x11; 16];
    for len in [1, 15, 16, 17, 32, 242] {
        let plain: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
        let crypt = |key: &[u8; 16], dir, dev_addr, fcnt| {
            let mut data = plain.clone();
            crypto::crypt_frm_payload(key, dir, dev_addr, fcnt, &mut data);
            data
        };
        let sealed = crypt(&key, Direction::Up, DEV_ADDR, 0x0001_0000);
        let mut opened = sealed.clone();
        crypto::crypt_frm_payload(&key, Direction::Up, DEV_ADDR, 0x0001_0000, &mut opened);
        assert_eq!(opened, plain);
        assert_ne!(sealed, plain);
        assert_ne!(sealed, crypt(&[0x12; 16], Direction::Up, DEV_ADDR, 0x0001_0000));
        assert_ne!(sealed, crypt(&key, Direction::Down, DEV_ADDR, 0x0001_0000));
        assert_ne!(sealed, crypt(&key, Direction::Up, DevAddr::new(0x0102_0305), 0x0001_0000));
        assert_ne!(sealed, crypt(&key, Direction::Up, DEV_ADDR, 0));
    }
    // Longer than any frame: the key stream ends, nothing panics.
    let mut long = vec![0; 5_000];
    crypto::crypt_frm_payload(&key, Direction::Up, DEV_ADDR, 0, &mut long);
    assert!(long[4_080..].iter().all(|&byte| byte == 0));
}

/// CRYPTO-003: ConfFCnt is 0 without the ACK bit.
#[test]
fn an_uplink_of_1_1_covers_the_downlink_it_acknowledges() {
    let keys = keys_11();
    let context = UplinkMicContext11 { conf_fcnt: 0x2345, tx_dr: 3, tx_ch: 2 };
    for ack in [false, true] {
        let phy = UplinkFrame { ack, ..uplink(9, &[], Some(1), b"x") }.seal(&keys, Some(context)).unwrap();
        let frame = data_up(&phy);
        let fits = |conf_fcnt| {
            let context = UplinkMicContext11 { conf_fcnt, ..context };
            frame.mic == crypto::uplink_mic_11(&keys, context, DEV_ADDR, FCntUp::new(9), frame.msg)
        };
        assert_eq!((fits(0x2345), fits(0)), (ack, !ack));
    }
}

/// CRYPTO-004: so does a downlink; in 1.0.x it never does.
#[test]
fn a_downlink_of_1_1_covers_the_uplink_it_acknowledges() {
    for (version_1_1, ack, conf_fcnt) in
        [(true, true, 0x2345), (true, false, 0), (false, true, 0), (false, false, 0)]
    {
        let keys = keys_11();
        let frame = DownlinkFrame { ack, ..downlink(9, &[], Some(1), b"x") };
        let phy = frame.seal(version_1_1, &keys, 0x2345, true).unwrap();
        let Some(DownFrame::Data(frame)) = parse_downlink(&phy) else { panic!() };
        assert!(frame.verify(&keys.s_nwk_s_int, conf_fcnt, FCntDown::new(9)));
        assert!(!frame.verify(&keys.s_nwk_s_int, conf_fcnt ^ 0x2345, FCntDown::new(9)));
    }
}

/// CRYPTO-005: the MIC of a 1.1 device on a 1.0 session is the whole MIC of 1.0.
#[test]
fn a_session_of_1_0_has_one_key_and_one_mic() {
    let phy = uplink_10(7, &[], Some(1), b"x");
    let frame = data_up(&phy);
    let mic = crypto::uplink_mic_10(&keys_10().f_nwk_s_int, DEV_ADDR, FCntUp::new(7), frame.msg);
    assert_eq!(frame.mic, mic);
}

/// CRYPTO-008, CRYPTO-009: FOpts are encrypted in 1.1 by the counter's kind, in clear in 1.0.x.
#[test]
fn fopts_are_encrypted_in_1_1_only() {
    let link_adr = [0x03, 0x51, 0x07, 0x00, 0x01];
    let phy = downlink(5, &link_adr, None, &[]).seal(false, &keys_10(), 0, false).unwrap();
    assert_eq!(phy[8..13], link_adr);

    let keys = keys_11();
    let mut seen = Vec::new();
    for (f_port, app_counter) in [(None, false), (Some(1), true)] {
        let phy = downlink(5, &link_adr, f_port, &[]).seal(true, &keys, 0, app_counter).unwrap();
        let Some(DownFrame::Data(frame)) = parse_downlink(&phy) else { panic!() };
        assert_ne!(frame.fopts, link_adr);
        assert_eq!(frame.open_fopts(&keys.nwk_s_enc, FCntDown::new(5)), link_adr);
        seen.push(frame.fopts.to_vec());
    }
    assert_ne!(seen[0], seen[1], "the two counters have key streams of their own");
}

/// JOIN-008, CRYPTO-012, CRYPTO-013.
#[test]
fn a_join_accept_has_17_bytes_or_33_with_a_cf_list() {
    for (cf_list, len) in [(None, 17), (Some([0x18; 16]), 33)] {
        let accept = accept(cf_list);
        let phy = accept.seal(&AcceptMic::Plain(&ROOT_KEY), &ROOT_KEY);
        assert_eq!(phy.len(), len);
        let opened = JoinAccept::open(&phy, &ROOT_KEY).unwrap();
        assert_eq!(opened.accept, accept);
        assert!(opened.verify(&AcceptMic::Plain(&ROOT_KEY)));
        // Nothing of it is readable, and every byte of it counts.
        for index in 1..len {
            let mut damaged = phy.clone();
            damaged[index] ^= 1;
            assert!(
                !JoinAccept::open(&damaged, &ROOT_KEY).unwrap().verify(&AcceptMic::Plain(&ROOT_KEY)),
                "{index}"
            );
        }
    }
    for len in (0..=40).filter(|len| !matches!(len, 17 | 33)) {
        assert!(JoinAccept::open(&vec![0x20; len], &ROOT_KEY).is_none(), "{len}");
    }
}

/// CRYPTO-018, CRYPTO-019, CRYPTO-022: the MIC names the request answered, and RJcount stands in for DevNonce.
#[test]
fn a_join_accept_of_1_1_fits_the_request_it_answers_only() {
    let nwk_key = NwkKey::new(ROOT_KEY);
    let js_int_key = crypto::js_int_key(&nwk_key, DEV_EUI);
    let js_enc_key = crypto::js_enc_key(&nwk_key, DEV_EUI);
    let mic = |request, dev_nonce| AcceptMic::OptNeg {
        key: &js_int_key,
        request,
        join_eui: JOIN_EUI,
        dev_nonce: DevNonce::new(dev_nonce),
    };
    let requests = [JoinReqType::Join, JoinReqType::Rejoin0, JoinReqType::Rejoin1, JoinReqType::Rejoin2];
    let accept = JoinAccept {
        dl_settings: DlSettings { opt_neg: true, ..DlSettings::default() },
        ..accept(Some([1; 16]))
    };
    for request in requests {
        let enc_key = if request == JoinReqType::Join { nwk_key.expose() } else { js_enc_key.expose() };
        let phy = accept.seal(&mic(request, 7), enc_key);
        let opened = JoinAccept::open(&phy, enc_key).unwrap();
        assert_eq!(opened.accept, accept);
        for other in requests {
            assert_eq!(opened.verify(&mic(other, 7)), other == request);
        }
        assert!(!opened.verify(&mic(request, 8)));

        // A person with the root key and the request reads it too.
        let known = DecodeKeys {
            nwk_key: Some(nwk_key.clone()),
            join: Some(JoinContext {
                request,
                join_eui: JOIN_EUI,
                dev_eui: DEV_EUI,
                dev_nonce: DevNonce::new(7),
            }),
            ..DecodeKeys::default()
        };
        let Ok(AnyFrame::JoinAccept { accept: Some(read), verdict, .. }) = parse_any(&phy, &known) else {
            panic!()
        };
        assert_eq!((read, verdict), (accept, MicVerdict::Matches));
    }
}

/// CRYPTO-014, CRYPTO-015, CRYPTO-016: without OptNeg one root key makes all keys, with it two do.
#[test]
fn session_keys_come_from_the_right_root_key() {
    let (nwk_key, app_key) = (NwkKey::new([1; 16]), AppKey::new([2; 16]));
    let (join_nonce, dev_nonce) = (JoinNonce::new(3), DevNonce::new(4));

    let (network, app_s_key) = crypto::derive_10(nwk_key.expose(), join_nonce, NetId::new(0x13), dev_nonce);
    assert_eq!(network.f_nwk_s_int.expose(), network.s_nwk_s_int.expose());
    assert_eq!(network.f_nwk_s_int.expose(), network.nwk_s_enc.expose());
    assert_ne!(app_s_key.expose(), network.nwk_s_enc.expose());

    let (network, app_s_key) = crypto::derive_11(&nwk_key, &app_key, join_nonce, JOIN_EUI, dev_nonce);
    let all = [
        network.f_nwk_s_int.expose(),
        network.s_nwk_s_int.expose(),
        network.nwk_s_enc.expose(),
        app_s_key.expose(),
    ];
    for (index, key) in all.iter().enumerate() {
        assert!(!all[..index].contains(key));
    }
    let (same_network, other_app_s_key) =
        crypto::derive_11(&nwk_key, &AppKey::new([9; 16]), join_nonce, JOIN_EUI, dev_nonce);
    assert_eq!(same_network, network);
    assert_ne!(other_app_s_key, app_s_key);
}

/// BACKEND-032, JOIN-012: an address stays in its network whatever is drawn, and `ff` belongs to none.
#[test]
fn an_address_belongs_to_the_network_it_was_made_in() {
    for net_type in 0..8_u32 {
        let net_id = NetId::new(net_type << 21 | 0x1234);
        let (first, _) = net_id.dev_addr_prefix();
        assert!(first.is_in_net(net_id));
        assert!(!DevAddr::new(first.value() ^ 0x8000_0000).is_in_net(net_id));
        assert_eq!(DevAddr::in_net(net_id, u32::MAX).net_type(), Some(net_type as u8));
    }
    assert_eq!(DevAddr::new(0xff00_0001).net_type(), None);
    assert_eq!(DevAddr::new(0xffff_ffff).nwk_addr(), None);
    // The private networks 000000 and 000001 (TS001-1.0.4 §6.1.2).
    assert_eq!(DevAddr::in_net(NetId::new(0), u32::MAX), DevAddr::new(0x01ff_ffff));
    assert_eq!(DevAddr::in_net(NetId::new(1), 0), DevAddr::new(0x0200_0000));
}

#[test]
fn identifiers_are_read_exactly() {
    assert_eq!("70B3d57ed0000001".parse::<JoinEui>().unwrap(), JOIN_EUI);
    assert_eq!(JOIN_EUI.to_string(), "70b3d57ed0000001");
    assert_eq!(format!("{DEV_ADDR:?}"), "01020304");
    assert_eq!(NetId::new(0x13).to_string(), "000013");
    for wrong in [
        "",
        "70b3d57ed000000",
        "70b3d57ed00000011",
        "+0b3d57ed0000001",
        "70:b3:d5:7e:d0:00",
        "70b3d57ed000000g",
    ] {
        let error = wrong.parse::<DevEui>().unwrap_err().to_string();
        assert!(error.contains("DevEui") && error.contains("16 hexadecimal digits"), "{error}");
    }
    let long = "1".repeat(10_000).parse::<DevAddr>().unwrap_err().to_string();
    assert!(long.len() < 200, "{long}");
}

/// A person decodes a frame without knowing the high half of its counter.
#[test]
fn decoding_finds_the_counter_and_says_what_the_keys_say() {
    let network = keys_10();
    let app_s_key = AppSKey::new([0x42; 16]);
    let fcnt = 0x0003_0007;
    let mut payload = b"21.5".to_vec();
    crypto::crypt_frm_payload(app_s_key.expose(), Direction::Up, DEV_ADDR, fcnt, &mut payload);
    let phy = uplink_10(fcnt, &[0x02], Some(2), &payload);

    let known = DecodeKeys { network: Some(network), app_s_key: Some(app_s_key), ..DecodeKeys::default() };
    let read = decoded(&phy, &known);
    assert_eq!((read.verdict, read.fcnt_full), (MicVerdict::Matches, Some(fcnt)));
    assert_eq!((read.fopts_plain.unwrap(), read.frm_payload_plain.unwrap()), (vec![0x02], b"21.5".to_vec()));

    let told = DecodeKeys { fcnt: Some(0x0004_0007), ..known };
    assert_eq!(decoded(&phy, &told).verdict, MicVerdict::Mismatch);
    let unknown = decoded(&phy, &DecodeKeys::default());
    assert_eq!((unknown.verdict, unknown.frm_payload_plain), (MicVerdict::NotChecked, None));
}

#[test]
fn decoding_a_1_1_uplink_without_its_channel_checks_half_of_the_mic() {
    let keys = keys_11();
    let context = UplinkMicContext11 { conf_fcnt: 0, tx_dr: 5, tx_ch: 1 };
    let phy = uplink(7, &[0x02], Some(1), b"x").seal(&keys, Some(context)).unwrap();
    let known = DecodeKeys { network: Some(keys), version_1_1: true, ..DecodeKeys::default() };
    let read = decoded(&phy, &known);
    assert_eq!((read.verdict, read.fopts_plain), (MicVerdict::HalfMatches, Some(vec![0x02])));
    let known = DecodeKeys { uplink_11: Some(context), ..known };
    assert_eq!(decoded(&phy, &known).verdict, MicVerdict::Matches);
}

#[test]
fn decoding_a_join_request_tries_both_root_keys() {
    let phy = JoinRequest::seal(JOIN_EUI, DEV_EUI, DevNonce::new(7), &ROOT_KEY);
    let verdict = |keys: &DecodeKeys| {
        let Ok(AnyFrame::JoinRequest { verdict, .. }) = parse_any(&phy, keys) else {
            panic!("no Join-Request")
        };
        verdict
    };
    assert_eq!(verdict(&DecodeKeys::default()), MicVerdict::NotChecked);
    let wrong = DecodeKeys { nwk_key: Some(NwkKey::new([9; 16])), ..DecodeKeys::default() };
    assert_eq!(verdict(&wrong), MicVerdict::Mismatch);
    let right = DecodeKeys { app_key: Some(AppKey::new(ROOT_KEY)), ..wrong };
    assert_eq!(verdict(&right), MicVerdict::Matches);
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..300)
}

proptest! {
    /// PARSE-022: nothing that comes in panics, in any reader.
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in any_bytes()) {
        let _ = parse_uplink(&bytes);
        let _ = parse_downlink(&bytes);
        let _ = JoinRequest::parse(&bytes);
        let _ = RejoinRequest::parse(&bytes);
        let _ = JoinAccept::open(&bytes, &ROOT_KEY);
        let known = DecodeKeys {
            network: Some(keys_11()),
            app_s_key: Some(AppSKey::new([3; 16])),
            app_key: Some(AppKey::new(ROOT_KEY)),
            nwk_key: Some(NwkKey::new(ROOT_KEY)),
            fcnt: Some(0),
            version_1_1: true,
            ..DecodeKeys::default()
        };
        let _ = parse_any(&bytes, &known);
    }

    /// PARSE-022: nor do they in the ciphers and MICs.
    #[test]
    fn no_bytes_make_a_cipher_panic(bytes in any_bytes(), fcnt in any::<u32>()) {
        let keys = keys_11();
        let mut data = bytes.clone();
        crypto::crypt_frm_payload(&ROOT_KEY, Direction::Down, DEV_ADDR, fcnt, &mut data);
        crypto::crypt_fopts(&keys.nwk_s_enc, Direction::Up, FOptsCounter::Network, DEV_ADDR, fcnt, &mut data);
        crypto::encrypt_join_accept(&ROOT_KEY, &mut data);
        crypto::decrypt_join_accept(&ROOT_KEY, &mut data);
        let _ = crypto::uplink_mic_11(&keys, UplinkMicContext11::default(), DEV_ADDR, FCntUp::new(fcnt), &bytes);
        let _ = crypto::downlink_mic(&keys.s_nwk_s_int, 0, DEV_ADDR, FCntDown::new(fcnt), &bytes);
        let _ = crypto::join_mic(&ROOT_KEY, &bytes);
    }

    /// PARSE-006: what is said to be in the header but is not there is malformed; what is accepted adds up to the whole frame.
    #[test]
    fn what_is_read_adds_up_to_the_frame(mut bytes in proptest::collection::vec(any::<u8>(), 1..=255)) {
        bytes[0] = 0x40;
        match parse_uplink(&bytes) {
            Ok(Frame::DataUp(frame)) => {
                let port_len = usize::from(frame.f_port.is_some());
                prop_assert_eq!(12 + frame.fopts.len() + port_len + frame.frm_payload.len(), bytes.len());
                prop_assert_eq!(frame.msg, &bytes[..bytes.len() - 4]);
            }
            Ok(other) => prop_assert!(false, "{other:?}"),
            Err(reason) => {
                let fopts_len = bytes.get(5).map_or(0, |fctrl| usize::from(fctrl & 0x0f));
                let too_short = bytes.len() < 12 + fopts_len;
                let twice = bytes.get(8 + fopts_len) == Some(&0) && bytes.len() > 12 + fopts_len && fopts_len > 0;
                prop_assert_eq!(reason, if too_short { DropReason::Malformed } else { DropReason::Fport0WithFopts });
                prop_assert!(too_short || twice);
            }
        }
    }

    #[test]
    fn an_uplink_is_read_as_it_was_made(
        flags in any::<[bool; 5]>(), fcnt in any::<u32>(), dev_addr in any::<u32>(),
        fopts in proptest::collection::vec(any::<u8>(), 0..=15),
        payload in proptest::option::of((1..=255_u8, proptest::collection::vec(any::<u8>(), 0..=220))),
        version_1_1 in any::<bool>(),
    ) {
        let [confirmed, adr, adr_ack_req, ack, class_b] = flags;
        let (f_port, frm_payload) = payload.map_or((None, Vec::new()), |(port, payload)| (Some(port), payload));
        let frame = UplinkFrame {
            confirmed, dev_addr: DevAddr::new(dev_addr), adr, adr_ack_req, ack, class_b, fcnt: FCntUp::new(fcnt),
            fopts: fopts.clone(), f_port, frm_payload: frm_payload.clone(),
        };
        let keys = keys_11();
        let context = UplinkMicContext11 { conf_fcnt: 7, tx_dr: 3, tx_ch: 2 };
        let phy = frame.seal(&keys, version_1_1.then_some(context)).unwrap();

        let read = data_up(&phy);
        prop_assert_eq!([read.confirmed, read.adr, read.adr_ack_req, read.ack, read.class_b], flags);
        prop_assert_eq!((read.dev_addr, read.fcnt), (DevAddr::new(dev_addr), FCntUp::new(fcnt).wire()));
        prop_assert_eq!((read.f_port, read.frm_payload), (f_port, &frm_payload[..]));
        let known = DecodeKeys {
            network: Some(keys), version_1_1, fcnt: Some(fcnt),
            uplink_11: Some(UplinkMicContext11 { conf_fcnt: if ack { 7 } else { 0 }, ..context }),
            ..DecodeKeys::default()
        };
        let read = decoded(&phy, &known);
        prop_assert_eq!(read.verdict, MicVerdict::Matches);
        prop_assert_eq!(read.fopts_plain, Some(fopts));
    }

    #[test]
    fn a_downlink_is_read_as_it_was_made(
        flags in any::<[bool; 4]>(), fcnt in any::<u32>(), dev_addr in any::<u32>(), conf_fcnt in any::<u16>(),
        fopts in proptest::collection::vec(any::<u8>(), 0..=15),
        payload in proptest::option::of((1..=255_u8, proptest::collection::vec(any::<u8>(), 0..=220))),
        version_1_1 in any::<bool>(),
    ) {
        let [confirmed, adr, ack, f_pending] = flags;
        let (f_port, frm_payload) = payload.map_or((None, Vec::new()), |(port, payload)| (Some(port), payload));
        let frame = DownlinkFrame {
            confirmed, dev_addr: DevAddr::new(dev_addr), adr, ack, f_pending, fcnt: FCntDown::new(fcnt),
            fopts: fopts.clone(), f_port, frm_payload: frm_payload.clone(),
        };
        let keys = keys_11();
        let phy = frame.seal(version_1_1, &keys, conf_fcnt, f_port.is_some()).unwrap();

        let Some(DownFrame::Data(read)) = parse_downlink(&phy) else { panic!() };
        prop_assert_eq!([read.confirmed, read.adr, read.ack, read.f_pending], flags);
        prop_assert_eq!((read.dev_addr, read.fcnt), (DevAddr::new(dev_addr), FCntDown::new(fcnt).wire()));
        prop_assert_eq!((read.f_port, read.frm_payload), (f_port, &frm_payload[..]));
        let conf_fcnt = if version_1_1 && ack { conf_fcnt } else { 0 };
        prop_assert!(read.verify(&keys.s_nwk_s_int, conf_fcnt, FCntDown::new(fcnt)));
        let plain = if version_1_1 { read.open_fopts(&keys.nwk_s_enc, FCntDown::new(fcnt)) } else { read.fopts.to_vec() };
        prop_assert_eq!(plain, fopts);
    }
}

fn keys_10() -> NetworkKeys {
    NetworkKeys::from_nwk_s_key(&Key::new([0x44; 16]))
}

fn keys_11() -> NetworkKeys {
    NetworkKeys {
        f_nwk_s_int: FNwkSIntKey::new([0x51; 16]),
        s_nwk_s_int: SNwkSIntKey::new([0x52; 16]),
        nwk_s_enc: NwkSEncKey::new([0x53; 16]),
    }
}

fn uplink(fcnt: u32, fopts: &[u8], f_port: Option<u8>, frm_payload: &[u8]) -> UplinkFrame {
    UplinkFrame {
        confirmed: false,
        dev_addr: DEV_ADDR,
        adr: false,
        adr_ack_req: false,
        ack: false,
        class_b: false,
        fcnt: FCntUp::new(fcnt),
        fopts: fopts.to_vec(),
        f_port,
        frm_payload: frm_payload.to_vec(),
    }
}

fn uplink_10(fcnt: u32, fopts: &[u8], f_port: Option<u8>, frm_payload: &[u8]) -> Vec<u8> {
    uplink(fcnt, fopts, f_port, frm_payload).seal(&keys_10(), None).unwrap()
}

fn downlink(fcnt: u32, fopts: &[u8], f_port: Option<u8>, frm_payload: &[u8]) -> DownlinkFrame {
    DownlinkFrame {
        confirmed: false,
        dev_addr: DEV_ADDR,
        adr: false,
        ack: false,
        f_pending: false,
        fcnt: FCntDown::new(fcnt),
        fopts: fopts.to_vec(),
        f_port,
        frm_payload: frm_payload.to_vec(),
    }
}

fn accept(cf_list: Option<[u8; 16]>) -> JoinAccept {
    JoinAccept {
        join_nonce: JoinNonce::new(42),
        net_id: NetId::new(0x13),
        dev_addr: DevAddr::new(0x2600_0001),
        dl_settings: DlSettings { opt_neg: false, rx1_dr_offset: 1, rx2_dr: 3 },
        rx_delay_s: 5,
        cf_list,
    }
}

fn data_up(phy: &[u8]) -> DataUp<'_> {
    match parse_uplink(phy) {
        Ok(Frame::DataUp(frame)) => frame,
        other => panic!("{other:?}"),
    }
}

fn decoded(phy: &[u8], keys: &DecodeKeys) -> mac::phy::DataFrame {
    let Ok(AnyFrame::Data(frame)) = parse_any(phy, keys) else { panic!("no data frame") };
    frame
}
