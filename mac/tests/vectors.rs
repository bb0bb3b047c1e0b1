//! The vectors of other LoRaWAN implementations and of the specifications, `vectors.json`.
//!
//! Each kind is checked here, checked elsewhere, or of something that is not built; a kind that is none of these fails.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::str::FromStr;

use mac::crypto::{self, Direction, FOptsCounter, Mic, UplinkMicContext11};
use mac::fcnt::guess_fcnt_up;
use mac::gps::{gps_from_unix_us, unix_from_gps_us};
use mac::ids::{DevAddr, DevEui, DevNonce, FCntDown, FCntUp, JoinEui, JoinNonce, NetId, WireFCnt};
use mac::join_frame::{AcceptMic, DlSettings, JoinAccept, JoinReqType, JoinRequest, RejoinKind, RejoinRequest};
use mac::keys::{AppKey, AppSKey, FNwkSIntKey, JsIntKey, Key, NetworkKeys, NwkKey, NwkSEncKey, SNwkSIntKey};
use mac::phy::{
    AnyFrame, DecodeKeys, DownFrame, DownlinkFrame, Frame, MicVerdict, UplinkFrame, parse_any, parse_downlink,
    parse_uplink,
};
use serde_json::Value;

/// Kinds that are not checked in this file, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    ("airtime_fsk", "vectors_region.rs"),
    ("airtime_lora", "vectors_region.rs"),
    ("airtime_lrfhss", "vectors_region.rs"),
    ("airtime_lrfhss_blocks", "vectors_region.rs"),
    ("app_command", "not built: application packages TS003 to TS009"),
    ("beacon_channel", "not built: class B"),
    ("beacon_crc", "not built: class B"),
    ("beacon_frame", "not built: class B"),
    ("cf_list", "vectors_region.rs"),
    ("cups_response", "not built: Basics Station"),
    ("frag_encode", "not built: fragmentation TS004"),
    ("frag_mic", "not built: fragmentation TS004"),
    ("kek_wrap", "the join server wraps and the app-bridge unwraps keys"),
    ("mac_command", "vectors_region.rs"),
    ("mc_ke_key", "not built: multicast TS005"),
    ("mc_key_encrypt", "not built: multicast TS005"),
    ("mc_root_key", "not built: multicast TS005"),
    ("mc_session_keys", "not built: multicast TS005"),
    ("mcgroup_setup", "not built: multicast TS005"),
    ("next_ping_slot", "not built: class B"),
    ("parity_line", "not built: fragmentation TS004"),
    ("ping_offset", "not built: class B"),
    ("relay_forward_uplink", "not built: relay TS011"),
    ("signed_int", "not built: Basics Station"),
    ("udp_header", "the network server speaks to packet forwarders"),
    ("wor_root", "not built: relay TS011"),
    ("wor_session", "not built: relay TS011"),
    ("wor_uplink", "not built: relay TS011"),
    ("xtime_split", "not built: Basics Station"),
];

/// Vectors of a kind that is built which loam does not follow, and why.
const NOT_FOLLOWED: &[(&str, &str)] =
    &[("fopts-up-literal-110", "the block as printed in TS001-1.1.0; devices and loam follow the erratum")];

