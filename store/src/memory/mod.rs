//! The engine of a simulated world: several servers on one disk, in memory, under virtual time, with planned faults.
//!
//! Rows are Rust values behind one mutex that no await ever crosses. A step of a store asks [`Faults`] what it meets, sleeps in tokio's
//! time as long as it takes, and then happens at one moment or not at all. There is no thread, no clock of the system, and no order that
//! a seed does not decide.

mod bridge;
mod db;
mod disk;
mod faults;
mod job;
mod join;
mod journal;
mod machine;
mod network;
mod session;

pub(crate) use db::{Bridge, Db, Join, Network, WeakDb};
pub use disk::MemoryDisk;
pub use faults::{Faults, ReadFate, WriteFate, WriteKind, WriteOutcome};
