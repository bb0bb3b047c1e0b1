//! The frame code of this crate against the `lorawan` crate: what one makes the other reads.

#![allow(clippy::unwrap_used)]

use mac::crypto::{self, Direction};
use mac::ids::{DevAddr, DevEui, DevNonce, FCntDown, FCntUp, JoinEui, JoinNonce, NetId};
use mac::join_frame::{AcceptMic, DlSettings, JoinAccept, JoinRequest};
use mac::keys::{AppKey, AppSKey, Key, NetworkKeys};
use mac::lorawan_adapter::{self as reference, PlainData};
use mac::phy::{DownFrame, DownlinkFrame, Frame, UplinkFrame, parse_downlink, parse_uplink};
use proptest::prelude::*;

proptest! {
    /// CRYPTO-001, CRYPTO-006, CRYPTO-009.
    #[test]
    fn the_other_reads_our_data_frames(
        up in any::<bool>(), confirmed in any::<bool>(), dev_addr in any::<u32>(), fcnt in any::<u32>(),
        nwk_s_key in any::<[u8; 16]>(), app_s_key in any::<[u8; 16]>(),
        fopts in proptest::collection::vec(any::<u8>(), 0..=15),
        payload in proptest::option::of((0..=255_u8, proptest::collection::vec(any::<u8>(), 1..=220))),
    ) {
        let (f_port, plain) = payload.map_or((None, Vec::new()), |(port, payload)| (Some(port), payload));
        let fopts = if f_port == Some(0) { Vec::new() } else { fopts };
        let dir = if up { Direction::Up } else { Direction::Down };
        let payload_key = if f_port == Some(0) { nwk_s_key } else { app_s_key };
        let mut frm_payload = plain.clone();
        crypto::crypt_frm_payload(&payload_key, dir, DevAddr::new(dev_addr), fcnt, &mut frm_payload);
        let keys = NetworkKeys::from_nwk_s_key(&Key::new(nwk_s_key));
        let dev_addr = DevAddr::new(dev_addr);
        let phy = if up {
            UplinkFrame {
                confirmed, dev_addr, adr: true, adr_ack_req: false, ack: true, class_b: false,
                fcnt: FCntUp::new(fcnt), fopts: fopts.clone(), f_port, frm_payload,
            }.seal(&keys, None).unwrap()
        } else {
            DownlinkFrame {
                confirmed, dev_addr, adr: true, ack: true, f_pending: false,
                fcnt: FCntDown::new(fcnt), fopts: fopts.clone(), f_port, frm_payload,
            }.seal(false, &keys, 0, false).unwrap()
        };

        let read = reference::read_data(&phy, &Key::new(nwk_s_key), &AppSKey::new(app_s_key), fcnt).unwrap();
        prop_assert_eq!(read.confirmed, confirmed);
        prop_assert_eq!(usize::from(read.fctrl), 0xa0 | fopts.len());
        prop_assert_eq!(u32::from(read.fcnt), fcnt & 0xffff);
        prop_assert_eq!(read.fopts, fopts);
        prop_assert_eq!((read.f_port, read.payload), (f_port, plain));
        prop_assert!(reference::read_data(&phy, &Key::new(nwk_s_key), &AppSKey::new(app_s_key), fcnt ^ 0x1_0000).is_none());
    }

    /// CRYPTO-001, CRYPTO-006.
    #[test]
    fn we_read_the_others_data_frames(
        up in any::<bool>(), confirmed in any::<bool>(), dev_addr in any::<u32>(), fcnt in any::<u32>(),
        nwk_s_key in any::<[u8; 16]>(), app_s_key in any::<[u8; 16]>(),
        f_port in 1..=255_u8, payload in proptest::collection::vec(any::<u8>(), 0..=242),
    ) {
        let dev_addr = DevAddr::new(dev_addr);
        let direction = if up { Direction::Up } else { Direction::Down };
        let frame = PlainData { direction, confirmed, dev_addr, fctrl: 0x80, fcnt, f_port: Some(f_port), payload: &payload };
        let phy = reference::data(&frame, &Key::new(nwk_s_key), &AppSKey::new(app_s_key)).unwrap();

        let keys = NetworkKeys::from_nwk_s_key(&Key::new(nwk_s_key));
        if up {
            let Ok(Frame::DataUp(read)) = parse_uplink(&phy) else { panic!() };
            prop_assert_eq!(read.mic, crypto::uplink_mic_10(&keys.f_nwk_s_int, dev_addr, FCntUp::new(fcnt), read.msg));
            prop_assert_eq!((read.confirmed, read.adr, read.f_port), (confirmed, true, Some(f_port)));
            let mut plain = read.frm_payload.to_vec();
            crypto::crypt_frm_payload(&app_s_key, direction, dev_addr, fcnt, &mut plain);
            prop_assert_eq!(plain, payload);
        } else {
            let Some(DownFrame::Data(read)) = parse_downlink(&phy) else { panic!() };
            prop_assert!(read.verify(&keys.s_nwk_s_int, 0, FCntDown::new(fcnt)));
            prop_assert_eq!((read.confirmed, read.adr, read.f_port), (confirmed, true, Some(f_port)));
            prop_assert_eq!(read.open_payload(&app_s_key, FCntDown::new(fcnt)), payload);
        }
    }

    /// PARSE-015, CRYPTO-010.
    #[test]
    fn both_make_and_read_the_same_join_request(
        join_eui in any::<u64>(), dev_eui in any::<u64>(), dev_nonce in any::<u16>(), app_key in any::<[u8; 16]>(),
    ) {
        let (join_eui, dev_eui, dev_nonce) = (JoinEui::new(join_eui), DevEui::new(dev_eui), DevNonce::new(dev_nonce));
        let app_key = AppKey::new(app_key);
        let ours = JoinRequest::seal(join_eui, dev_eui, dev_nonce, app_key.expose());
        prop_assert_eq!(reference::join_request(join_eui, dev_eui, dev_nonce, &app_key), Some(ours.clone()));
        prop_assert!(reference::verify_join_request(&ours, &app_key));
    }

    /// CRYPTO-012, CRYPTO-013, CRYPTO-014: the other device reads our accept and comes to the same keys.
    #[test]
    fn the_other_joins_with_our_accept(
        join_nonce in any::<u32>(), net_id in any::<u32>(), dev_addr in any::<u32>(), dev_nonce in any::<u16>(),
        app_key in any::<[u8; 16]>(), with_cf_list in any::<bool>(),
    ) {
        let accept = JoinAccept {
            join_nonce: JoinNonce::new(join_nonce),
            net_id: NetId::new(net_id),
            dev_addr: DevAddr::new(dev_addr),
            dl_settings: DlSettings { opt_neg: false, rx1_dr_offset: 2, rx2_dr: 3 },
            rx_delay_s: 5,
            cf_list: with_cf_list.then_some([0; 16]),
        };
        let dev_nonce = DevNonce::new(dev_nonce);
        let phy = accept.seal(&AcceptMic::Plain(&app_key), &app_key);

        let read = reference::read_join_accept(&phy, &AppKey::new(app_key), dev_nonce).unwrap();
        prop_assert_eq!((read.join_nonce, read.net_id, read.dev_addr), (accept.join_nonce, accept.net_id, accept.dev_addr));
        prop_assert_eq!((read.dl_settings, read.rx_delay_s), (0x23, 5));
        let (network, app_s_key) = crypto::derive_10(&app_key, accept.join_nonce, accept.net_id, dev_nonce);
        prop_assert_eq!(network, NetworkKeys::from_nwk_s_key(&read.nwk_s_key));
        prop_assert_eq!(app_s_key, read.app_s_key);
    }

    /// The fence holds: nothing makes the other panic.
    #[test]
    fn no_bytes_make_the_other_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let key = AppKey::new([1; 16]);
        let _ = reference::verify_join_request(&bytes, &key);
        let _ = reference::read_join_accept(&bytes, &key, DevNonce::new(0));
        let _ = reference::read_data(&bytes, &Key::new([1; 16]), &AppSKey::new([2; 16]), 0);
    }
}

#[test]
fn what_the_other_cannot_make_soundly_is_refused() {
    let frame = PlainData {
        direction: Direction::Up,
        confirmed: false,
        dev_addr: DevAddr::new(1),
        fctrl: 0,
        fcnt: 0,
        f_port: Some(1),
        payload: &[0; 243],
    };
    let (nwk_s_key, app_s_key) = (Key::new([1; 16]), AppSKey::new([2; 16]));
    assert!(reference::data(&frame, &nwk_s_key, &app_s_key).is_none());
    assert!(
        reference::data(&PlainData { f_port: Some(0), payload: &[], ..frame.clone() }, &nwk_s_key, &app_s_key)
            .is_none()
    );
    assert!(
        reference::data(&PlainData { f_port: None, payload: b"x", ..frame }, &nwk_s_key, &app_s_key).is_none()
    );
}
