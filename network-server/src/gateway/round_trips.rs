//! The JSON of the protocol there and back: what a forwarder prints is read as it meant it, what is printed for it can be read.
#![allow(clippy::unwrap_used)]

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use mac::ids::GatewayEui;
use mac::region::{CodingRate, LrFhssCodingRate, Modulation};
use mac::units::{Hz, Mono, Timestamp};
use proptest::prelude::*;
use semtech_udp::pull_resp;
use serde_json::{Value, json};

use super::rxpk::{self, Arrival};
use super::{GatewayUplink, Polarization, TxRequest, TxTime, txpk};

fn modulations() -> impl Strategy<Value = Modulation> {
    let lora = (5_u8..=12, prop::sample::select(vec![125_000_u32, 250_000, 500_000]))
        .prop_map(|(sf, bw_hz)| Modulation::Lora { sf, bw_hz });
    let fsk = (500_u32..=500_000).prop_map(|bit_rate_bps| Modulation::Fsk { bit_rate_bps });
    let lr_fhss = prop::sample::select(vec![LrFhssCodingRate::OneThird, LrFhssCodingRate::TwoThirds])
        .prop_map(|cr| Modulation::LrFhss { ocw_hz: 137_000, cr });
    prop_oneof![4 => lora, 1 => fsk, 1 => lr_fhss]
}

/// From 1 MHz to what fits 32 bits, in hertz.
fn frequencies() -> impl Strategy<Value = Hz> {
    (1_000_000_u32..=u32::MAX).prop_map(Hz::new)
}

fn uplinks() -> impl Strategy<Value = GatewayUplink> {
    let radio = (modulations(), frequencies(), -2_000_i32..=500, prop::option::of(-500_i32..=500));
    let gateway = (any::<u32>(), any::<u8>(), any::<Option<u16>>(), any::<u16>());
    let times = (prop::option::of(1_u64..6_000_000_000_000), prop::option::of(0_u32..1_000_000_000));
    let phy = prop::collection::vec(any::<u8>(), 0..=255);
    let coding =
        prop::sample::select(vec![CodingRate::Cr4_5, CodingRate::Cr4_6, CodingRate::Cr4_7, CodingRate::Cr4_8]);
    (radio, gateway, times, phy, coding).prop_map(
        |(
            (modulation, freq, rssi, snr),
            (tmst_us, antenna, board, channel),
            (gps_time_ms, fine_time_ns),
            phy,
            coding,
        )| {
            let lora = matches!(modulation, Modulation::Lora { .. });
            GatewayUplink {
                gateway: GatewayEui::new(7),
                phy: phy.into(),
                freq,
                modulation,
                coding_rate: lora.then_some(coding),
                rssi_dbm: tenths(rssi),
                snr_db: snr.map(tenths),
                tmst_us,
                antenna,
                board,
                channel,
                gateway_time: None,
                gps_time_ms,
                fine_time_ns,
                received: Mono::from_us(1),
                received_at: Timestamp::from_us(2),
            }
        },
    )
}

fn requests() -> impl Strategy<Value = TxRequest> {
    let lora = (5_u8..=12, prop::sample::select(vec![125_000_u32, 250_000, 500_000]))
        .prop_map(|(sf, bw_hz)| Modulation::Lora { sf, bw_hz });
    let when = prop_oneof![
        4 => any::<u32>().prop_map(TxTime::Tmst),
        1 => Just(TxTime::Immediately),
        1 => (1_u64..6_000_000_000_000).prop_map(TxTime::Gps),
    ];
    let board = (any::<u8>(), any::<Option<u16>>(), any::<bool>());
    (lora, when, frequencies(), board, prop::collection::vec(any::<u8>(), 0..=255)).prop_map(
        |(modulation, when, freq, (antenna, board, inverted), phy)| TxRequest {
            gateway: GatewayEui::new(7),
            when,
            freq,
            modulation,
            eirp_dbm: 14.0,
            antenna,
            board,
            polarization: if inverted { Polarization::Inverted } else { Polarization::Plain },
            phy,
        },
    )
}

/// Tenths of a decibel as forwarders print them.
fn tenths(value: i32) -> f32 {
    format!("{}", f64::from(value) / 10.0).parse().unwrap()
}

