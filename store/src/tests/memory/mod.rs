//! What a simulated world may do to a store.

mod crashes;
mod faults;
mod owners;
mod world;
