//! Rules that hold for any values: what is made is read, counters never go back, the order of arrival does not matter.
//!
//! A failure prints the smallest input proptest finds; with its seed it goes into `proptest-regressions`.

#![allow(clippy::unwrap_used)]

mod airtime;
mod commands;
mod copies;
mod counters;
mod joins;
