//! Table writes: closures that take a turn on the disk.

use tokio::sync::oneshot;

use super::disk::Contents;
use crate::StoreError;
use crate::job::{Job, Work};

/// A job on the disk.
pub(super) trait MemoryJob: Job {
    /// Runs it and keeps what it answered. One that is refused has changed nothing, since nobody can take it back.
    fn run(&mut self, contents: &mut Contents);
}

/// Boxes a closure as a job, with the receiver of its answer.
pub(super) fn job<T, W>(work: W) -> (Box<dyn MemoryJob>, oneshot::Receiver<Result<T, StoreError>>)
where
    T: Send + 'static,
    W: FnOnce(&mut Contents) -> Result<T, StoreError> + Send + 'static,
{
    let (work, answer) = Work::new(work);
    (Box::new(work), answer)
}

impl<T, W> MemoryJob for Work<T, W>
where
    T: Send,
    W: FnOnce(&mut Contents) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, contents: &mut Contents) {
        let value = self.take().and_then(|work| work(contents));
        // The caller is told when the transaction has ended; its neighbours need not know.
        let _ = self.keep(value);
    }
}
