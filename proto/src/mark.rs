//! A position that moves, and who waits for it to move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// A position in a log. Clones are the same one.
///
/// It wakes whoever waits in the order in which they began to wait, which `tokio::sync::watch` does not promise: in a simulated world
/// the same seed has to give the same order.
#[derive(Clone, Debug)]
pub struct Mark {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    position: AtomicU64,
    moved: Notify,
}

impl Mark {
    /// A mark at a position.
    pub fn at(position: u64) -> Self {
        Self { inner: Arc::new(Inner { position: AtomicU64::new(position), moved: Notify::new() }) }
    }

    /// Where it stands.
    pub fn position(&self) -> u64 {
        self.inner.position.load(Ordering::Acquire)
    }

    /// Moves it and wakes whoever waits.
    pub fn move_to(&self, position: u64) {
        self.inner.position.store(position, Ordering::Release);
        self.inner.moved.notify_waiters();
    }

    /// Waits until the position is as asked and tells it; at once when it is. It does not end by itself: give it a deadline.
    pub async fn wait_for(&self, mut holds: impl FnMut(u64) -> bool) -> u64 {
        loop {
            // Before the look, so that no move falls in between.
            let moved = self.inner.moved.notified();
            let position = self.position();
            if holds(position) {
                return position;
            }
            moved.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_wakes_in_order_and_a_position_that_is_reached_is_not_waited_for() {
        let mark = Mark::at(3);
        assert_eq!(mark.wait_for(|position| position >= 3).await, 3);
        let (told, mut heard) = tokio::sync::mpsc::channel(8);
        for number in 0..8 {
            let (mark, told) = (mark.clone(), told.clone());
            tokio::spawn(async move {
                mark.wait_for(|position| position > 3).await;
                told.send(number).await
            });
        }
        // Each has begun to wait.
        tokio::task::yield_now().await;
        mark.move_to(4);
        for number in 0..8 {
            assert_eq!(heard.recv().await, Some(number));
        }
    }
}