/// PARSE-015, CRYPTO-001, CRYPTO-002, CRYPTO-003, CRYPTO-004, CRYPTO-006, CRYPTO-007, CRYPTO-008, CRYPTO-009, CRYPTO-010,
/// CRYPTO-011, CRYPTO-012, CRYPTO-013, CRYPTO-014, CRYPTO-015, CRYPTO-016, CRYPTO-017, CRYPTO-018, CRYPTO-019, CRYPTO-020,
/// CRYPTO-021, CRYPTO-022, FCNT-002, JOIN-008, JOIN-012, MAC-034, BACKEND-032.
#[test]
fn every_vector_holds_or_is_listed_with_a_reason() {
    let file: Value = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let mut checked = 0;
    for vector in file["vectors"].as_array().unwrap() {
        let vector = Vector(vector);
        let kind = vector.0["kind"].as_str().unwrap();
        if NOT_FOLLOWED.iter().any(|(id, _)| vector.0["id"] == *id)
            || ELSEWHERE.iter().any(|(other, _)| *other == kind)
        {
            continue;
        }
        match kind {
            "addr_prefix" => addr_prefix(&vector),
            "addr_split" => addr_split(&vector),
            "cmac_head" => cmac_head(&vector),
            "data_frame" => data_frame(&vector),
            "fcnt_full" => fcnt_full(&vector),
            "fopts_crypt" => fopts_crypt(&vector),
            "frm_crypt" => frm_crypt(&vector),
            "gps_time" => gps_time(&vector),
            "join_accept" => join_accept(&vector),
            "join_request" => join_request(&vector),
            "js_keys" => js_keys(&vector),
            "mic_data" => mic_data(&vector),
            "mic_up_11" => mic_up_11(&vector),
            "rejoin_request" => rejoin_request(&vector),
            "session_keys_10" => session_keys_10(&vector),
            "session_keys_11" => session_keys_11(&vector),
            _ => panic!("{}: kind {kind} is neither checked nor listed", vector.id()),
        }
        checked += 1;
    }
    assert!(checked >= 75, "only {checked} vectors were checked");
}

fn addr_prefix(vector: &Vector<'_>) {
    let net_id: NetId = vector.parse("net_id");
    let (prefix, bits) = net_id.dev_addr_prefix();
    vector.expect("prefix", &prefix.to_string());
    vector.expect_number("bits", u64::from(bits));
    for nwk_addr in [0, 1, 0x55aa_55aa, u32::MAX] {
        let dev_addr = DevAddr::in_net(net_id, nwk_addr);
        assert!(dev_addr.is_in_net(net_id), "{}", vector.id());
        assert_eq!(dev_addr.net_type(), Some(net_id.net_type()), "{}", vector.id());
        assert_eq!(dev_addr.nwk_id(), Some(net_id.nwk_id()), "{}", vector.id());
        let free_bits = 32 - u32::from(bits);
        assert_eq!(dev_addr.nwk_addr(), Some(nwk_addr & ((1 << free_bits) - 1)), "{}", vector.id());
    }
}

fn addr_split(vector: &Vector<'_>) {
    let dev_addr: DevAddr = vector.parse("dev_addr");
    vector.expect_number("type", u64::from(dev_addr.net_type().unwrap()));
    vector.expect_number("nwk_id", u64::from(dev_addr.nwk_id().unwrap()));
    vector.expect_number("nwk_addr", u64::from(dev_addr.nwk_addr().unwrap()));
}

fn cmac_head(vector: &Vector<'_>) {
    vector.expect("mic", &crypto::join_mic(&vector.key("key"), &vector.bytes("msg")).to_string());
}

