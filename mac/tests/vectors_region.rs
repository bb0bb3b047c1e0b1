//! The vectors of other LoRaWAN implementations for MAC commands, channel lists and airtime, `vectors.json`.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use mac::airtime::{LoraFrame, airtime_us};
use mac::command::{
    AdrParamSetupReq, BeaconFreqReq, CommandError, DevStatusAns, DeviceMode, DeviceModeConf, DeviceModeInd,
    DeviceTimeAns, DlChannelReq, DownlinkCommand, DownlinkCommands, DutyCycleReq, ForceRejoinReq, LinkAdrAns,
    LinkAdrReq, LinkCheckAns, NewChannelReq, PingSlotChannelReq, PingSlotInfoReq, RejoinParamSetupReq,
    RekeyConf, RekeyInd, ResetConf, RxParamSetupAns, RxParamSetupReq, RxTimingSetupReq, TxParamSetupReq,
    UplinkCommand, UplinkCommands, WireFrequency,
};
use mac::command::{Battery, FOPTS_LEN_MAX};
use mac::region::{CfList, ChannelMask, CodingRate, DataRate, LrFhssCodingRate, Modulation};
use mac::units::Hz;
use proptest::prelude::*;
use serde_json::Value;

/// Vectors of these kinds that loam does not follow, and why.
const NOT_BUILT: &[(&str, &str)] = &[
    ("airtime-lrfhss-blocks-dr8-10B", "an upper bound; loam counts the bits of the last block"),
    ("mac-configurefwdlimitreq", "relay TS011"),
    ("mac-ctrluplinklistans", "relay TS011"),
    ("mac-ctrluplinklistreq", "relay TS011"),
    ("mac-enddeviceconfreq", "relay TS011"),
    ("mac-filterlistreq", "relay TS011"),
    ("mac-notifynewenddevicereq", "relay TS011"),
    ("mac-relayconfreq", "relay TS011"),
    ("mac-updateuplinklistreq", "relay TS011"),
];

/// MAC-021, MAC-024, MAC-027, MAC-031, MAC-039, MAC-040, MAC-041, REGION-023
#[test]
fn every_vector_holds_or_is_listed_with_a_reason() {
    let vectors: Value = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let mut checked = 0;
    for vector in vectors["vectors"].as_array().unwrap() {
        let id = vector["id"].as_str().unwrap();
        if NOT_BUILT.iter().any(|&(listed, _)| listed == id) {
            continue;
        }
        let (inputs, expected) = (&vector["inputs"], &vector["expected"]);
        match vector["kind"].as_str().unwrap() {
            "airtime_fsk" | "airtime_lora" | "airtime_lrfhss" | "airtime_lrfhss_blocks" => {
                assert_eq!(airtime(vector["kind"].as_str().unwrap(), inputs), expected["us"].as_u64(), "{id}");
            }
            "cf_list" => check_cf_list(id, inputs, &bytes(expected)),
            "mac_command" if inputs["uplink"] == true => check_uplink(id, inputs, &bytes(expected)),
            "mac_command" => check_downlink(id, inputs, &bytes(expected)),
            _ => continue,
        }
        checked += 1;
    }
    assert_eq!(checked, 15 + 1 + 2 + 3 + 30 - 8);
}

fn airtime(kind: &str, inputs: &Value) -> Option<u64> {
    let size = usize::try_from(inputs["size"].as_u64().unwrap()).unwrap();
    match kind {
        "airtime_fsk" => {
            let bit_rate_bps = u32::try_from(inputs["bit_rate"].as_u64().unwrap()).unwrap();
            airtime_us(Modulation::Fsk { bit_rate_bps }, CodingRate::Cr4_5, size, true)
        }
        "airtime_lrfhss" => {
            let cr = inputs["cr"].as_str().unwrap().parse::<LrFhssCodingRate>().unwrap();
            airtime_us(Modulation::LrFhss { ocw_hz: 137_000, cr }, CodingRate::Cr4_5, size, true)
        }
        "airtime_lora" => {
            let frame = LoraFrame {
                sf: inputs["sf"].as_u64().unwrap() as u8,
                bw_hz: u32::try_from(inputs["bw_hz"].as_u64().unwrap()).unwrap(),
                coding_rate: format!("4/{}", 4 + inputs["cr"].as_u64().unwrap()).parse().unwrap(),
                preamble_symbols: inputs["preamble"].as_u64().unwrap_or(8) as u16,
                explicit_header: inputs["header"].as_bool().unwrap_or(true),
                crc: inputs["crc"].as_bool().unwrap(),
                low_data_rate: inputs["ldro"].as_bool().unwrap(),
            };
            let as_lorawan = LoraFrame::lorawan(frame.sf, frame.bw_hz, frame.coding_rate, frame.crc);
            if as_lorawan == Some(frame) {
                let modulation = Modulation::Lora { sf: frame.sf, bw_hz: frame.bw_hz };
                assert_eq!(airtime_us(modulation, frame.coding_rate, size, frame.crc), frame.airtime_us(size));
            }
            frame.airtime_us(size)
        }
        other => panic!("{other} is not built"),
    }
}

