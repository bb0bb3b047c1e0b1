//! Stories over real gRPC connections, with a store in memory and other roles of paper.

#![allow(clippy::unwrap_used)]

mod access;
mod queue;
mod registry;
mod stream;
mod world;