fn data_frame(vector: &Vector<'_>) {
    let mhdr = vector.number("mhdr");
    let fctrl = vector.number("fctrl");
    let dev_addr: DevAddr = vector.parse("dev_addr");
    let fcnt = vector.number("fcnt") as u32;
    let f_port = vector.0["inputs"]["fport"].as_u64().map(|port| port as u8);
    let version_1_1 = vector.has("s_nwk_s_int_key");
    let keys = if version_1_1 {
        NetworkKeys {
            f_nwk_s_int: FNwkSIntKey::new(vector.key("f_nwk_s_int_key")),
            s_nwk_s_int: SNwkSIntKey::new(vector.key("s_nwk_s_int_key")),
            nwk_s_enc: NwkSEncKey::new(vector.key("nwk_s_enc_key")),
        }
    } else {
        NetworkKeys::from_nwk_s_key(&Key::new(vector.key("nwk_s_key")))
    };
    let app_s_key = vector.key("app_s_key");
    // Port 226 is the relay's and belongs to the network (TS011); with a key of the application it is one of the application's ports.
    let payload_key = if f_port == Some(226) { *keys.nwk_s_enc.expose() } else { app_s_key };
    let dir = vector.dir();
    let fopts = if vector.has("fopts") { vector.bytes("fopts") } else { Vec::new() };
    let plain = vector.bytes("frm_payload");
    let mut frm_payload = plain.clone();
    crypto::crypt_frm_payload(&payload_key, dir, dev_addr, fcnt, &mut frm_payload);
    let confirmed = mhdr & 0x80 != 0;
    let phy = match dir {
        Direction::Up => UplinkFrame {
            confirmed,
            dev_addr,
            adr: fctrl & 0x80 != 0,
            adr_ack_req: fctrl & 0x40 != 0,
            ack: fctrl & 0x20 != 0,
            class_b: false,
            fcnt: FCntUp::new(fcnt),
            fopts: fopts.clone(),
            f_port,
            frm_payload,
        }
        .seal(&keys, version_1_1.then(UplinkMicContext11::default)),
        Direction::Down => DownlinkFrame {
            confirmed,
            dev_addr,
            adr: fctrl & 0x80 != 0,
            ack: fctrl & 0x20 != 0,
            f_pending: fctrl & 0x10 != 0,
            fcnt: FCntDown::new(fcnt),
            fopts: fopts.clone(),
            f_port,
            frm_payload,
        }
        .seal(version_1_1, &keys, 0, f_port.is_some_and(|port| port > 0)),
    }
    .unwrap();
    vector.expect("phy_payload", &hex::encode(&phy));

    // Read back by what the server and a device use.
    match dir {
        Direction::Up => assert!(matches!(parse_uplink(&phy), Ok(Frame::DataUp(_)))),
        Direction::Down => {
            let Some(DownFrame::Data(frame)) = parse_downlink(&phy) else { panic!("{}", vector.id()) };
            assert!(frame.verify(&keys.s_nwk_s_int, 0, FCntDown::new(fcnt)));
            assert_eq!(frame.open_payload(&payload_key, FCntDown::new(fcnt)), plain);
        }
    }
    let known = DecodeKeys {
        network: Some(keys),
        app_s_key: Some(AppSKey::new(payload_key)),
        version_1_1,
        ..DecodeKeys::default()
    };
    let AnyFrame::Data(read) = parse_any(&phy, &known).unwrap() else { panic!("{}", vector.id()) };
    assert_eq!(read.verdict, MicVerdict::Matches, "{}", vector.id());
    assert_eq!(read.fcnt_full, Some(fcnt), "{}", vector.id());
    assert_eq!(read.fopts_plain, Some(fopts), "{}", vector.id());
    assert_eq!(read.frm_payload_plain, Some(plain), "{}", vector.id());
}

fn fcnt_full(vector: &Vector<'_>) {
    let state = vector.number("state") as u32;
    // "last" is the rule of loam. "next" counts from the counter expected, one further, and gives the same answers.
    let last = match vector.text("rule") {
        "last" => Some(state),
        _ => state.checked_sub(1),
    };
    let full = guess_fcnt_up(WireFCnt::new(vector.number("fcnt16") as u16), last.map(FCntUp::new));
    vector.expect_number("full", u64::from(full.unwrap().value()));
}

fn fopts_crypt(vector: &Vector<'_>) {
    assert_eq!(vector.text("variant"), "errata", "{}", vector.id());
    let counter = match vector.text("counter") {
        "AFCntDown" => FOptsCounter::Application,
        _ => FOptsCounter::Network,
    };
    let mut data = vector.bytes("data");
    let key = NwkSEncKey::new(vector.key("key"));
    let fcnt = vector.number("fcnt") as u32;
    crypto::crypt_fopts(&key, vector.dir(), counter, vector.parse("dev_addr"), fcnt, &mut data);
    vector.expect("out", &hex::encode(data));
}

