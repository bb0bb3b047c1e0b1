//! Writes other than the journal's: closures that take a turn on the writer's connection.

use std::future::Future;
use std::pin::Pin;

use sqlx::SqliteConnection;
use tokio::sync::oneshot;

use crate::StoreError;

/// A boxed future that borrows the connection.
pub(crate) type Fut<'c, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'c>>;

/// One write. It runs inside a transaction it must not end; an error takes back what it did and leaves its neighbours alone.
pub(crate) trait Job: Send {
    /// Runs it and keeps what it answered.
    fn run<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> Fut<'c, ()>;
    /// Tells the caller: its own answer after a commit, `Err` when the transaction was lost.
    fn finish(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// Boxes a closure as a job, with the receiver of its answer.
pub(crate) fn job<T, F>(work: F) -> (Box<dyn Job>, oneshot::Receiver<Result<T, StoreError>>)
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> Fut<'c, T> + Send + 'static,
{
    let (answer, receiver) = oneshot::channel();
    (Box::new(TypedJob { work: Some(work), value: None, answer }), receiver)
}

struct TypedJob<T, F> {
    work: Option<F>,
    value: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Job for TypedJob<T, F>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> Fut<'c, T> + Send + 'static,
{
    fn run<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> Fut<'c, ()> {
        Box::pin(async move {
            let Some(work) = self.work.take() else {
                return Err(StoreError::Closed);
            };
            match work(connection).await {
                Ok(value) => {
                    self.value = Some(Ok(value));
                    Ok(())
                }
                Err(error) => {
                    self.value = Some(Err(error.clone()));
                    Err(error)
                }
            }
        })
    }

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