fn check_cf_list(id: &str, inputs: &Value, expected: &[u8]) {
    let list = if inputs["type"] == 0 {
        let mut frequencies = [WireFrequency::DISABLED; 5];
        for (field, freq) in frequencies.iter_mut().zip(inputs["freqs"].as_array().unwrap()) {
            let freq = Hz::new(u32::try_from(freq.as_u64().unwrap()).unwrap());
            *field = WireFrequency::from_hz(freq, 100).unwrap();
        }
        CfList::Frequencies(frequencies)
    } else {
        let mut mask = ChannelMask::EMPTY;
        for (index, word) in inputs["masks"].as_array().unwrap().iter().enumerate() {
            mask.set_word(index, u16::try_from(word.as_u64().unwrap()).unwrap());
        }
        CfList::Masks(mask)
    };
    assert_eq!(list.to_bytes(), expected, "{id}");
    assert_eq!(CfList::from_bytes(expected.try_into().unwrap()), Some(list), "{id}");
}

fn check_uplink(id: &str, inputs: &Value, expected: &[u8]) {
    let fields = Fields(&inputs["fields"]);
    let command = match inputs["cid"].as_u64().unwrap() {
        0x03 => UplinkCommand::LinkAdrAns(LinkAdrAns {
            channel_mask_ack: fields.flag("ch_mask_ack"),
            data_rate_ack: fields.flag("dr_ack"),
            power_ack: fields.flag("power_ack"),
        }),
        0x05 => UplinkCommand::RxParamSetupAns(RxParamSetupAns {
            channel_ack: fields.flag("channel_ack"),
            rx2_data_rate_ack: fields.flag("rx2_dr_ack"),
            rx1_dr_offset_ack: fields.flag("rx1_dr_offset_ack"),
        }),
        0x06 => UplinkCommand::DevStatusAns(DevStatusAns {
            battery: Battery::from_byte(fields.byte("battery")),
            margin_db: i8::try_from(inputs["fields"]["margin"].as_i64().unwrap()).unwrap(),
        }),
        0x0b => UplinkCommand::RekeyInd(RekeyInd { minor: fields.byte("minor") }),
        0x10 => UplinkCommand::PingSlotInfoReq(PingSlotInfoReq { periodicity: fields.byte("periodicity") }),
        0x20 => {
            UplinkCommand::DeviceModeInd(DeviceModeInd { class: DeviceMode::from_byte(fields.byte("class")) })
        }
        other => panic!("{id}: command {other:#04x} is not built"),
    };
    let mut encoded = Vec::new();
    command.encode(&mut encoded);
    assert_eq!(encoded, expected, "{id}");
    assert_eq!(command.len(), expected.len(), "{id}");
    assert_eq!(UplinkCommands::new(expected).collect::<Vec<_>>(), [Ok(command)], "{id}");
}