fn frm_crypt(vector: &Vector<'_>) {
    let mut data = vector.bytes("data");
    let fcnt = vector.number("fcnt") as u32;
    crypto::crypt_frm_payload(&vector.key("key"), vector.dir(), vector.parse("dev_addr"), fcnt, &mut data);
    vector.expect("out", &hex::encode(data));
}

fn gps_time(vector: &Vector<'_>) {
    let unix_us = unix_s(vector.text("utc")) * 1_000_000;
    let gps_us = gps_from_unix_us(unix_us);
    assert_eq!(Some(gps_us / 1_000_000), vector.0["expected"]["gps_seconds"].as_i64(), "{}", vector.id());
    assert_eq!(unix_from_gps_us(gps_us), unix_us, "{}", vector.id());
}

fn join_accept(vector: &Vector<'_>) {
    let opt_neg = vector.number("opt_neg") == 1;
    let accept = JoinAccept {
        join_nonce: JoinNonce::new(vector.number("join_nonce") as u32),
        net_id: vector.parse("net_id"),
        dev_addr: vector.parse("dev_addr"),
        dl_settings: DlSettings {
            opt_neg,
            rx1_dr_offset: vector.number("rx1_dr_offset") as u8,
            rx2_dr: vector.number("rx2_dr") as u8,
        },
        rx_delay_s: vector.number("rx_delay") as u8,
        cf_list: vector.has("cf_list").then(|| vector.bytes("cf_list").try_into().unwrap()),
    };
    let mic_key = vector.key("mic_key");
    let js_int_key = JsIntKey::new(mic_key);
    let mic = if opt_neg {
        AcceptMic::OptNeg {
            key: &js_int_key,
            request: match vector.number("join_req_type") {
                0xff => JoinReqType::Join,
                0 => JoinReqType::Rejoin0,
                1 => JoinReqType::Rejoin1,
                _ => JoinReqType::Rejoin2,
            },
            join_eui: vector.parse("join_eui"),
            dev_nonce: DevNonce::new(vector.number("dev_nonce") as u16),
        }
    } else {
        AcceptMic::Plain(&mic_key)
    };
    let enc_key = vector.key("enc_key");
    let phy = accept.seal(&mic, &enc_key);
    vector.expect("phy_payload", &hex::encode(&phy));

    // The device's side.
    let opened = JoinAccept::open(&phy, &enc_key).unwrap();
    vector.expect("mic", &opened.mic.to_string());
    assert_eq!(opened.accept, accept, "{}", vector.id());
    assert!(opened.verify(&mic), "{}", vector.id());
    assert!(!opened.verify(&AcceptMic::Plain(&[0x5a; 16])), "{}", vector.id());
}

fn join_request(vector: &Vector<'_>) {
    let key = vector.key("key");
    let (join_eui, dev_eui): (JoinEui, DevEui) = (vector.parse("join_eui"), vector.parse("dev_eui"));
    let dev_nonce = DevNonce::new(vector.number("dev_nonce") as u16);
    let phy = JoinRequest::seal(join_eui, dev_eui, dev_nonce, &key);
    if vector.expects("phy_payload") {
        vector.expect("phy_payload", &hex::encode(&phy));
    }
    let Ok(Frame::JoinRequest(request)) = parse_uplink(&phy) else { panic!("{}", vector.id()) };
    if vector.expects("mic") {
        vector.expect("mic", &request.mic.to_string());
    }
    assert_eq!((request.join_eui, request.dev_eui, request.dev_nonce), (join_eui, dev_eui, dev_nonce));
    assert!(request.verify(&key), "{}", vector.id());
    assert!(!request.verify(&[0x5a; 16]), "{}", vector.id());
}

fn js_keys(vector: &Vector<'_>) {
    let nwk_key = NwkKey::new(vector.key("nwk_key"));
    let dev_eui = vector.parse("dev_eui");
    vector.expect("js_int_key", &hex::encode(crypto::js_int_key(&nwk_key, dev_eui).expose()));
    vector.expect("js_enc_key", &hex::encode(crypto::js_enc_key(&nwk_key, dev_eui).expose()));
}

