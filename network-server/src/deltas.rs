//! Changes of sessions as the journal keeps them.

use mac::ids::FCntUp;
use mac::session::Session;
use mac::uplink::Step;
use proto::internal as pb;
use seam::{Bug, planted};

pub(crate) fn removed(session: &Session) -> pb::Delta {
    pb::Delta {
        dev_eui: session.dev_eui.value(),
        session_id: session.id.value(),
        removed: true,
        ..pb::Delta::default()
    }
}

/// What an accepted uplink changes: its own counter, not the session's, which may count a frame already whose window is
/// still open; the counters of downlinks; the cold state when it changed.
pub(crate) fn delta_of(session: &Session, accepted: Option<FCntUp>, step: &Step) -> pb::Delta {
    pb::Delta {
        fcnt_up_plus_1: accepted.map(|fcnt| u64::from(fcnt.value()) + 1),
        state: step.mac_changed.then(|| session.pack()),
        ..if planted(Bug::DownCounterNotStored) { names_of(session) } else { down_counters_of(session) }
    }
}

/// A session as it begins.
pub(crate) fn whole(session: &Session, sealed_keys: Vec<u8>) -> pb::Delta {
    pb::Delta {
        sealed_keys: Some(sealed_keys),
        state: Some(session.pack()),
        fcnt_up_plus_1: Some(session.fcnt_up.map_or(0, |fcnt| u64::from(fcnt.value()) + 1)),
        ..down_counters_of(session)
    }
}

/// What is not handed out of a session's downlink counters.
pub(crate) fn down_counters_of(session: &Session) -> pb::Delta {
    pb::Delta {
        n_fcnt_down: Some(session.n_fcnt_down),
        a_fcnt_down: session.version.is_1_1().then_some(session.a_fcnt_down),
        ..names_of(session)
    }
}

fn names_of(session: &Session) -> pb::Delta {
    pb::Delta { dev_eui: session.dev_eui.value(), session_id: session.id.value(), ..pb::Delta::default() }
}