fn check_downlink(id: &str, inputs: &Value, expected: &[u8]) {
    let fields = Fields(&inputs["fields"]);
    let command = match inputs["cid"].as_u64().unwrap() {
        0x02 => DownlinkCommand::LinkCheckAns(LinkCheckAns {
            margin_db: fields.byte("margin"),
            gateway_count: fields.byte("gw_cnt"),
        }),
        0x03 => DownlinkCommand::LinkAdrReq(LinkAdrReq {
            data_rate: fields.data_rate("dr"),
            tx_power: fields.byte("tx_power"),
            ch_mask: u16::try_from(fields.number("ch_mask")).unwrap(),
            ch_mask_cntl: fields.byte("ch_mask_cntl"),
            nb_trans: fields.byte("nb_trans"),
        }),
        0x04 => DownlinkCommand::DutyCycleReq(DutyCycleReq { max_duty_cycle: fields.byte("max_duty_cycle") }),
        0x05 => DownlinkCommand::RxParamSetupReq(RxParamSetupReq {
            rx1_dr_offset: fields.byte("rx1_dr_offset"),
            rx2_data_rate: fields.data_rate("rx2_dr"),
            rx2_freq: fields.freq("freq"),
        }),
        0x07 => DownlinkCommand::NewChannelReq(NewChannelReq {
            ch_index: fields.byte("ch_index"),
            freq: fields.freq("freq"),
            dr_min: fields.data_rate("min_dr"),
            dr_max: fields.data_rate("max_dr"),
        }),
        0x08 => DownlinkCommand::RxTimingSetupReq(RxTimingSetupReq { del: fields.byte("delay") }),
        0x09 => DownlinkCommand::TxParamSetupReq(TxParamSetupReq {
            downlink_dwell: fields.flag("dl_dwell"),
            uplink_dwell: fields.flag("ul_dwell"),
            max_eirp_index: fields.byte("max_eirp_index"),
        }),
        0x0a => DownlinkCommand::DlChannelReq(DlChannelReq {
            ch_index: fields.byte("ch_index"),
            freq: fields.freq("freq"),
        }),
        0x0c => DownlinkCommand::AdrParamSetupReq(AdrParamSetupReq {
            limit_exp: fields.byte("limit_exp"),
            delay_exp: fields.byte("delay_exp"),
        }),
        0x0d => DownlinkCommand::DeviceTimeAns(DeviceTimeAns {
            gps_seconds: fields.number("gps_seconds"),
            fraction_256: fields.byte("fraction_256"),
        }),
        0x0e => DownlinkCommand::ForceRejoinReq(ForceRejoinReq {
            period: fields.byte("period"),
            max_retries: fields.byte("max_retries"),
            rejoin_type: fields.byte("rejoin_type"),
            data_rate: fields.data_rate("dr"),
        }),
        0x0f => DownlinkCommand::RejoinParamSetupReq(RejoinParamSetupReq {
            max_time_n: fields.byte("max_time_n"),
            max_count_n: fields.byte("max_count_n"),
        }),
        0x11 => DownlinkCommand::PingSlotChannelReq(PingSlotChannelReq {
            freq: fields.freq("freq"),
            data_rate: fields.data_rate("dr"),
        }),
        0x13 => DownlinkCommand::BeaconFreqReq(BeaconFreqReq { freq: fields.freq("freq") }),
        other => panic!("{id}: command {other:#04x} is not built"),
    };
    let mut encoded = Vec::new();
    command.encode(&mut encoded);
    assert_eq!(encoded, expected, "{id}");
    assert_eq!(command.len(), expected.len(), "{id}");
    assert_eq!(DownlinkCommands::new(expected).collect::<Vec<_>>(), [Ok(command)], "{id}");
}

/// MAC-005: lengths with the identifier, from the table of TS001-1.1 §5.
#[test]
fn every_command_has_the_length_of_the_table() {
    let up = [
        (0x01, 2),
        (0x02, 1),
        (0x03, 2),
        (0x04, 1),
        (0x05, 2),
        (0x06, 3),
        (0x07, 2),
        (0x08, 1),
        (0x09, 1),
        (0x0a, 2),
        (0x0b, 2),
        (0x0c, 1),
        (0x0d, 1),
        (0x0f, 2),
        (0x10, 2),
        (0x11, 2),
        (0x12, 1),
        (0x13, 2),
        (0x20, 2),
    ];
    let down = [
        (0x01, 2),
        (0x02, 3),
        (0x03, 5),
        (0x04, 2),
        (0x05, 5),
        (0x06, 1),
        (0x07, 6),
        (0x08, 2),
        (0x09, 2),
        (0x0a, 5),
        (0x0b, 2),
        (0x0c, 2),
        (0x0d, 6),
        (0x0e, 3),
        (0x0f, 2),
        (0x10, 1),
        (0x11, 5),
        (0x12, 4),
        (0x13, 4),
        (0x20, 2),
    ];
    for cid in 0..=255u8 {
        let mut sequence = [0; 1 + FOPTS_LEN_MAX];
        sequence[0] = cid;
        let first_up = UplinkCommands::new(&sequence).next().unwrap();
        let first_down = DownlinkCommands::new(&sequence).next().unwrap();

        let expected = up.iter().find(|&&(known, _)| known == cid).map(|&(_, len)| len);
        assert_eq!(first_up.ok().map(|command| command.len()), expected, "{cid:#04x} up");
        let expected = down.iter().find(|&&(known, _)| known == cid).map(|&(_, len)| len);
        assert_eq!(first_down.ok().map(|command| command.len()), expected, "{cid:#04x} down");

        // The answer of the device is the command it sends under the same identifier.
        if let Ok(request) = first_down
            && request.answer_len() != 0
        {
            assert_eq!(UplinkCommands::new(&sequence).next().unwrap().unwrap().len(), request.answer_len());
        }
    }
}

