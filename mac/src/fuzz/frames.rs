use crate::crypto;
use crate::drop_reason::DropReason;
use crate::ids::{DevEui, DevNonce, FCntDown, FCntUp, JoinEui, SessionId};
use crate::join_frame::{AcceptMic, JoinAccept, JoinReqType, JoinRequest, RejoinKind, RejoinRequest};
use crate::keys::{AppKey, AppSKey, JsIntKey, Key, NetworkKeys, NwkKey};
use crate::lorawan_adapter as reference;
use crate::phy::{
    AnyFrame, DataDown, DataUp, DecodeKeys, DownFrame, DownlinkFrame, Frame, JoinContext, MicVerdict,
    PHY_LEN_MAX, UplinkFrame, parse_any, parse_downlink, parse_uplink,
};
use crate::session::{OtaaParams, Profile, Session};
use crate::units::Timestamp;
use crate::version::MacVersion;

/// A PHYPayload that a gateway received.
///
/// The parts that are read make the same frame again, but for its MIC and the reserved bits of its first byte; code of other authors
/// reads them alike.
pub fn uplink_frame(phy: &[u8]) {
    match parse_uplink(phy) {
        Ok(Frame::DataUp(frame)) => {
            let made = rebuilt_up(&frame);
            same_but_mic(phy, &made);
            let again = parse_uplink(&made);
            let msg = made.get(..made.len() - 4).expect("a MIC ends it");
            let Ok(Frame::DataUp(again)) = again else { panic!("what was made is refused: {again:?}") };
            assert_eq!(DataUp { mic: frame.mic, msg: frame.msg, ..again }, frame);
            assert_eq!(again.msg, msg);
            others_read(&made, frame.fopts, frame.f_port, frame.frm_payload);
        }
        Ok(Frame::JoinRequest(_)) => assert_eq!(phy.len(), 23),
        Ok(Frame::Rejoin(_)) => assert!(matches!(phy.len(), 19 | 24)),
        Ok(Frame::Proprietary(body)) => assert_eq!(phy.get(1..), Some(body)),
        Err(reason) => assert_eq!(reason == DropReason::TooLong, phy.len() > PHY_LEN_MAX, "{reason:?}"),
    }
}

/// A PHYPayload that a device received: the rules of [`uplink_frame`]. FCtrl has a reserved bit here.
pub fn downlink_frame(phy: &[u8]) {
    match parse_downlink(phy) {
        Some(DownFrame::Data(frame)) => {
            let made = rebuilt_down(&frame);
            let mut phy = phy.to_vec();
            if let Some(fctrl) = phy.get_mut(5) {
                *fctrl &= !FCTRL_RESERVED_DOWN;
            }
            same_but_mic(&phy, &made);
            let again = parse_downlink(&made);
            let Some(DownFrame::Data(again)) = again else { panic!("what was made is refused: {again:?}") };
            assert_eq!(DataDown { mic: frame.mic, msg: frame.msg, ..again }, frame);
            let fcnt = FCntDown::new(u32::from(frame.fcnt.value()));
            assert!(again.verify(&keys().s_nwk_s_int, 0, fcnt));
            others_read(&made, frame.fopts, frame.f_port, frame.frm_payload);
        }
        Some(DownFrame::JoinAccept(whole)) => assert_eq!(whole, phy),
        Some(DownFrame::Proprietary(body)) => assert_eq!(phy.get(1..), Some(body)),
        None => {}
    }
}

