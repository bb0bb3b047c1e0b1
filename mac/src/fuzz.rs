//! What bytes from the air or from the disk must keep to, whatever they are: one function for each boundary of the crate.
//!
//! libFuzzer calls them with inputs it makes up (`fuzz/`), the tests with those it has found worth keeping.

mod answer;
mod commands;
mod frames;
mod session;

pub use commands::mac_commands;
pub use frames::{any_frame, downlink_frame, join_accept, join_request, uplink_frame};
pub use session::{session_state, session_uplinks};

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
replay::replayed! {
    any_frame,
    downlink_frame,
    join_accept,
    join_request,
    mac_commands,
    session_state,
    session_uplinks,
    uplink_frame,
}
