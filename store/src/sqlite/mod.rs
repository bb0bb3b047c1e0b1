//! The engine of one process: one SQLite file, one thread that writes, a few connections that read.

mod bridge;
mod db;
mod housekeeping;
mod job;
mod join;
mod journal;
mod lock;
mod network;
mod open;
mod session;
mod sql;
pub(crate) mod stamp;
mod writer;

pub(crate) use db::{Bridge, Db, Join, Network, WeakDb};
pub(crate) use housekeeping::housekeeping;
pub(crate) use open::{backup, directory, memory};

#[cfg(test)]
pub(crate) use job::Fut;
