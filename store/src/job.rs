//! Writes other than the journal's: they take turns with it, several in one transaction.

use tokio::sync::oneshot;

use crate::StoreError;

/// One write that waits for its turn. How it runs is the engine's matter: inside a transaction it must not end, where an error takes back
/// what it did and leaves its neighbours alone.
pub(crate) trait Job: Send {
    /// Tells the caller: its own answer after a commit, `Err` when the transaction was lost.
    fn finish(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// The work of a job, what came of it, and who waits for that.
pub(crate) struct Work<T, W> {
    work: Option<W>,
    value: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W> Work<T, W> {
    /// Work to be done, with the receiver of its answer.
    pub(crate) fn new(work: W) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (answer, receiver) = oneshot::channel();
        (Self { work: Some(work), value: None, answer }, receiver)
    }

    /// The work itself, once.
    pub(crate) fn take(&mut self) -> Result<W, StoreError> {
        self.work.take().ok_or(StoreError::Closed)
    }

    /// Keeps what came of it until the transaction has ended.
    pub(crate) fn keep(&mut self, value: Result<T, StoreError>) -> Result<(), StoreError> {
        let outcome = value.as_ref().map(drop).map_err(Clone::clone);
        self.value = Some(value);
        outcome
    }
}

impl<T, W> Job for Work<T, W>
where
    T: Send,
    W: Send,
{
    fn finish(self: Box<Self>, outcome: Result<(), StoreError>) {
        let answer = match (outcome, self.value) {
            // Its own refusal says more than the loss of the transaction.
            (_, Some(Err(error))) | (Err(error), _) => Err(error),
            (Ok(()), Some(Ok(value))) => Ok(value),
            (Ok(()), None) => Err(StoreError::Closed),
        };
        // Whoever asked may have gone away; what was committed stays.
        let _ = self.answer.send(answer);
    }
}
