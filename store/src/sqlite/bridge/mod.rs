//! The app-bridge's tables, in SQL.

mod audit;
mod device;
mod downlink;
mod follow;
mod lookup;
mod registry;
mod stream;

pub(super) use audit::write_audit;