/// A PHYPayload that a person wants explained, with every key and with none.
///
/// What is opened is as long as what was closed; without keys nothing is said about the MIC and nothing encrypted is shown.
pub fn any_frame(phy: &[u8]) {
    let known = DecodeKeys {
        network: Some(keys()),
        app_s_key: Some(AppSKey::new(APP_S_KEY)),
        app_key: Some(AppKey::new(ROOT_KEY)),
        nwk_key: Some(NwkKey::new(ROOT_KEY)),
        version_1_1: phy.len().is_multiple_of(2),
        fcnt: Some(phy.get(6).copied().unwrap_or(0).into()),
        join: Some(JoinContext {
            request: JoinReqType::Join,
            join_eui: JoinEui::new(1),
            dev_eui: DevEui::new(2),
            dev_nonce: DevNonce::new(3),
        }),
        ..DecodeKeys::default()
    };
    let nothing_known = parse_any(phy, &DecodeKeys::default());
    match (parse_any(phy, &known), &nothing_known) {
        (Ok(AnyFrame::Data(opened)), Ok(AnyFrame::Data(closed))) => {
            let len = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(Vec::len);
            assert_eq!(len(&opened.fopts_plain), Some(opened.fopts.len()));
            if opened.f_port.is_some() {
                assert_eq!(len(&opened.frm_payload_plain), Some(opened.frm_payload.len()));
            }
            assert_eq!((&opened.fopts, &opened.frm_payload), (&closed.fopts, &closed.frm_payload));
            assert_eq!(closed.verdict, MicVerdict::NotChecked);
            assert!(closed.frm_payload.is_empty() || closed.frm_payload_plain.is_none());
        }
        (Ok(AnyFrame::JoinAccept { accept, .. }), Ok(AnyFrame::JoinAccept { accept: closed, .. })) => {
            assert!(accept.is_some() && closed.is_none());
        }
        (Ok(_), Ok(_)) => {}
        (Err(reason), Err(same)) => assert_eq!(reason, *same),
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => panic!("keys decide whether it is a frame"),
    }
}

/// A Join-Request or Rejoin-Request.
///
/// What was read and is sealed again differs from the frame in its MIC and the reserved bits of its first byte only; with these bits zero
/// the sealed one is genuine.
pub fn join_request(phy: &[u8]) {
    if let Ok(request) = JoinRequest::parse(phy) {
        let made = JoinRequest::seal(request.join_eui, request.dev_eui, request.dev_nonce, &ROOT_KEY);
        same_but_mic(phy, &made);
        let again = JoinRequest::parse(&made).expect("what was made is read");
        assert!(again.verify(&ROOT_KEY) && reference::verify_join_request(&made, &AppKey::new(ROOT_KEY)));
        let (msg, _) = phy.split_last_chunk::<4>().expect("a Join-Request has 23 bytes");
        let genuine = crypto::join_mic(&ROOT_KEY, msg) == request.mic;
        assert_eq!(request.verify(&ROOT_KEY), genuine, "the MIC covers the bytes as they came");
    }
    if let Ok(request) = RejoinRequest::parse(phy) {
        let made = RejoinRequest::seal(request.kind, request.dev_eui, request.rj_count, &ROOT_KEY);
        same_but_mic(phy, &made);
        let again = RejoinRequest::parse(&made).expect("what was made is read");
        assert!(again.verify(&ROOT_KEY));
        assert_eq!((again.kind, again.dev_eui), (request.kind, request.dev_eui));
        let long = matches!(request.kind, RejoinKind::Type1(_));
        assert_eq!(phy.len(), if long { 24 } else { 19 });
    }
}

