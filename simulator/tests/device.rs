//! The virtual device, held against the building blocks of `mac`: what it makes can be read, and what it is told it does.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use mac::crypto::{
    Direction, UplinkMicContext11, crypt_fopts, crypt_frm_payload, derive_10, derive_11, js_int_key,
};
use mac::crypto::{FOptsCounter, uplink_mic_10, uplink_mic_11};
use mac::ids::{DevAddr, DevEui, DevNonce, FCntDown, FCntUp, JoinEui, JoinNonce, NetId};
use mac::join_frame::{AcceptMic, DlSettings, JoinAccept, JoinReqType, JoinRequest};
use mac::keys::{AppKey, AppSKey, NetworkKeys, NwkKey};
use mac::phy::{DataUp, DownlinkFrame, Frame, parse_uplink};
use mac::region::{Channel, ChannelMask, DataRate, RegionId, region};
use mac::units::Hz;
use mac::version::RegionalRevision;
use simulator::device::{Ignored, RootKeys, Uplink, VirtualDevice};

#[test]
fn a_1_0_3_device_joins_and_sends_on_the_channels_of_the_cf_list() {
    let mut device = device(RegionId::Eu868, None);
    let extra_hz = [867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000];

    let network = Network::join_10(&mut device, cf_list_of(&extra_hz), DL_SETTINGS);
    let uplinks: Vec<Uplink> = (0..8).map(|pick| device.uplink(pick, Some((2, b"21.5")), false)).collect();

    assert_eq!(device.dev_addr(), Some(DEV_ADDR));
    let sent_on: BTreeSet<u32> = uplinks.iter().map(|uplink| uplink.freq_hz).collect();
    let expected = [868_100_000, 868_300_000, 868_500_000].into_iter().chain(extra_hz).collect();
    assert_eq!(sent_on, expected);
    for (fcnt, uplink) in (0..).zip(&uplinks) {
        assert_eq!(network.open_10(uplink, fcnt), (2, b"21.5".to_vec()));
        // Delay and data rate as the Join-Accept told.
        let windows: Vec<_> = uplink.windows().map(|w| (w.number, w.delay_us, w.data_rate.as_str())).collect();
        assert_eq!(windows, [(1, 3_000_000, "SF8BW125"), (2, 4_000_000, "SF9BW125")]);
    }
}

#[test]
fn a_join_accept_for_somebody_else_or_with_an_old_nonce_changes_nothing() {
    let mut device = device(RegionId::Eu868, None);
    let request = device.join_request(0);
    let accept = accept(JoinNonce::new(9), None, DL_SETTINGS);
    let foreign = accept.seal(&AcceptMic::Plain(&[7; 16]), &[7; 16]);
    assert_eq!(device.take_join_accept(&foreign), Err(Ignored::BadMic));
    assert_eq!(device.dev_addr(), None);
    let genuine = accept.seal(&AcceptMic::Plain(&APP_KEY), &APP_KEY);
    device.take_join_accept(&genuine).unwrap();

    // Heard again while nobody waits, and given as the answer to the next request.
    assert_eq!(device.take_join_accept(&genuine), Err(Ignored::Unexpected));
    let again = device.join_request(0);
    assert_eq!(device.take_join_accept(&genuine), Err(Ignored::JoinNonceReused { got: 9, last: 9 }));

    let nonces =
        [&request, &again].map(|uplink| JoinRequest::parse(&uplink.phy_payload).unwrap().dev_nonce.value());
    assert_eq!(nonces, [1, 2]);
    assert_eq!(device.dev_addr(), Some(DEV_ADDR));
}

#[test]
fn a_1_1_device_joins_confirms_its_keys_and_counts_downlinks_apart() {
    let mut device = device(RegionId::Eu868, Some(NWK_KEY));
    let settings = DlSettings { opt_neg: true, ..DL_SETTINGS };
    let network = Network::join_11(&mut device, settings);

    // RekeyInd comes with every uplink until it is answered.
    let first = device.uplink(0, Some((2, b"wet")), false);
    let second = device.uplink(1, Some((2, b"dry")), true);
    assert_eq!(network.open_11(&first, 0, 0, 0), vec![0x0b, 1]);
    assert_eq!(network.open_11(&second, 1, 1, 0), vec![0x0b, 1]);

    // Network and application have a counter each, both start at 0.
    let rekey_conf = network.downlink(0, vec![0x0b, 1], None, true, 1);
    let payload = network.downlink(0, vec![], Some((5, b"open")), false, 0);
    let heard = device.take_downlink(&rekey_conf).unwrap();
    assert!(heard.ack && heard.commands == [0x0b, 1] && heard.payload.is_none());
    let heard = device.take_downlink(&payload).unwrap();
    assert_eq!(heard.payload, Some((5, b"open".to_vec())));
    assert_eq!(device.take_downlink(&payload), Err(Ignored::CounterReused { got: 0, last: 0 }));

    let third = device.uplink(2, Some((2, b"wet")), false);
    assert_eq!(network.open_11(&third, 2, 2, 0), Vec::<u8>::new());
}

