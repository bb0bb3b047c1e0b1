//! The head of the event log, and who waits for it to move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The last committed sequence.
///
/// It wakes whoever waits in the order in which they began to wait, which `tokio::sync::watch` does not promise: in a simulated world the
/// same seed has to give the same order.
#[derive(Debug)]
pub(crate) struct Head {
    seq: AtomicU64,
    moved: Notify,
}

impl Head {
    pub(crate) fn new(seq: u64) -> Arc<Self> {
        Arc::new(Self { seq: AtomicU64::new(seq), moved: Notify::new() })
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq.load(Ordering::Acquire)
    }

    pub(crate) fn move_to(&self, seq: u64) {
        self.seq.store(seq, Ordering::Release);
        self.moved.notify_waiters();
    }

    pub(crate) fn watch(self: &Arc<Self>) -> HeadWatch {
        HeadWatch { head: Arc::clone(self) }
    }
}

/// Follows the head of the event log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HeadWatch {
    head: Arc<Head>,
}

impl HeadWatch {
    /// The last committed sequence; 0: none.
    pub fn seq(&self) -> u64 {
        self.head.seq()
    }

    /// Waits until the head is as asked and tells it; at once when it is. It does not end by itself when the store closes: give it a
    /// deadline.
    pub async fn wait_for(&mut self, mut holds: impl FnMut(&u64) -> bool) -> u64 {
        loop {
            // Before the look, so that no move falls in between.
            let moved = self.head.moved.notified();
            let seq = self.seq();
            if holds(&seq) {
                return seq;
            }
            moved.await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use parking_lot::Mutex;

    #[tokio::test]
    async fn one_move_wakes_everyone_in_the_order_in_which_they_began_to_wait() {
        let head = Head::new(4);
        let (waiting, woken) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let waiters: Vec<_> = (0..100)
            .map(|n| {
                let (mut watch, waiting, woken) = (head.watch(), Arc::clone(&waiting), Arc::clone(&woken));
                tokio::spawn(async move {
                    waiting.lock().push(n);
                    let seq = watch.wait_for(|seq| *seq > 4).await;
                    woken.lock().push((n, seq));
                })
            })
            .collect();
        while waiting.lock().len() < 100 {
            tokio::task::yield_now().await;
        }
        assert!(woken.lock().is_empty());

        head.move_to(5);

        let all = async {
            for waiter in waiters {
                waiter.await.unwrap();
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), all).await.unwrap();
        let expected: Vec<_> = waiting.lock().iter().map(|n| (*n, 5)).collect();
        assert_eq!(*woken.lock(), expected);
        assert_eq!(head.watch().wait_for(|seq| *seq > 4).await, 5, "at once when it is so");
    }
}
