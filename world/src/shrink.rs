//! From a schedule that fails to the smallest one that fails in the same way.

use crate::schedule::{Schedule, Timed};
use crate::{Invariant, Words, run};

/// Leaves out whatever the failure does not need; at most so many runs are spent on it.
pub fn shrink(schedule: &Schedule, broken: Invariant, runs_max: usize) -> Schedule {
    let mut best = schedule.clone();
    let mut runs = 0;
    let mut still_fails = |candidate: &Schedule| {
        runs += 1;
        runs <= runs_max && run(candidate, Words::HashOnly).violations.iter().any(|v| v.invariant == broken)
    };
    // First the weather, then the actions in ever smaller pieces.
    for quieten in QUIETER {
        let mut candidate = best.clone();
        quieten(&mut candidate);
        if still_fails(&candidate) {
            best = candidate;
        }
    }
    let mut piece = best.actions.len().div_ceil(2);
    while piece > 0 && !best.actions.is_empty() {
        let mut from = 0;
        let mut left_out = false;
        while from < best.actions.len() {
            let candidate = without(&best, from, piece);
            if still_fails(&candidate) {
                best = candidate;
                left_out = true;
            } else {
                from += piece;
            }
        }
        if !left_out {
            piece /= 2;
        }
        piece = piece.min(best.actions.len());
    }
    best
}

type Quieten = fn(&mut Schedule);

const QUIETER: [Quieten; 7] = [
    |schedule| schedule.setting.lost = 0,
    |schedule| schedule.setting.twice = 0,
    |schedule| schedule.setting.slow = 0,
    |schedule| schedule.setting.unheard = 0,
    |schedule| schedule.setting.refused = 0,
    |schedule| schedule.setting.consumers.truncate(1),
    |schedule| schedule.setting.retention_s = 7 * 24 * 3_600,
];

fn without(schedule: &Schedule, from: usize, count: usize) -> Schedule {
    let kept = |(index, _): &(usize, &Timed)| *index < from || *index >= from + count;
    let actions = schedule.actions.iter().enumerate().filter(kept).map(|(_, timed)| timed.clone()).collect();
    Schedule { actions, ..schedule.clone() }
}