fn mic_data(vector: &Vector<'_>) {
    let dev_addr = vector.parse("dev_addr");
    let fcnt = vector.number("fcnt") as u32;
    let msg = vector.bytes("msg");
    let mic = match vector.dir() {
        Direction::Up => {
            crypto::uplink_mic_10(&FNwkSIntKey::new(vector.key("key")), dev_addr, FCntUp::new(fcnt), &msg)
        }
        Direction::Down => {
            let conf_fcnt = if vector.has("conf_fcnt") { vector.number("conf_fcnt") as u16 } else { 0 };
            let key = SNwkSIntKey::new(vector.key("key"));
            crypto::downlink_mic(&key, conf_fcnt, dev_addr, FCntDown::new(fcnt), &msg)
        }
    };
    vector.expect("mic", &mic.to_string());
}

/// CRYPTO-002, CRYPTO-003: the MIC also changes with each of ConfFCnt, TxDr and TxCh, in its first half only.
fn mic_up_11(vector: &Vector<'_>) {
    let keys = NetworkKeys {
        f_nwk_s_int: FNwkSIntKey::new(vector.key("f_nwk_s_int_key")),
        s_nwk_s_int: SNwkSIntKey::new(vector.key("s_nwk_s_int_key")),
        nwk_s_enc: NwkSEncKey::new([0; 16]),
    };
    let context = UplinkMicContext11 {
        conf_fcnt: vector.number("conf_fcnt") as u16,
        tx_dr: vector.number("tx_dr") as u8,
        tx_ch: vector.number("tx_ch") as u8,
    };
    let dev_addr = vector.parse("dev_addr");
    let fcnt = FCntUp::new(vector.number("fcnt") as u32);
    let msg = vector.bytes("msg");
    let mic = crypto::uplink_mic_11(&keys, context, dev_addr, fcnt, &msg);
    vector.expect("mic", &mic.to_string());
    for other in [
        UplinkMicContext11 { conf_fcnt: context.conf_fcnt ^ 1, ..context },
        UplinkMicContext11 { tx_dr: context.tx_dr ^ 1, ..context },
        UplinkMicContext11 { tx_ch: context.tx_ch ^ 1, ..context },
    ] {
        let changed = crypto::uplink_mic_11(&keys, other, dev_addr, fcnt, &msg);
        assert_ne!(changed, mic, "{}", vector.id());
        assert_eq!(changed.f_half(), mic.f_half(), "{}", vector.id());
    }
}

fn rejoin_request(vector: &Vector<'_>) {
    let kind = match vector.number("type") {
        0 => RejoinKind::Type0(vector.parse("net_id")),
        1 => RejoinKind::Type1(vector.parse("join_eui")),
        _ => RejoinKind::Type2(vector.parse("net_id")),
    };
    let key = vector.key("key");
    let phy = RejoinRequest::seal(kind, vector.parse("dev_eui"), vector.number("rj_count") as u16, &key);
    let Ok(Frame::Rejoin(request)) = parse_uplink(&phy) else { panic!("{}", vector.id()) };
    vector.expect("mic", &request.mic.to_string());
    assert_eq!(request.kind, kind);
    assert_eq!(u64::from(request.rj_count), vector.number("rj_count"));
    assert!(request.verify(&key));
    assert!(!request.verify(&[0x5a; 16]));
}

fn session_keys_10(vector: &Vector<'_>) {
    let root_key = AppKey::new(vector.key("app_key"));
    let (network, app_s_key) = crypto::derive_10(
        root_key.expose(),
        JoinNonce::new(vector.number("join_nonce") as u32),
        vector.parse("net_id"),
        DevNonce::new(vector.number("dev_nonce") as u16),
    );
    vector.expect("nwk_s_key", &hex::encode(network.f_nwk_s_int.expose()));
    vector.expect("nwk_s_key", &hex::encode(network.s_nwk_s_int.expose()));
    vector.expect("nwk_s_key", &hex::encode(network.nwk_s_enc.expose()));
    vector.expect("app_s_key", &hex::encode(app_s_key.expose()));
}