#[test]
fn a_1_1_device_puts_the_counter_it_acknowledges_into_the_mic() {
    let mut device = device(RegionId::Eu868, Some(NWK_KEY));
    let network = Network::join_11(&mut device, DlSettings { opt_neg: true, ..DL_SETTINGS });
    device.uplink(0, None, false);
    let confirmed = network.seal(DownlinkFrame { confirmed: true, ..network.frame(7, Some((5, b"open"))) }, 0);

    device.take_downlink(&confirmed).unwrap();
    let uplink = device.uplink(0, Some((2, b"ok")), false);

    let Frame::DataUp(frame) = parse_uplink(&uplink.phy_payload).unwrap() else { panic!("not data") };
    assert!(frame.ack);
    network.open_11(&uplink, 1, 0, 7);
}

#[test]
fn a_downlink_counter_that_does_not_rise_is_noticed() {
    let mut device = device(RegionId::Eu868, None);
    let network = Network::join_10(&mut device, None, DL_SETTINGS);
    let downlink = |fcnt| network.downlink(fcnt, vec![], Some((5, b"shut")), false, 0);
    device.take_downlink(&downlink(4)).unwrap();

    assert_eq!(device.take_downlink(&downlink(4)), Err(Ignored::CounterReused { got: 4, last: 4 }));
    assert_eq!(device.take_downlink(&downlink(3)), Err(Ignored::CounterReused { got: 3, last: 4 }));

    // Numbers may be left out, and the low half may roll over.
    assert_eq!(device.take_downlink(&downlink(0xffff)).unwrap().fcnt, 0xffff);
    assert_eq!(device.take_downlink(&downlink(0x1_0002)).unwrap().fcnt, 0x1_0002);
    let mut forged = downlink(0x1_0003);
    forged[9] ^= 1;
    assert_eq!(device.take_downlink(&forged), Err(Ignored::BadMic));
}

#[test]
fn a_us915_device_sends_on_the_sub_band_of_a_type_1_cf_list_only() {
    let mut device = device(RegionId::Us915, None);
    let plan = region(RegionId::Us915);
    let second_band = plan.sub_band_mask(0b10);
    let cf_list = plan.cf_list(&[], second_band, RegionalRevision::Rp001_1_0_3A);
    assert_eq!(cf_list.unwrap()[15], 1);
    assert_eq!(first_band_hz(device.join_request(3).freq_hz), Some(3));
    Network::join_10(&mut device, cf_list, DlSettings { rx2_dr: 8, ..DlSettings::default() });

    let narrow: BTreeSet<u32> = (0..64).map(|pick| device.uplink(pick, None, false).freq_hz).collect();
    device.data_rate = DataRate::new(4);
    let wide: BTreeSet<u32> = (0..64).map(|pick| device.uplink(pick, None, false).freq_hz).collect();

    assert_eq!(narrow, (0..8).map(|n| 903_900_000 + n * 200_000).collect());
    assert_eq!(wide, [904_600_000].into());
    device.data_rate = DataRate::new(3);
    let uplink = device.uplink(0, None, false);
    let windows: Vec<_> = uplink.windows().map(|w| (w.freq_hz, w.data_rate.as_str())).collect();
    // Channel 8 answers on downlink channel 0: 10 data rates faster, 500 kHz wide.
    assert_eq!(windows, [(923_300_000, "SF7BW500"), (923_300_000, "SF12BW500")]);
}

