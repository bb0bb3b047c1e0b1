//! The killer: the real binary under load, ended in every way a machine can end it, again and again on the same directory.
//!
//! [`plan`] says how each life of the server ends, and [`lives`] sees to it. Meanwhile the devices of [`field`] live as [`load`] says
//! and the [`people`] call the API. What left the server is written into the [`account`], and after each end held against the
//! [`database`] and later against what the server tells. `KILLS` sets the number of lives, `LOAM_SEED` repeats a plan.

#![allow(clippy::print_stdout, reason = "the seed repeats a failure; the counts tell what was proved")]

mod account;
mod database;
mod disk;
mod field;
mod first_start;
mod lives;
mod load;
mod people;
mod plan;

use std::time::Instant;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use lives::{Killer, draw};

/// FCNT-010, FCNT-011, ACK-007, JOIN-003, JOIN-005, JOIN-006, DEDUP-001, AS-003, AS-004, AS-006, OPS-006: under every kind of end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_end_loses_what_was_accepted_or_reuses_a_counter() {
    let seed = number("LOAM_SEED").unwrap_or(20_261_124);
    let cycles = usize::try_from(number("KILLS").unwrap_or(100)).expect("a small number");
    let begun = Instant::now();
    let mut rng = StdRng::seed_from_u64(seed);
    no_core_files();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut killer = Killer::set_up(dir.path().join("data"), &[], draw(&mut rng)).await;

    let fates = plan::draw(cycles, &mut rng);
    println!("seed {seed}, {} lives (LOAM_SEED and KILLS set them)", fates.len());
    for (number, fate) in fates.iter().enumerate() {
        killer.live(fate).await;
        killer.assert_faultless(&format!("life {number}: {fate:?}"));
        if (number + 1).is_multiple_of(CALM_EVERY) || number + 1 == fates.len() {
            killer.calm().await;
            killer.assert_faultless(&format!("the calm after life {number}"));
        }
    }
    killer.report(begun.elapsed());
}

/// The server is ended by SIGABRT at its crash points; its memory is of no interest.
pub(crate) fn no_core_files() {
    let resource = nix::sys::resource::Resource::RLIMIT_CORE;
    nix::sys::resource::setrlimit(resource, 0, 0).expect("a limit may be lowered");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

const CALM_EVERY: usize = 100;
