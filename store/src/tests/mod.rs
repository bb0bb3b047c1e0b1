//! Stories of the whole store, on real files.

mod bridge;
mod disk_full;
mod durability;
mod joins;
mod log;
mod opening;
mod sessions;
