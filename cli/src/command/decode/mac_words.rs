//! MAC commands as sentences.

use mac::command::{
    Battery, DeviceMode, DownlinkCommand, DownlinkCommands, UplinkCommand, UplinkCommands, WireFrequency,
};

/// A sentence for each command of a sequence, and one for what ends it early.
pub(super) fn sentences(bytes: &[u8], is_up: bool) -> Vec<String> {
    if is_up {
        UplinkCommands::new(bytes).map(|c| c.map_or_else(|error| error.to_string(), |c| uplink(&c))).collect()
    } else {
        DownlinkCommands::new(bytes)
            .map(|c| c.map_or_else(|error| error.to_string(), |c| downlink(&c)))
            .collect()
    }
}

/// A frequency in MHz. The unit is 100 Hz in every region below 1 GHz.
pub(super) fn frequency(freq: WireFrequency) -> String {
    freq.hz(100).map_or_else(|| "off".to_owned(), |freq| format!("{:.4} MHz", f64::from(freq.value()) / 1e6))
}

fn uplink(command: &UplinkCommand) -> String {
    match command {
        UplinkCommand::ResetInd(ind) => format!("ResetInd: an ABP device starts over, LoRaWAN 1.{}", ind.minor),
        UplinkCommand::LinkCheckReq => "LinkCheckReq: how well am I heard?".to_owned(),
        UplinkCommand::LinkAdrAns(ans) => {
            format!(
                "LinkADRAns: power {}, data rate {}, channel mask {}",
                ok(ans.power_ack),
                ok(ans.data_rate_ack),
                ok(ans.channel_mask_ack)
            )
        }
        UplinkCommand::DutyCycleAns => "DutyCycleAns: the limit is taken".to_owned(),
        UplinkCommand::RxParamSetupAns(ans) => format!(
            "RXParamSetupAns: RX1 offset {}, RX2 data rate {}, frequency {}",
            ok(ans.rx1_dr_offset_ack),
            ok(ans.rx2_data_rate_ack),
            ok(ans.channel_ack)
        ),
        UplinkCommand::DevStatusAns(ans) => {
            let battery = match ans.battery {
                Battery::External => "external power".to_owned(),
                Battery::Level(level) => format!("battery {} % ({level} of 254)", u32::from(level) * 100 / 254),
                Battery::Unknown => "battery not measured".to_owned(),
            };
            format!("DevStatusAns: {battery}, last downlink received with an SNR of {} dB", ans.margin_db)
        }
        UplinkCommand::NewChannelAns(ans) => {
            format!(
                "NewChannelAns: data rates {}, frequency {}",
                ok(ans.data_rate_range_ok),
                ok(ans.frequency_ok)
            )
        }
        UplinkCommand::RxTimingSetupAns => "RXTimingSetupAns: the delay is taken".to_owned(),
        UplinkCommand::TxParamSetupAns => "TXParamSetupAns: the limits are taken".to_owned(),
        UplinkCommand::DlChannelAns(ans) => {
            format!(
                "DlChannelAns: uplink channel exists {}, frequency {}",
                ok(ans.uplink_frequency_exists),
                ok(ans.frequency_ok)
            )
        }
        UplinkCommand::RekeyInd(ind) => format!("RekeyInd: I use the new session, LoRaWAN 1.{}", ind.minor),
        UplinkCommand::AdrParamSetupAns => "ADRParamSetupAns: the limits are taken".to_owned(),
        UplinkCommand::DeviceTimeReq => "DeviceTimeReq: what time is it?".to_owned(),
        UplinkCommand::RejoinParamSetupAns(ans) => {
            format!("RejoinParamSetupAns: time limit {}", ok(ans.time_ok))
        }
        UplinkCommand::PingSlotInfoReq(req) => {
            format!("PingSlotInfoReq: I listen every {} s in class B", 1_u32 << req.periodicity.min(7))
        }
        UplinkCommand::PingSlotChannelAns(ans) => {
            format!(
                "PingSlotChannelAns: data rate {}, frequency {}",
                ok(ans.data_rate_ok),
                ok(ans.frequency_ok)
            )
        }
        UplinkCommand::BeaconTimingReq => "BeaconTimingReq: when is the next beacon?".to_owned(),
        UplinkCommand::BeaconFreqAns(ans) => format!("BeaconFreqAns: frequency {}", ok(ans.frequency_ok)),
        UplinkCommand::DeviceModeInd(ind) => {
            format!("DeviceModeInd: I work in {} from here on", class(ind.class))
        }
    }
}

