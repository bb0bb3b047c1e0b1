//! Stories of one device and its session, told through a virtual device that keeps its own settings and does not use the
//! network's decisions. `World` carries frames between the two, loses those it is told to lose, and holds the clock.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

mod acks;
mod channels;
mod counters;
mod device;
mod hostile;
mod link_adr;
mod requests;
mod version_1_1;
mod windows;
mod world;
