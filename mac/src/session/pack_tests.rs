#![allow(clippy::unwrap_used)]
use super::*;
use crate::keys::Key;
use crate::session::{AbpParams, Profile};
use crate::units::Timestamp;

#[test]
fn a_state_survives_its_bytes_whatever_is_open() {
    let mut session = abp();
    assert_eq!(unpacked(&session.pack()).unwrap().mac, session.mac);

    session.mac = MacState {
        rx1_delay_s: 15,
        rx1_dr_offset: 3,
        rx2_dr: DataRate::new(8),
        rx2_freq: Hz::new(923_300_000),
        dr: Some(DataRate::new(3)),
        tx_power: 7,
        nb_trans: 3,
        channels: [8, 15, 65].into_iter().collect(),
        extra: [1, 2, 3, 4, 5].map(|n| Hz::new(867_000_000 + n * 100_000)),
        uplink_dwell: true,
        downlink_dwell: false,
        eirp_index: Some(5),
        class: DeviceClass::C,
        pending: true,
        confirmed_down: Some(FCntDown::new(0x0102_0304)),
        confirmed_open: true,
        status: Some(DeviceStatus { battery: 254, margin_db: -32 }),
        status_at_s: 1_700_000_000,
        started_at_s: 1_600_000_000,
        profile_tag: 0xbeef,
        refusals: Refusals {
            dr_max: Some(DataRate::new(4)),
            tx_power_max: Some(2),
            data_rate: 1,
            power: 2,
            channel_mask: 3,
            rx_param: 1,
            new_channel: [0, 1, 2, 3, 0],
        },
        asked: Some(Box::new(Asked {
            dev_status: true,
            link_adr: Some(AskedLinkAdr {
                dr: None,
                tx_power: Some(1),
                nb_trans: 2,
                channels: [0, 71].into_iter().collect(),
            }),
            new_channels: Some(AskedChannels { places: 0b10101, frequencies: [Hz::new(868_800_000); 5] }),
            rx_param: Some(AskedRxParam {
                rx1_dr_offset: 2,
                rx2_dr: DataRate::new(3),
                rx2_freq: Hz::new(869_525_000),
            }),
            rx_timing: Some(5),
            tx_param: Some(AskedTxParam { uplink_dwell: false, downlink_dwell: true, eirp_index: 13 }),
        })),
    };
    let bytes = session.pack();
    let again = unpacked(&bytes).unwrap();
    assert_eq!(again.mac, session.mac);
    assert_eq!(again.dev_addr, session.dev_addr);
    assert_eq!(again.version, session.version);
    assert_eq!(again.activation, session.activation);
    assert!(bytes.len() <= 160, "{}", bytes.len());
}

#[test]
fn damaged_bytes_are_refused_and_never_panic() {
    let bytes = abp().pack();
    for cut in 0..bytes.len() {
        assert!(unpacked(&bytes[..cut]).is_err(), "{cut} bytes");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(unpacked(&longer).unwrap_err(), StateError::Damaged { at: bytes.len() });
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut spoilt = bytes.clone();
            spoilt[at] = value;
            let _ = unpacked(&spoilt);
        }
    }
}

#[test]
fn a_value_that_no_session_has_is_damage_and_its_place_is_told() {
    let bytes = abp().pack();
    let places = [
        ("rx1_delay_s", 8, 0),
        ("rx1_delay_s", 8, 16),
        ("rx1_dr_offset", 9, 8),
        ("rx2_dr", 10, 16),
        ("dr", 11, 0xfe),
        ("tx_power", 12, 0xff),
        ("nb_trans", 13, 0),
        ("eirp_index", 14, 16),
    ];
    for (field, at, value) in places {
        let mut spoilt = bytes.clone();
        spoilt[at] = value;
        assert_eq!(unpacked(&spoilt).unwrap_err(), StateError::Damaged { at }, "{field}");
    }
}

#[test]
fn a_state_of_a_later_version_is_named_so() {
    let mut bytes = abp().pack();
    bytes[0] = 2;
    let error = unpacked(&bytes).unwrap_err();
    assert_eq!(error, StateError::UnknownFormat { found: 2 });
    assert_eq!(error.to_string(), "stored session state is of format 2; this version reads 1");
}

fn abp() -> Session {
    let params = AbpParams {
        id: SessionId::new(1),
        dev_eui: DevEui::new(2),
        dev_addr: DevAddr::new(0x2601_0203),
        version: MacVersion::V1_0_3,
        keys: keys(),
        fcnt_up: None,
        fcnt_down: 0,
    };
    Session::new_abp(&Profile::default(), params, Timestamp::from_us(1))
}

fn keys() -> NetworkKeys {
    NetworkKeys::from_nwk_s_key(&Key::new([7; 16]))
}

fn unpacked(state: &[u8]) -> Result<Session, StateError> {
    Session::unpack(SessionId::new(1), DevEui::new(2), keys(), state, None, 0, 0)
}
