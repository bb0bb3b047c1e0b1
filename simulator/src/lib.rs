//! Virtual gateways, devices and air, for `loam demo`, the tests and the benches.
//!
//! The devices do not use the server's decisions: what a device knows, it knows from the frames it heard.

pub mod device;
pub mod farm;
pub mod forwarder;
pub mod gateway;
