//! The whole server in a world that one seed decides.
//!
//! The roles run their own code: gateways' datagrams, deduplication, MIC, decisions, the journal, joins, the queue, the streams. What
//! they stand on is simulated: the clock, randomness, the wire, the disk, devices and people. Nothing here opens a socket, starts a
//! thread or waits for real time. After each step the reference model in [`account`](self) says whether all promises hold.
//!
//! `loam-sim` runs thousands of schedules and shrinks those that fail; tests tell single stories with [`World`].

mod account;
mod air;
mod chance;
mod client;
mod driver;
mod node;
mod panics;
mod radio;
mod scene;
pub mod schedule;
mod shrink;
mod states;
mod story;
mod trace;
mod words;
mod world;

pub use account::{Invariant, Violation};
pub use shrink::shrink;
pub use states::{State, States};
pub use trace::Words;
pub use world::{Outcome, World};

use schedule::Schedule;

/// Runs a schedule to its end. A panic of a role is a broken promise like others, in whichever task.
pub fn run(schedule: &Schedule, words: Words) -> Outcome {
    let watch = panics::Watch::begin();
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run_through(schedule, words)));
    let mut outcome = ran.unwrap_or_default();
    if let Some(panic) = watch.first() {
        outcome.violations.insert(0, Violation { invariant: Invariant::NoPanic, detail: panic, at_ms: 0 });
    }
    outcome
}

fn run_through(schedule: &Schedule, words: Words) -> Outcome {
    let mut world = World::new(schedule.seed, schedule.setting.clone(), words);
    let mut last_ms = 0;
    for timed in &schedule.actions {
        world.plan(timed.at_ms, timed.number, timed.action.clone());
        last_ms = last_ms.max(timed.at_ms);
    }
    world.run_ms(last_ms + 1);
    world.finish()
}