fn downlink(command: &DownlinkCommand) -> String {
    match command {
        DownlinkCommand::ResetConf(conf) => format!("ResetConf: the reset is known, LoRaWAN 1.{}", conf.minor),
        DownlinkCommand::LinkCheckAns(ans) => format!(
            "LinkCheckAns: heard by {} gateways, {} dB above what is needed",
            ans.gateway_count, ans.margin_db
        ),
        DownlinkCommand::LinkAdrReq(req) => format!(
            "LinkADRReq: {}, power {}, {} transmissions, channels {:016b} under control {}",
            kept(req.data_rate.value(), "data rate DR"),
            kept(req.tx_power, "index "),
            req.nb_trans,
            req.ch_mask,
            req.ch_mask_cntl
        ),
        DownlinkCommand::DutyCycleReq(req) => match req.max_duty_cycle {
            0 => "DutyCycleReq: no limit".to_owned(),
            exponent => format!("DutyCycleReq: send at most 1/{} of the time", 1_u32 << exponent.min(15)),
        },
        DownlinkCommand::RxParamSetupReq(req) => format!(
            "RXParamSetupReq: RX1 offset {}, RX2 {} on {}",
            req.rx1_dr_offset,
            req.rx2_data_rate,
            frequency(req.rx2_freq)
        ),
        DownlinkCommand::DevStatusReq => "DevStatusReq: how are battery and reception?".to_owned(),
        DownlinkCommand::NewChannelReq(req) => format!(
            "NewChannelReq: channel {} is {}, {} to {}",
            req.ch_index,
            frequency(req.freq),
            req.dr_min,
            req.dr_max
        ),
        DownlinkCommand::RxTimingSetupReq(req) => {
            format!(
                "RXTimingSetupReq: RX1 opens {} s after an uplink, RX2 {} s",
                req.rx1_delay_s(),
                req.rx2_delay_s()
            )
        }
        DownlinkCommand::TxParamSetupReq(req) => format!(
            "TXParamSetupReq: at most {} dBm EIRP, uplinks {}, downlinks {}",
            req.max_eirp_dbm(),
            dwell(req.uplink_dwell),
            dwell(req.downlink_dwell)
        ),
        DownlinkCommand::DlChannelReq(req) => {
            format!("DlChannelReq: RX1 of channel {} is on {}", req.ch_index, frequency(req.freq))
        }
        DownlinkCommand::RekeyConf(conf) => {
            format!("RekeyConf: the new session is in use, LoRaWAN 1.{}", conf.minor)
        }
        DownlinkCommand::AdrParamSetupReq(req) => format!(
            "ADRParamSetupReq: ask for an answer after {} uplinks, change the data rate after {} more",
            1_u32 << req.limit_exp.min(15),
            1_u32 << req.delay_exp.min(15)
        ),
        DownlinkCommand::DeviceTimeAns(ans) => {
            let unix_us = mac::gps::unix_from_gps_us(i64::from(ans.gps_seconds).saturating_mul(1_000_000));
            let utc = crate::output::utc_time(unix_us);
            format!(
                "DeviceTimeAns: {} (GPS second {})",
                utc.as_str().unwrap_or("a time out of range"),
                ans.gps_seconds
            )
        }
        DownlinkCommand::ForceRejoinReq(req) => format!(
            "ForceRejoinReq: send a Rejoin-Request of type {} on {}, {} repetitions",
            req.rejoin_type, req.data_rate, req.max_retries
        ),
        DownlinkCommand::RejoinParamSetupReq(req) => format!(
            "RejoinParamSetupReq: rejoin every {} s or {} uplinks at the latest",
            1_u64 << (u32::from(req.max_time_n.min(15)) + 10),
            1_u64 << (u32::from(req.max_count_n.min(15)) + 4)
        ),
        DownlinkCommand::PingSlotInfoAns => "PingSlotInfoAns: the period is known".to_owned(),
        DownlinkCommand::PingSlotChannelReq(req) => {
            format!("PingSlotChannelReq: class B slots are on {} at {}", frequency(req.freq), req.data_rate)
        }
        DownlinkCommand::BeaconTimingAns(ans) => {
            format!(
                "BeaconTimingAns: the beacon comes in {} ms on channel {}",
                u32::from(ans.delay) * 30,
                ans.channel
            )
        }
        DownlinkCommand::BeaconFreqReq(req) => format!("BeaconFreqReq: beacons are on {}", frequency(req.freq)),
        DownlinkCommand::DeviceModeConf(conf) => format!("DeviceModeConf: {} is known", class(conf.class)),
    }
}

fn ok(accepted: bool) -> &'static str {
    if accepted { "accepted" } else { "refused" }
}

fn dwell(limited: bool) -> &'static str {
    if limited { "up to 400 ms" } else { "of any length" }
}

fn class(mode: DeviceMode) -> String {
    match mode {
        DeviceMode::ClassA => "class A".to_owned(),
        DeviceMode::ClassC => "class C".to_owned(),
        DeviceMode::Reserved(number) => format!("reserved class {number}"),
    }
}

/// A four-bit setting, of which 15 means "as it is" (TS001-1.0.4 §5.2).
fn kept(value: u8, what: &str) -> String {
    if value == 15 { format!("{what}as it is") } else { format!("{what}{value}") }
}