/// MAC-007
#[test]
fn an_unknown_command_ends_the_reading_and_those_before_it_count() {
    let sequence = [0x03, 0x07, 0x7f, 0x06, 0xff, 0x00];

    let read: Vec<_> = UplinkCommands::new(&sequence).collect();

    let accepted = LinkAdrAns { channel_mask_ack: true, data_rate_ack: true, power_ack: true };
    assert!(accepted.accepted());
    assert_eq!(read, [Ok(UplinkCommand::LinkAdrAns(accepted)), Err(CommandError::Unknown { cid: 0x7f })]);
}

/// MAC-007
#[test]
fn a_command_that_is_cut_off_ends_the_reading_and_those_before_it_count() {
    let read: Vec<_> = UplinkCommands::new(&[0x02, 0x06, 0xff]).collect();

    assert_eq!(read, [Ok(UplinkCommand::LinkCheckReq), Err(CommandError::Truncated { cid: 0x06 })]);
    assert_eq!(CommandError::Truncated { cid: 0x06 }.to_string(), "MAC command 0x06 is cut off");
}

/// PARSE-017
#[test]
fn reserved_bits_of_an_answer_change_nothing() {
    // CID and the bits that mean something.
    for (cid, meaning) in
        [(0x03, 0x07), (0x05, 0x07), (0x07, 0x03), (0x0a, 0x03), (0x0f, 0x01), (0x11, 0x03), (0x13, 0x01)]
    {
        for status in 0..=255u8 {
            let read = |status| UplinkCommands::new(&[cid, status]).next().unwrap().unwrap();
            assert_eq!(read(status), read(status & meaning), "{cid:#04x} {status:#04x}");
            let mut encoded = Vec::new();
            read(status).encode(&mut encoded);
            assert_eq!(encoded, [cid, status & meaning]);
        }
    }
}

/// PARSE-018: whatever stands in its fields, a command that is sent has zero where the specification has reserved bits.
#[test]
fn reserved_bits_of_a_request_are_sent_as_zero() {
    let (high, freq) = (DataRate::new(0xff), WireFrequency::from_raw(u32::MAX));
    let mode = DeviceMode::from_byte(1);
    // The command, and by byte behind its identifier the bits that mean something (TS001-1.1 §5, §14, §18).
    let commands: Vec<(DownlinkCommand, Vec<u8>)> = vec![
        (DownlinkCommand::ResetConf(ResetConf { minor: 0xff }), vec![0x0f]),
        (DownlinkCommand::LinkCheckAns(LinkCheckAns { margin_db: 0xff, gateway_count: 0xff }), vec![0xff; 2]),
        (
            DownlinkCommand::LinkAdrReq(LinkAdrReq {
                data_rate: high,
                tx_power: 0xff,
                ch_mask: 0xffff,
                ch_mask_cntl: 0xff,
                nb_trans: 0xff,
            }),
            vec![0xff, 0xff, 0xff, 0x7f],
        ),
        (DownlinkCommand::DutyCycleReq(DutyCycleReq { max_duty_cycle: 0xff }), vec![0x0f]),
        (
            DownlinkCommand::RxParamSetupReq(RxParamSetupReq {
                rx1_dr_offset: 0xff,
                rx2_data_rate: high,
                rx2_freq: freq,
            }),
            vec![0x7f, 0xff, 0xff, 0xff],
        ),
        (
            DownlinkCommand::NewChannelReq(NewChannelReq { ch_index: 0xff, freq, dr_min: high, dr_max: high }),
            vec![0xff; 5],
        ),
        (DownlinkCommand::RxTimingSetupReq(RxTimingSetupReq { del: 0xff }), vec![0x0f]),
        (
            DownlinkCommand::TxParamSetupReq(TxParamSetupReq {
                downlink_dwell: true,
                uplink_dwell: true,
                max_eirp_index: 0xff,
            }),
            vec![0x3f],
        ),
        (DownlinkCommand::DlChannelReq(DlChannelReq { ch_index: 0xff, freq }), vec![0xff; 4]),
        (DownlinkCommand::RekeyConf(RekeyConf { minor: 0xff }), vec![0x0f]),
        (DownlinkCommand::AdrParamSetupReq(AdrParamSetupReq { limit_exp: 0xff, delay_exp: 0xff }), vec![0xff]),
        (
            DownlinkCommand::DeviceTimeAns(DeviceTimeAns { gps_seconds: u32::MAX, fraction_256: 0xff }),
            vec![0xff; 5],
        ),
        (
            DownlinkCommand::ForceRejoinReq(ForceRejoinReq {
                period: 0xff,
                max_retries: 0xff,
                rejoin_type: 0xff,
                data_rate: high,
            }),
            vec![0x7f, 0x3f],
        ),
        (
            DownlinkCommand::RejoinParamSetupReq(RejoinParamSetupReq { max_time_n: 0xff, max_count_n: 0xff }),
            vec![0xff],
        ),
        (
            DownlinkCommand::PingSlotChannelReq(PingSlotChannelReq { freq, data_rate: high }),
            vec![0xff, 0xff, 0xff, 0x0f],
        ),
        (DownlinkCommand::BeaconFreqReq(BeaconFreqReq { freq }), vec![0xff; 3]),
        (DownlinkCommand::DeviceModeConf(DeviceModeConf { class: mode }), vec![0xff]),
    ];
    for (command, meaning) in commands {
        let mut encoded = Vec::new();
        command.encode(&mut encoded);
        assert_eq!(encoded.len(), 1 + meaning.len(), "{command:?}");
        for (byte, meaning) in encoded.iter().skip(1).zip(meaning) {
            assert_eq!(byte & !meaning, 0, "{command:?}: {encoded:02x?}");
        }
    }
}

