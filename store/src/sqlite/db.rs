//! Access for the tables: reads on a small pool, writes in turns with the journal.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::sqlite::{SqliteArguments, SqlitePoolOptions, SqliteRow};
use sqlx::{Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::oneshot;

use super::job::{Fut, job};
use super::open::{self, Database};
use super::writer::WriterHandle;
use crate::journal::{Submission, TrySubmitError};
use crate::shared::Shared;
use crate::{StoreError, StoreOptions};

/// One statement with what is bound to it.
pub(crate) type Query = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

/// Cheap to clone. The writer ends when the last one is gone.
#[derive(Clone)]
pub(crate) struct Db {
    pub(crate) writer: Arc<WriterHandle>,
    /// `None` for a database in memory, which has one connection.
    readers: Option<SqlitePool>,
    /// `None` in memory.
    pub(crate) directory: Option<PathBuf>,
}

/// Keeps the writer from nothing.
pub(crate) struct WeakDb {
    writer: Weak<WriterHandle>,
    readers: Option<SqlitePool>,
    directory: Option<PathBuf>,
}

/// The network server's tables.
pub(crate) struct Network<'a> {
    pub(super) db: &'a Db,
}

/// The join server's tables.
pub(crate) struct Join<'a> {
    pub(super) db: &'a Db,
}

/// The app-bridge's tables.
pub(crate) struct Bridge<'a> {
    pub(super) db: &'a Db,
}

impl Db {
    pub(crate) fn start(
        database: Database,
        directory: Option<&Path>,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        let readers = directory.map(|directory| {
            SqlitePoolOptions::new()
                .max_connections(READERS)
                .idle_timeout(Duration::from_secs(60))
                .max_lifetime(None)
                .test_before_acquire(false)
                .connect_lazy_with(open::reader_options(directory))
        });
        let writer = Arc::new(WriterHandle::start(database, options)?);
        Ok(Self { writer, readers, directory: directory.map(Path::to_owned) })
    }

    /// Finishes what was taken and ends everything; waits for it.
    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        if let Some(readers) = &self.readers {
            readers.close().await;
        }
        let writer = Arc::clone(&self.writer);
        let closed = tokio::task::spawn_blocking(move || writer.close_blocking());
        closed.await.map_err(|_| StoreError::Closed)?
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.writer.shared
    }

    pub(crate) fn try_submit(&self, submission: Submission) -> Result<(), TrySubmitError> {
        self.writer.queue.try_push(submission)
    }

    pub(crate) fn submit_blocking(&self, submission: Submission) -> Result<(), StoreError> {
        self.writer.queue.push_blocking(submission)
    }

    pub(crate) async fn submit(&self, submission: Submission) -> Result<(), StoreError> {
        self.writer.queue.push(submission).await
    }

    pub(crate) fn queued(&self) -> usize {
        self.writer.queue.len()
    }

    /// Waits for what the writer answers.
    pub(crate) async fn answer<T>(&self, answer: oneshot::Receiver<T>) -> Result<T, StoreError> {
        answer.await.map_err(|_| StoreError::Closed)
    }

    pub(crate) fn network(&self) -> Network<'_> {
        Network { db: self }
    }

    pub(crate) fn join(&self) -> Join<'_> {
        Join { db: self }
    }

    pub(crate) fn bridge(&self) -> Bridge<'_> {
        Bridge { db: self }
    }

    pub(crate) fn downgrade(&self) -> WeakDb {
        let (readers, directory) = (self.readers.clone(), self.directory.clone());
        WeakDb { writer: Arc::downgrade(&self.writer), readers, directory }
    }

    /// Runs a write in a transaction it shares with others; returns after the commit.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> Fut<'c, T> + Send + 'static,
    {
        let (job, answer) = job(work);
        self.writer.queue.push_job(job).await?;
        self.answer(answer).await?
    }

    /// Runs a read. It sees what was committed before it began.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> Fut<'c, T> + Send + 'static,
    {
        match &self.readers {
            Some(pool) => {
                let mut connection = pool.acquire().await.map_err(|error| {
                    if matches!(error, sqlx::Error::PoolClosed) {
                        return StoreError::Closed;
                    }
                    StoreError::sql("open for reading")(error)
                })?;
                work(&mut connection).await
            }
            None => self.write(work).await,
        }
    }

    /// Runs one write; tells how many rows changed.
    pub(crate) async fn execute(&self, doing: &'static str, query: Query) -> Result<u64, StoreError> {
        let done = self.write(move |connection| {
            Box::pin(async move { query.execute(connection).await.map_err(StoreError::sql(doing)) })
        });
        Ok(done.await?.rows_affected())
    }

    /// Reads rows; the statement bounds how many.
    pub(crate) async fn fetch_all(
        &self,
        doing: &'static str,
        query: Query,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        self.read(move |connection| {
            Box::pin(async move { query.fetch_all(connection).await.map_err(StoreError::sql(doing)) })
        })
        .await
    }

    /// Reads a row by its key.
    pub(crate) async fn fetch_optional(
        &self,
        doing: &'static str,
        query: Query,
    ) -> Result<Option<SqliteRow>, StoreError> {
        self.read(move |connection| {
            Box::pin(async move { query.fetch_optional(connection).await.map_err(StoreError::sql(doing)) })
        })
        .await
    }
}

impl WeakDb {
    pub(crate) fn upgrade(&self) -> Option<Db> {
        let writer = self.writer.upgrade()?;
        Some(Db { writer, readers: self.readers.clone(), directory: self.directory.clone() })
    }

    pub(crate) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }
}

const READERS: u32 = 4;