#[test]
fn a_link_adr_block_is_done_whole_or_not_at_all() {
    let mut device = device(RegionId::Eu868, None);
    let network = Network::join_10(&mut device, None, DL_SETTINGS);
    let answers = |device: &mut VirtualDevice| {
        let uplink = device.uplink(0, None, false);
        let Frame::DataUp(frame) = parse_uplink(&uplink.phy_payload).unwrap() else { panic!("not data") };
        frame.fopts.to_vec()
    };

    // Channel 3 is not defined.
    device.take_downlink(&network.downlink(0, link_adr(3, 0b1001), None, false, 0)).unwrap();
    assert_eq!(answers(&mut device), [0x03, 0b110]);
    // No channel is left that carries DR6 (SF7 at 250 kHz).
    device.take_downlink(&network.downlink(1, link_adr(6, 0b001), None, false, 0)).unwrap();
    assert_eq!(answers(&mut device), [0x03, 0b101]);
    assert_eq!((device.data_rate, device.nb_trans), (DataRate::new(5), 1));

    // Two requests, one decision, two answers in 1.0.x.
    let block = [link_adr(4, 0b111), link_adr(3, 0b100)].concat();
    device.take_downlink(&network.downlink(2, block, None, false, 0)).unwrap();
    assert_eq!(answers(&mut device), [0x03, 0b111, 0x03, 0b111]);
    assert_eq!((device.data_rate, device.nb_trans), (DataRate::new(3), 2));
    let sent_on: BTreeSet<u32> = (0..8).map(|pick| device.uplink(pick, None, false).freq_hz).collect();
    assert_eq!(sent_on, [868_500_000].into());
}

/// The other end of the radio, made of `mac` alone.
struct Network {
    keys: NetworkKeys,
    app_s_key: AppSKey,
    is_1_1: bool,
}

impl Network {
    fn join_10(device: &mut VirtualDevice, cf_list: Option<[u8; 16]>, settings: DlSettings) -> Self {
        let request = JoinRequest::parse(&device.join_request(0).phy_payload).unwrap();
        assert!(request.verify(&APP_KEY));
        let accept = accept(JoinNonce::new(1), cf_list, settings);
        device.take_join_accept(&accept.seal(&AcceptMic::Plain(&APP_KEY), &APP_KEY)).unwrap();
        let (keys, app_s_key) = derive_10(&APP_KEY, accept.join_nonce, accept.net_id, request.dev_nonce);
        Self { keys, app_s_key, is_1_1: false }
    }

    fn join_11(device: &mut VirtualDevice, settings: DlSettings) -> Self {
        let request = JoinRequest::parse(&device.join_request(0).phy_payload).unwrap();
        assert!(request.verify(&NWK_KEY));
        let nwk_key = NwkKey::new(NWK_KEY);
        let accept = accept(JoinNonce::new(1), None, settings);
        let mic_with = |dev_nonce| {
            let key = js_int_key(&nwk_key, DEV_EUI);
            let mic =
                AcceptMic::OptNeg { key: &key, request: JoinReqType::Join, join_eui: JOIN_EUI, dev_nonce };
            accept.seal(&mic, &NWK_KEY)
        };
        // The MIC covers the request: an answer to another one is none.
        let of_another = mic_with(DevNonce::new(request.dev_nonce.value() + 1));
        assert_eq!(device.take_join_accept(&of_another), Err(Ignored::BadMic));
        device.take_join_accept(&mic_with(request.dev_nonce)).unwrap();
        let app_key = AppKey::new(APP_KEY);
        let (keys, app_s_key) = derive_11(&nwk_key, &app_key, accept.join_nonce, JOIN_EUI, request.dev_nonce);
        Self { keys, app_s_key, is_1_1: true }
    }

    fn open_10(&self, uplink: &Uplink, fcnt: u32) -> (u8, Vec<u8>) {
        let frame = data_of(uplink, fcnt);
        assert_eq!(uplink_mic_10(&self.keys.f_nwk_s_int, DEV_ADDR, FCntUp::new(fcnt), frame.msg), frame.mic);
        let mut payload = frame.frm_payload.to_vec();
        crypt_frm_payload(self.app_s_key.expose(), Direction::Up, DEV_ADDR, fcnt, &mut payload);
        (frame.f_port.unwrap(), payload)
    }

