use mac::ids::{DevAddr, DevEui, DevNonce, JoinEui, JoinNonce, NetId};
use mac::join_frame::{AcceptMic, DlSettings, JoinAccept, JoinReqType, JoinRequest, RejoinKind, RejoinRequest};
use mac::keys::JsIntKey;
use mac::phy::{DownFrame, Frame, parse_downlink, parse_uplink};
use mac::region::CfList;
use proptest::prelude::*;

fn kinds() -> impl Strategy<Value = RejoinKind> {
    prop_oneof![
        any::<u32>().prop_map(|net_id| RejoinKind::Type0(NetId::new(net_id))),
        any::<u64>().prop_map(|join_eui| RejoinKind::Type1(JoinEui::new(join_eui))),
        any::<u32>().prop_map(|net_id| RejoinKind::Type2(NetId::new(net_id))),
    ]
}

fn accepts() -> impl Strategy<Value = JoinAccept> {
    let fields = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u8>(), 0_u8..=15, any::<Option<[u8; 16]>>());
    fields.prop_map(|(join_nonce, net_id, dev_addr, dl_settings, rx_delay_s, cf_list)| JoinAccept {
        join_nonce: JoinNonce::new(join_nonce),
        net_id: NetId::new(net_id),
        dev_addr: DevAddr::new(dev_addr),
        dl_settings: DlSettings::from_byte(dl_settings),
        rx_delay_s,
        cf_list,
    })
}

proptest! {
    /// PARSE-015.
    #[test]
    fn a_join_request_is_read_as_it_was_made(
        join_eui in any::<u64>(), dev_eui in any::<u64>(), dev_nonce in any::<u16>(), key in any::<[u8; 16]>(), bit in 0_usize..184,
    ) {
        let (join_eui, dev_eui, dev_nonce) = (JoinEui::new(join_eui), DevEui::new(dev_eui), DevNonce::new(dev_nonce));
        let mut phy = JoinRequest::seal(join_eui, dev_eui, dev_nonce, &key);
        let Ok(Frame::JoinRequest(read)) = parse_uplink(&phy) else { panic!("no Join-Request") };
        prop_assert_eq!((read.join_eui, read.dev_eui, read.dev_nonce), (join_eui, dev_eui, dev_nonce));
        prop_assert!(read.verify(&key));

        phy[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!JoinRequest::parse(&phy).is_ok_and(|changed| changed.verify(&key)), "bit {} counts", bit);
    }

    /// PARSE-016.
    #[test]
    fn a_rejoin_request_is_read_as_it_was_made(
        kind in kinds(), dev_eui in any::<u64>(), rj_count in any::<u16>(), key in any::<[u8; 16]>(),
    ) {
        let dev_eui = DevEui::new(dev_eui);
        let phy = RejoinRequest::seal(kind, dev_eui, rj_count, &key);
        let Ok(Frame::Rejoin(read)) = parse_uplink(&phy) else { panic!("no Rejoin-Request") };
        prop_assert_eq!((read.kind, read.dev_eui, read.rj_count), (kind, dev_eui, rj_count));
        prop_assert!(read.verify(&key));
    }

    /// CRYPTO-012, CRYPTO-013.
    #[test]
    fn a_join_accept_is_read_as_it_was_made(
        accept in accepts(), key in any::<[u8; 16]>(), js_int_key in any::<[u8; 16]>(), dev_nonce in any::<u16>(), join_eui in any::<u64>(),
        request in prop::sample::select(vec![JoinReqType::Join, JoinReqType::Rejoin0, JoinReqType::Rejoin1, JoinReqType::Rejoin2]),
    ) {
        let js_int_key = JsIntKey::new(js_int_key);
        let opt_neg = AcceptMic::OptNeg {
            key: &js_int_key, request, join_eui: JoinEui::new(join_eui), dev_nonce: DevNonce::new(dev_nonce),
        };
        let plain = AcceptMic::Plain(&key);
        for (mic, other) in [(&plain, &opt_neg), (&opt_neg, &plain)] {
            let phy = accept.seal(mic, &key);
            prop_assert_eq!(parse_downlink(&phy), Some(DownFrame::JoinAccept(&phy)));
            let opened = JoinAccept::open(&phy, &key).unwrap();
            prop_assert_eq!(opened.accept, accept);
            prop_assert!(opened.verify(mic) && !opened.verify(other));
        }
    }

    #[test]
    fn a_channel_list_is_read_as_it_was_made(bytes in any::<[u8; 16]>()) {
        if let Some(list) = CfList::from_bytes(bytes) {
            prop_assert_eq!(CfList::from_bytes(list.to_bytes()), Some(list));
        }
    }
}
