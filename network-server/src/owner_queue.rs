//! The way to an owner, and what it runs on: a thread, or a task of a simulated world.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError};
use mac::ids::DevEui;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use crate::budget::{OWNER_QUEUE_MAX, SHARDS};
use crate::owner::{Owner, OwnerMessage};

/// The bounded queue in front of one owner. Cheap to clone.
#[derive(Clone)]
pub(crate) struct OwnerQueue {
    messages: Sender<OwnerMessage>,
    /// Wakes an owner that is a task; a thread sleeps on the queue itself.
    bell: Option<Arc<Notify>>,
}

impl OwnerQueue {
    /// Starts an owner on a thread of its own.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn on_thread(owner: Owner, number: usize) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (messages, received) = crossbeam_channel::bounded(OWNER_QUEUE_MAX);
        let thread = std::thread::Builder::new().name(format!("owner-{number}"));
        let running = thread.spawn(move || owner.run(&received))?;
        Ok((Self { messages, bell: None }, running))
    }

    /// Starts an owner as a task, on the clock of the task's runtime.
    pub(crate) fn as_task(owner: Owner, tasks: &mut JoinSet<()>) -> Self {
        let (messages, received): (_, Receiver<OwnerMessage>) = crossbeam_channel::bounded(OWNER_QUEUE_MAX);
        let bell = Arc::new(Notify::new());
        let ringing = Arc::clone(&bell);
        tasks.spawn(async move { owner.run_as_task(&received, &ringing).await });
        Self { messages, bell: Some(bell) }
    }

    /// Messages that wait.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Hands over a message, or gives it back at once.
    pub(crate) fn try_send(&self, message: OwnerMessage) -> Result<(), TrySendError<OwnerMessage>> {
        self.messages.try_send(message)?;
        self.ring();
        Ok(())
    }

    /// Hands over a message, waiting at most so long for room. Blocks the thread.
    pub(crate) fn send_timeout(
        &self,
        message: OwnerMessage,
        timeout: Duration,
    ) -> Result<(), SendTimeoutError<OwnerMessage>> {
        self.messages.send_timeout(message, timeout)?;
        self.ring();
        Ok(())
    }

    fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.notify_one();
        }
    }
}

/// Which of `owners` owner threads a device belongs to.
pub(crate) fn owner_of(dev_eui: DevEui, owners: usize) -> usize {
    // Fibonacci hashing: EUIs of one maker differ in their low bits only.
    let shard = dev_eui.value().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    usize::try_from(shard % SHARDS).unwrap_or(0).checked_rem(owners).unwrap_or(0)
}

/// Runs something on the owner of a device, in turn with its frames; `None`: the owner is gone, or overloaded for seconds.
pub(crate) async fn run_on_owner<T: Send + 'static>(
    owners: &[OwnerQueue],
    dev_eui: DevEui,
    work: impl FnOnce(&mut Owner) -> T + Send + 'static,
) -> Option<T> {
    run_on(owners.get(owner_of(dev_eui, owners.len()))?, work).await
}

/// Like [`run_on_owner`], on this owner.
pub(crate) async fn run_on<T: Send + 'static>(
    owner: &OwnerQueue,
    work: impl FnOnce(&mut Owner) -> T + Send + 'static,
) -> Option<T> {
    let (answer, wait) = oneshot::channel();
    let mut message = OwnerMessage::Run(Box::new(move |owner: &mut Owner| {
        // Whoever asked may have gone away.
        let _ = answer.send(work(owner));
    }));
    for _ in 0..OWNER_TRIES {
        match owner.try_send(message) {
            Ok(()) => return tokio::time::timeout(OWNER_ANSWER, wait).await.ok()?.ok(),
            Err(TrySendError::Disconnected(_)) => return None,
            Err(TrySendError::Full(back)) => message = back,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    None
}

/// An owner that waits for the disk answers late; whoever asked should not wait for ever.
const OWNER_ANSWER: Duration = Duration::from_secs(5);
/// A full queue of an owner is gone in milliseconds, or the machine is overloaded.
const OWNER_TRIES: u32 = 2_000;