/// MAC-021
#[test]
fn a_duty_cycle_is_told_in_four_bits_and_answered_without_payload() {
    for max_duty_cycle in 0..16 {
        let mut encoded = Vec::new();
        DownlinkCommand::DutyCycleReq(DutyCycleReq { max_duty_cycle }).encode(&mut encoded);
        assert_eq!(encoded, [0x04, max_duty_cycle]);
    }
    let read: Vec<_> = UplinkCommands::new(&[0x04, 0x02]).collect();
    assert_eq!(read, [Ok(UplinkCommand::DutyCycleAns), Ok(UplinkCommand::LinkCheckReq)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_096, failure_persistence: None, ..ProptestConfig::default() })]

    /// MAC-007
    #[test]
    fn any_bytes_are_read_to_an_end_and_what_was_read_is_written_as_long(bytes: Vec<u8>) {
        let mut up = UplinkCommands::new(&bytes);
        let (mut len, mut failed) = (0, false);
        for command in up.by_ref() {
            prop_assert!(!failed);
            match command {
                Ok(command) => len += command.len(),
                Err(_) => failed = true,
            }
        }
        prop_assert!(up.next().is_none());
        prop_assert_eq!(failed, len < bytes.len());
        prop_assert!(len <= bytes.len());

        for command in DownlinkCommands::new(&bytes).flatten() {
            let mut encoded = Vec::new();
            command.encode(&mut encoded);
            prop_assert_eq!(DownlinkCommands::new(&encoded).collect::<Vec<_>>(), [Ok(command)]);
        }
    }
}

struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn number(&self, name: &str) -> u32 {
        u32::try_from(self.0[name].as_u64().unwrap_or_else(|| panic!("no field {name}"))).unwrap()
    }

    fn byte(&self, name: &str) -> u8 {
        u8::try_from(self.number(name)).unwrap()
    }

    fn flag(&self, name: &str) -> bool {
        self.number(name) == 1
    }

    fn data_rate(&self, name: &str) -> DataRate {
        DataRate::new(self.byte(name))
    }

    // The vectors use the 2.4 GHz unit of 200 Hz, and frequencies nobody may send.
    fn freq(&self, name: &str) -> WireFrequency {
        let freq_hz = self.number(name);
        WireFrequency::from_raw(freq_hz / if freq_hz > 1_677_721_500 { 200 } else { 100 })
    }
}

fn bytes(expected: &Value) -> Vec<u8> {
    hex::decode(expected["bytes"].as_str().unwrap()).unwrap()
}