    /// The commands of an uplink, once both halves of its MIC hold.
    fn open_11(&self, uplink: &Uplink, fcnt: u32, tx_ch: u8, conf_fcnt: u16) -> Vec<u8> {
        let frame = data_of(uplink, fcnt);
        let context = UplinkMicContext11 { conf_fcnt, tx_dr: 5, tx_ch };
        assert_eq!(uplink_mic_11(&self.keys, context, DEV_ADDR, FCntUp::new(fcnt), frame.msg), frame.mic);
        let mut fopts = frame.fopts.to_vec();
        let counter = FOptsCounter::Network;
        crypt_fopts(&self.keys.nwk_s_enc, Direction::Up, counter, DEV_ADDR, fcnt, &mut fopts);
        fopts
    }

    fn frame(&self, fcnt: u32, payload: Option<(u8, &[u8])>) -> DownlinkFrame {
        let mut frm_payload = payload.map_or_else(Vec::new, |(_, bytes)| bytes.to_vec());
        crypt_frm_payload(self.app_s_key.expose(), Direction::Down, DEV_ADDR, fcnt, &mut frm_payload);
        DownlinkFrame {
            confirmed: false,
            dev_addr: DEV_ADDR,
            adr: false,
            ack: false,
            f_pending: false,
            fcnt: FCntDown::new(fcnt),
            fopts: vec![],
            f_port: payload.map(|(port, _)| port),
            frm_payload,
        }
    }

    fn downlink(
        &self,
        fcnt: u32,
        fopts: Vec<u8>,
        payload: Option<(u8, &[u8])>,
        ack: bool,
        conf_fcnt: u16,
    ) -> Vec<u8> {
        self.seal(DownlinkFrame { fopts, ack, ..self.frame(fcnt, payload) }, conf_fcnt)
    }

    fn seal(&self, frame: DownlinkFrame, conf_fcnt: u16) -> Vec<u8> {
        let app_counter = frame.f_port.is_some();
        frame.seal(self.is_1_1, &self.keys, conf_fcnt, app_counter).unwrap()
    }
}

fn device(region: RegionId, nwk_key: Option<[u8; 16]>) -> VirtualDevice {
    VirtualDevice::otaa(DEV_EUI, JOIN_EUI, region, RootKeys { app_key: APP_KEY, nwk_key })
}

fn accept(join_nonce: JoinNonce, cf_list: Option<[u8; 16]>, dl_settings: DlSettings) -> JoinAccept {
    JoinAccept { join_nonce, net_id: NetId::new(0), dev_addr: DEV_ADDR, dl_settings, rx_delay_s: 3, cf_list }
}

fn cf_list_of(extra_hz: &[u32]) -> Option<[u8; 16]> {
    let plan = region(RegionId::Eu868);
    let (dr_min, dr_max) = (DataRate::new(0), DataRate::new(5));
    let channel = |(index, freq_hz): (u8, &u32)| Channel { index, freq: Hz::new(*freq_hz), dr_min, dr_max };
    let extra: Vec<_> = (plan.first_extra_index()..).zip(extra_hz).map(channel).collect();
    plan.cf_list(&extra, ChannelMask::EMPTY, RegionalRevision::Rp001_1_0_3A)
}

/// A LinkADRReq of two repetitions.
fn link_adr(dr: u8, mask: u16) -> Vec<u8> {
    let [low, high] = mask.to_le_bytes();
    vec![0x03, dr << 4, low, high, 0x02]
}

/// Which of the first eight channels of US915 the frequency is.
fn first_band_hz(freq_hz: u32) -> Option<u32> {
    (0..8).find(|n| 902_300_000 + n * 200_000 == freq_hz)
}

fn data_of(uplink: &Uplink, fcnt: u32) -> DataUp<'_> {
    assert_eq!(uplink.fcnt, fcnt);
    let Frame::DataUp(frame) = parse_uplink(&uplink.phy_payload).unwrap() else { panic!("not data") };
    assert_eq!((frame.dev_addr, u32::from(frame.fcnt.value())), (DEV_ADDR, fcnt));
    frame
}

const DEV_EUI: DevEui = DevEui::new(0x70b3_d57e_d006_0001);
const JOIN_EUI: JoinEui = JoinEui::new(0x70b3_d57e_d000_0001);
const DEV_ADDR: DevAddr = DevAddr::new(0x0123_4567);
const APP_KEY: [u8; 16] = [0x11; 16];
const NWK_KEY: [u8; 16] = [0x22; 16];
/// RX1 one data rate below the uplink, RX2 at DR3.
const DL_SETTINGS: DlSettings = DlSettings { opt_neg: false, rx1_dr_offset: 1, rx2_dr: 3 };
