//! What bytes from gateways and from the other roles must keep to, whatever they are: one function for each boundary of the crate.
//!
//! libFuzzer calls them with inputs it makes up (`fuzz/`), the tests with those it has found worth keeping.

use mac::ids::{DevAddr, DevEui, SessionId};
use mac::join_frame::DlSettings;
use mac::keys::{Key, NetworkKeys};
use mac::region::CfList;
use mac::session::{OtaaParams, Session};
use mac::units::Timestamp;
use prost::Message as _;
use proto::v1;

use crate::profiles::from_message;

pub use crate::gateway::fuzz::{datagram, rxpk};

/// A device profile as the app-bridge sends it.
///
/// One that is taken follows the rules of its region, and a device that joins with it gets the channels it names; one that is refused is
/// refused with a short sentence.
pub fn network_profile(bytes: &[u8]) {
    let Ok(message) = v1::Profile::decode(bytes) else { return };
    let profile = match from_message(&message) {
        Ok(profile) => profile,
        Err(problem) => {
            assert!(!problem.is_empty() && problem.len() < SENTENCE_LEN_MAX, "{problem}");
            return;
        }
    };
    assert_eq!(profile.check(), Ok(()));
    let settings = profile.join_settings();
    assert_eq!(u32::from(settings.rx_delay_s), if message.rx_delay_s == 0 { 5 } else { message.rx_delay_s });
    assert!(settings.cf_list.is_none() || settings.cf_list.and_then(CfList::from_bytes).is_some());
    let params = OtaaParams {
        id: SessionId::new(1),
        dev_eui: DevEui::new(2),
        dev_addr: DevAddr::new(3),
        version: profile.mac_version,
        keys: NetworkKeys::from_nwk_s_key(&Key::new([4; 16])),
        dl_settings: DlSettings {
            opt_neg: profile.mac_version.is_1_1(),
            rx1_dr_offset: settings.rx1_dr_offset,
            rx2_dr: settings.rx2_dr.value(),
        },
        rx_delay_s: settings.rx_delay_s,
        cf_list: settings.cf_list,
    };
    let session = Session::new_otaa(&profile, params, Timestamp::from_us(1));
    assert_eq!((session.mac.rx1_dr_offset, session.mac.rx2_dr), (settings.rx1_dr_offset, settings.rx2_dr));
    let known = session.extra_channels(&profile);
    if settings.cf_list.is_some() && !profile.region().is_fixed_plan() {
        let known: Vec<_> = known.iter().map(|channel| channel.freq).collect();
        assert_eq!(known, profile.extra_channels);
    }
    let state = session.pack();
    let (up, n, a) = (session.fcnt_up, session.n_fcnt_down, session.a_fcnt_down);
    let again = Session::unpack(session.id, session.dev_eui, session.keys.clone(), &state, up, n, a);
    assert_eq!(again.map(|again| again.mac), Ok(session.mac));
}

const SENTENCE_LEN_MAX: usize = 200;

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
replay::replayed! {
    datagram,
    network_profile,
    rxpk,
}
