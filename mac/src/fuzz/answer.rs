//! What the answer to an uplink must keep to.

use crate::command::{DownlinkCommand, DownlinkCommands};
use crate::downlink::{AppPayload, BuiltDownlink, DownlinkPlan, TxWindow, build};
use crate::ids::FCntDown;
use crate::keys::NetworkKeys;
use crate::phy::{DownFrame, parse_downlink};
use crate::region::DataRate;
use crate::session::Profile;

/// The frame of a plan, without and with a payload, as the device reads it. Returns the one that is sent: the counter allows only one.
pub(super) fn built(
    keys: &NetworkKeys,
    plan: &DownlinkPlan,
    (n_fcnt_down, a_fcnt_down): (u32, u32),
) -> Option<BuiltDownlink> {
    let reserved = plan.n_fcnt_down.map_or(n_fcnt_down, FCntDown::value);
    assert_eq!(reserved, n_fcnt_down, "the counter was the session's next");
    let alone = build(plan, keys, None, false).expect("a plan without payload makes a frame");
    assert_eq!(alone.is_some(), plan.must_send);
    let with_payload = plan.ask_payload.map(|room| {
        let len = room.rx1.into_iter().chain(room.rx2).max().unwrap_or(0);
        let next = if plan.version_1_1 { a_fcnt_down } else { n_fcnt_down };
        assert_eq!(room.fcnt_down.value(), next);
        let app = AppPayload { f_port: 7, frm_payload: vec![0x55; usize::from(len)], confirmed: true };
        let built = build(plan, keys, Some(app), true).expect("what was asked for fits");
        let built = built.expect("a payload makes a frame");
        assert!(built.fits_rx1 == (room.rx1 == Some(len)) || built.fits_rx2);
        built
    });
    alone.iter().chain(&with_payload).for_each(|built| is_read_as_planned(keys, plan, built));
    with_payload.or(alone)
}

fn is_read_as_planned(keys: &NetworkKeys, plan: &DownlinkPlan, built: &BuiltDownlink) {
    let Some(DownFrame::Data(frame)) = parse_downlink(&built.phy) else { panic!("no frame was built") };
    let conf_fcnt = if plan.version_1_1 && plan.ack { plan.answering.wire().value() } else { 0 };
    assert!(frame.verify(&keys.s_nwk_s_int, conf_fcnt, built.fcnt_down), "the device refuses the answer");
    let fopts = if plan.version_1_1 {
        frame.open_fopts(&keys.nwk_s_enc, built.fcnt_down)
    } else {
        frame.fopts.to_vec()
    };
    let commands = match frame.f_port {
        Some(0) => frame.open_payload(keys.nwk_s_enc.expose(), built.fcnt_down),
        Some(1..) | None => fopts,
    };
    assert_eq!(commands, plan.commands, "the device reads other commands");
    let fits = |window: Option<TxWindow>| {
        window.is_some_and(|window| built.phy.len() <= usize::from(window.max_m) + MHDR_AND_MIC_LEN)
    };
    assert_eq!((fits(plan.rx1), fits(plan.rx2)), (built.fits_rx1, built.fits_rx2));
}

/// Each command can be read, and none asks for a channel, a data rate, a power or a window that the region does not have.
pub(super) fn asks_for_nothing_forbidden(profile: &Profile, plan: &DownlinkPlan) {
    let region = profile.region();
    let revision = profile.revision;
    let has_rate = |dr: DataRate| region.modulation_up(dr, revision).is_some();
    for command in DownlinkCommands::new(&plan.commands) {
        match command.expect("the network's own commands can be read") {
            DownlinkCommand::NewChannelReq(req) => {
                let freq = req.freq.hz(region.freq_unit_hz());
                assert!(region.supports_new_channel());
                assert!(freq.is_none_or(|freq| region.accepts_frequency(freq)), "{req:?}");
            }
            DownlinkCommand::RxParamSetupReq(req) => {
                assert!(req.rx1_dr_offset <= region.rx1_dr_offset_max(revision), "{req:?}");
                assert!(region.modulation_down(req.rx2_data_rate, revision).is_some(), "{req:?}");
            }
            DownlinkCommand::RxTimingSetupReq(req) => assert!((1..=15).contains(&req.rx1_delay_s())),
            DownlinkCommand::LinkAdrReq(req) => {
                assert!(has_rate(req.data_rate) || req.data_rate.value() == KEEP, "{req:?}");
                assert!(
                    region.tx_power_dbm(req.tx_power, revision).is_some() || req.tx_power == KEEP,
                    "{req:?}"
                );
            }
            DownlinkCommand::TxParamSetupReq(_) => assert!(region.supports_tx_param_setup(revision)),
            DownlinkCommand::AdrParamSetupReq(_)
            | DownlinkCommand::BeaconFreqReq(_)
            | DownlinkCommand::BeaconTimingAns(_)
            | DownlinkCommand::DevStatusReq
            | DownlinkCommand::DeviceModeConf(_)
            | DownlinkCommand::DeviceTimeAns(_)
            | DownlinkCommand::DlChannelReq(_)
            | DownlinkCommand::DutyCycleReq(_)
            | DownlinkCommand::ForceRejoinReq(_)
            | DownlinkCommand::LinkCheckAns(_)
            | DownlinkCommand::PingSlotChannelReq(_)
            | DownlinkCommand::PingSlotInfoAns
            | DownlinkCommand::RejoinParamSetupReq(_)
            | DownlinkCommand::RekeyConf(_)
            | DownlinkCommand::ResetConf(_) => {}
        }
    }
    for window in plan.rx1.iter().chain(&plan.rx2) {
        assert!((1..=16).contains(&window.delay_s), "{window:?}");
    }
}

/// Data rate and power 15 in LinkADRReq: as they are.
const KEEP: u8 = 15;
const MHDR_AND_MIC_LEN: usize = 5;
