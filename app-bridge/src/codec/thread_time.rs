//! How much processor time a thread has had, told by itself and to others.

use std::path::{Path, PathBuf};

use nix::time::{ClockId, clock_gettime};

/// What the calling thread has had, nanoseconds.
pub(super) fn own_ns() -> u64 {
    // Without such a clock nothing could be limited: then every call counts as over.
    let Ok(time) = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID) else {
        return u64::MAX;
    };
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec()).unwrap_or(0))
}

/// A thread that others may ask about.
#[derive(Debug)]
pub(super) struct Watched {
    stat: Option<PathBuf>,
}

impl Watched {
    /// The calling thread.
    pub(super) fn myself() -> Self {
        // Something like `1234/task/5678`.
        let task = std::fs::read_link("/proc/thread-self").ok();
        Self { stat: task.map(|task| Path::new("/proc").join(task).join("stat")) }
    }

    /// What it has had, nanoseconds, to a hundredth of a second; `None` where the system does not tell.
    pub(super) fn ns(&self) -> Option<u64> {
        ticks(&std::fs::read_to_string(self.stat.as_ref()?).ok()?).map(|ticks| ticks.saturating_mul(NS_A_TICK))
    }
}

/// User and system time, the 14th and 15th field. The second one is a name in brackets that may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let [user, system]: [u64; 2] = [fields.next()?.parse().ok()?, fields.next()?.parse().ok()?];
    user.checked_add(system)
}

/// Linux counts in hundredths of a second for whoever reads `/proc`.
const NS_A_TICK: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_fields_are_counted_behind_the_name() {
        let line = "5678 (co) d)c) R 1 1 1 0 -1 4194304 120 0 0 0 250 7 0 0 20 0 9 0 77 1 2";
        assert_eq!(ticks(line), Some(257));
        assert_eq!(ticks("5678 (codec) R 1 1"), None);
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn a_thread_that_works_has_had_time_and_others_see_it() {
        let (watched, told) = std::sync::mpsc::channel();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let worker = std::thread::spawn(move || {
            watched.send(Watched::myself()).unwrap();
            while own_ns() < 100_000_000 {
                std::hint::spin_loop();
            }
            watched.send(Watched::myself()).unwrap();
            wait.recv().unwrap();
        });
        let thread = told.recv().unwrap();
        told.recv().unwrap();
        if cfg!(target_os = "linux") {
            assert!((80_000_000..1_000_000_000).contains(&thread.ns().unwrap()), "{:?}", thread.ns());
        }
        go_on.send(()).unwrap();
        worker.join().unwrap();
    }
}