fn session_keys_11(vector: &Vector<'_>) {
    let (network, app_s_key) = crypto::derive_11(
        &NwkKey::new(vector.key("nwk_key")),
        &AppKey::new(vector.key("app_key")),
        JoinNonce::new(vector.number("join_nonce") as u32),
        vector.parse("join_eui"),
        DevNonce::new(vector.number("dev_nonce") as u16),
    );
    vector.expect("f_nwk_s_int_key", &hex::encode(network.f_nwk_s_int.expose()));
    vector.expect("s_nwk_s_int_key", &hex::encode(network.s_nwk_s_int.expose()));
    vector.expect("nwk_s_enc_key", &hex::encode(network.nwk_s_enc.expose()));
    vector.expect("app_s_key", &hex::encode(app_s_key.expose()));
}

/// A kind that is listed as something else's is still in the file, so that the list cannot grow stale.
#[test]
fn every_kind_and_vector_listed_exists() {
    let file: Value = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    for (kind, _) in ELSEWHERE {
        assert!(vectors.iter().any(|vector| vector["kind"] == *kind), "{kind}");
    }
    for (id, _) in NOT_FOLLOWED {
        assert!(vectors.iter().any(|vector| vector["id"] == *id), "{id}");
    }
}

#[test]
fn a_mic_is_shown_as_it_stands_in_the_frame() {
    assert_eq!(Mic::new([0x09, 0xb9, 0x7b, 0x32]).to_string(), "09b97b32");
}

struct Vector<'a>(&'a Value);

impl Vector<'_> {
    fn id(&self) -> &str {
        self.0["id"].as_str().unwrap()
    }

    fn has(&self, name: &str) -> bool {
        !self.0["inputs"][name].is_null()
    }

    fn expects(&self, name: &str) -> bool {
        !self.0["expected"][name].is_null()
    }

    fn text(&self, name: &str) -> &str {
        self.0["inputs"][name].as_str().unwrap_or_else(|| panic!("{}: {name} is missing", self.id()))
    }

    fn number(&self, name: &str) -> u64 {
        self.0["inputs"][name].as_u64().unwrap_or_else(|| panic!("{}: {name} is missing", self.id()))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        hex::decode(self.text(name)).unwrap()
    }

    fn key(&self, name: &str) -> [u8; 16] {
        self.bytes(name).try_into().unwrap()
    }

    fn parse<T: FromStr>(&self, name: &str) -> T {
        self.text(name).parse().unwrap_or_else(|_| panic!("{}: {name} cannot be read", self.id()))
    }

    fn dir(&self) -> Direction {
        if self.number("dir") == 0 { Direction::Up } else { Direction::Down }
    }

    fn expect(&self, name: &str, got: &str) {
        assert_eq!(got, self.0["expected"][name].as_str().unwrap(), "{}: {name}", self.id());
    }

    fn expect_number(&self, name: &str, got: u64) {
        assert_eq!(Some(got), self.0["expected"][name].as_u64(), "{}: {name}", self.id());
    }
}

/// Seconds since the Unix epoch of a text like `2016-02-12T14:24:31Z`.
fn unix_s(utc: &str) -> i64 {
    let parts: Vec<i64> = utc.split(['-', 'T', ':', 'Z']).filter_map(|part| part.parse().ok()).collect();
    let [year, month, day, hour, minute, second] = parts[..] else { panic!("{utc}") };
    let leap_days = |year: i64| year / 4 - year / 100 + year / 400;
    let is_leap = leap_days(year) - leap_days(year - 1);
    let before_month = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month as usize - 1];
    let days = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
        + before_month
        + if month > 2 { is_leap } else { 0 }
        + day
        - 1;
    ((days * 24 + hour) * 60 + minute) * 60 + second
}
