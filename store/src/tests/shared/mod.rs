//! What every engine has to stand; a new one is held to all of it.

mod alike;
mod bridge;
mod durability;
mod fencing;
mod joins;
mod log;
mod network;
mod sessions;