/// A Join-Accept, as a device opens it, and the session that follows from it.
///
/// Whatever is inside, sealing it again gives the same frame; both ways to sign it hold; and the session can be stored.
pub fn join_accept(phy: &[u8]) {
    let Some(opened) = JoinAccept::open(phy, &ROOT_KEY) else { return };
    let accept = opened.accept;
    let made = accept.seal(&AcceptMic::Plain(&ROOT_KEY), &ROOT_KEY);
    assert_eq!(made.len(), phy.len());
    let again = JoinAccept::open(&made, &ROOT_KEY).expect("what was made is opened");
    assert_eq!(again.accept, accept);
    assert!(again.verify(&AcceptMic::Plain(&ROOT_KEY)));
    let read = reference::read_join_accept(&made, &AppKey::new(ROOT_KEY), DevNonce::new(1));
    assert_eq!(read.map(|read| (read.join_nonce, read.dev_addr)), Some((accept.join_nonce, accept.dev_addr)));
    let js_int_key = JsIntKey::new(ROOT_KEY);
    let opt_neg = AcceptMic::OptNeg {
        key: &js_int_key,
        request: JoinReqType::Join,
        join_eui: JoinEui::new(1),
        dev_nonce: DevNonce::new(2),
    };
    let made = accept.seal(&opt_neg, &ROOT_KEY);
    let again = JoinAccept::open(&made, &ROOT_KEY).expect("what was made is opened");
    assert!(again.accept == accept && again.verify(&opt_neg));

    for region in crate::region::RegionId::ALL {
        let profile = Profile { region: *region, ..Profile::default() };
        let params = OtaaParams {
            id: SessionId::new(1),
            dev_eui: DevEui::new(2),
            dev_addr: accept.dev_addr,
            version: MacVersion::V1_0_3,
            keys: keys(),
            dl_settings: accept.dl_settings,
            rx_delay_s: accept.rx_delay_s,
            cf_list: accept.cf_list,
        };
        let session = Session::new_otaa(&profile, params, Timestamp::from_us(1));
        assert!((1..=15).contains(&session.mac.rx1_delay_s));
        super::session::survives_its_bytes(&session);
    }
}

fn rebuilt_up(frame: &DataUp<'_>) -> Vec<u8> {
    let parts = UplinkFrame {
        confirmed: frame.confirmed,
        dev_addr: frame.dev_addr,
        adr: frame.adr,
        adr_ack_req: frame.adr_ack_req,
        ack: frame.ack,
        class_b: frame.class_b,
        fcnt: FCntUp::new(u32::from(frame.fcnt.value())),
        fopts: frame.fopts.to_vec(),
        f_port: frame.f_port,
        frm_payload: frame.frm_payload.to_vec(),
    };
    parts.seal(&keys(), None).expect("what was read can be made")
}

fn rebuilt_down(frame: &DataDown<'_>) -> Vec<u8> {
    let parts = DownlinkFrame {
        confirmed: frame.confirmed,
        dev_addr: frame.dev_addr,
        adr: frame.adr,
        ack: frame.ack,
        f_pending: frame.f_pending,
        fcnt: FCntDown::new(u32::from(frame.fcnt.value())),
        fopts: frame.fopts.to_vec(),
        f_port: frame.f_port,
        frm_payload: frame.frm_payload.to_vec(),
    };
    parts.seal(false, &keys(), 0, false).expect("what was read can be made")
}

/// The whole frame but its MIC and the reserved bits of MHDR.
fn same_but_mic(phy: &[u8], made: &[u8]) {
    let parts = |bytes: &[u8]| {
        let (&mhdr, rest) = bytes.split_first().expect("a frame has an MHDR");
        let (body, _) = rest.split_last_chunk::<4>().expect("a frame has a MIC");
        (mhdr & !MHDR_RESERVED, body.to_vec())
    };
    assert_eq!(parts(phy), parts(made));
}

/// The `lorawan` crate does not see a port without a payload.
fn others_read(made: &[u8], fopts: &[u8], f_port: Option<u8>, frm_payload: &[u8]) {
    if frm_payload.is_empty() {
        return;
    }
    let fcnt = made.get(6..8).map_or(0, |low| u32::from(u16::from_le_bytes([low[0], low[1]])));
    let read = reference::read_data(made, &Key::new(NWK_S_KEY), &AppSKey::new(APP_S_KEY), fcnt);
    let read = read.expect("the other reads what was made");
    assert_eq!((read.fopts.as_slice(), read.f_port, read.payload.len()), (fopts, f_port, frm_payload.len()));
}

fn keys() -> NetworkKeys {
    NetworkKeys::from_nwk_s_key(&Key::new(NWK_S_KEY))
}

const MHDR_RESERVED: u8 = 0b0001_1100;
const FCTRL_RESERVED_DOWN: u8 = 0b0100_0000;
const NWK_S_KEY: [u8; 16] = [0x44; 16];
const APP_S_KEY: [u8; 16] = [0x45; 16];
const ROOT_KEY: [u8; 16] = [0x46; 16];
