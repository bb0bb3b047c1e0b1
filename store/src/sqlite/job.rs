//! Table writes: closures that take a turn on the writer's connection.

use std::future::Future;
use std::pin::Pin;

use sqlx::SqliteConnection;
use tokio::sync::oneshot;

use crate::StoreError;
use crate::job::{Job, Work};

/// A boxed future that borrows the connection.
pub(crate) type Fut<'c, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'c>>;

/// A job on the connection.
pub(crate) trait SqliteJob: Job {
    /// Runs it and keeps what it answered.
    fn run<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> Fut<'c, ()>;
}

/// Boxes a closure as a job, with the receiver of its answer.
pub(crate) fn job<T, F>(work: F) -> (Box<dyn SqliteJob>, oneshot::Receiver<Result<T, StoreError>>)
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> Fut<'c, T> + Send + 'static,
{
    let (work, answer) = Work::new(work);
    (Box::new(work), answer)
}

impl<T, F> SqliteJob for Work<T, F>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> Fut<'c, T> + Send + 'static,
{
    fn run<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> Fut<'c, ()> {
        Box::pin(async move {
            let work = self.take()?;
            let value = work(connection).await;
            self.keep(value)
        })
    }
}