/// As the reference packet forwarder prints a frame.
fn printed(uplink: &GatewayUplink, padded: bool) -> Value {
    let engine = if padded { STANDARD } else { STANDARD_NO_PAD };
    let (mhz, hz) = (uplink.freq.value() / 1_000_000, uplink.freq.value() % 1_000_000);
    let freq: f64 = format!("{mhz}.{hz:06}").parse().unwrap();
    let mut rxpk = json!({
        "tmst": uplink.tmst_us, "chan": uplink.channel, "rfch": 0, "freq": freq, "stat": 1, "ant": uplink.antenna,
        "rssi": uplink.rssi_dbm, "size": uplink.phy.len(), "data": engine.encode(&uplink.phy),
    });
    let fields = rxpk.as_object_mut().unwrap();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    match uplink.modulation {
        Modulation::Lora { sf, bw_hz } => {
            put("modu", json!("LORA"));
            put("datr", json!(format!("SF{sf}BW{}", bw_hz / 1_000)));
            put("codr", json!(uplink.coding_rate.unwrap().to_string()));
        }
        Modulation::Fsk { bit_rate_bps } => {
            put("modu", json!("FSK"));
            put("datr", json!(bit_rate_bps));
        }
        Modulation::LrFhss { ocw_hz, cr } => {
            put("modu", json!("LR-FHSS"));
            put("datr", json!(format!("M0CW{}", ocw_hz / 1_000)));
            put("codr", json!(cr.to_string()));
        }
    }
    if let Some(snr_db) = uplink.snr_db {
        put("lsnr", json!(snr_db));
    }
    if let Some(board) = uplink.board {
        put("brd", json!(board));
    }
    if let Some(ms) = uplink.gps_time_ms {
        put("tmms", json!(ms));
    }
    if let Some(ns) = uplink.fine_time_ns {
        put("ftime", json!(ns));
    }
    rxpk
}

proptest! {
    /// UDP-005.
    #[test]
    fn a_frame_is_read_as_the_forwarder_printed_it(uplink in uplinks(), padded in any::<bool>()) {
        let arrival = Arrival { gateway: uplink.gateway, received: uplink.received, received_at: uplink.received_at };
        let read = rxpk::parse(&printed(&uplink, padded).to_string(), arrival).unwrap();
        prop_assert_eq!(read, uplink);
    }

    /// TIMING: a counter that a forwarder prints wider than 32 bits, or negative, is the same moment modulo 2^32.
    #[test]
    fn a_counter_is_read_modulo_two_to_the_thirty_two(uplink in uplinks(), wide in -(1_i64 << 52)..1_i64 << 52) {
        let arrival = Arrival { gateway: uplink.gateway, received: uplink.received, received_at: uplink.received_at };
        let mut rxpk = printed(&uplink, true);
        rxpk["tmst"] = json!(wide);
        let read = rxpk::parse(&rxpk.to_string(), arrival).unwrap();
        prop_assert_eq!(i64::from(read.tmst_us), wide.rem_euclid(1 << 32));
    }

    /// UDP: another program reads what is written for a forwarder.
    #[test]
    fn a_request_is_read_as_it_was_written(request in requests(), power_dbm in 0_i32..=36) {
        let mut json = Vec::new();
        txpk::encode(&request, power_dbm, &mut json).unwrap();
        let txpk = &serde_json::from_slice::<Value>(&json).unwrap()["txpk"];
        prop_assert_eq!(STANDARD.decode(txpk["data"].as_str().unwrap()).unwrap(), request.phy.clone());
        prop_assert_eq!(&txpk["size"], &json!(request.phy.len()));
        prop_assert_eq!((txpk["freq"].as_f64().unwrap() * 1e6).round(), f64::from(request.freq.value()));
        let (imme, tmst, tmms) = match request.when {
            TxTime::Immediately => (true, Value::Null, Value::Null),
            TxTime::Tmst(tmst) => (false, json!(tmst), Value::Null),
            TxTime::Gps(tmms) => (false, Value::Null, json!(tmms)),
        };
        prop_assert_eq!((&txpk["imme"], &txpk["tmst"], &txpk["tmms"]), (&json!(imme), &tmst, &tmms));
        prop_assert_eq!((&txpk["powe"], &txpk["ant"]), (&json!(power_dbm), &json!(request.antenna)));
        prop_assert_eq!(&txpk["ipol"], &json!(request.polarization == Polarization::Inverted));

        if let TxTime::Tmst(tmst) = request.when {
            let read: pull_resp::Data = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(read.txpk.get_tmst(), Some(tmst));
            prop_assert_eq!(read.txpk.data.data(), request.phy.as_slice());
        }
    }
}
