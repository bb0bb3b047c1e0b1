//! Access for the tables: reads on a small pool, writes in turns with the journal.

use std::sync::Arc;

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Sqlite, SqliteConnection, SqlitePool};

use crate::StoreError;
use crate::job::{Fut, job};
use crate::writer::WriterHandle;

/// One statement with what is bound to it.
pub(crate) type Query = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

/// Cheap to clone. The writer ends when the last one is gone.
#[derive(Clone)]
pub(crate) struct Db {
    pub(crate) writer: Arc<WriterHandle>,
    /// `None` for a database in memory, which has one connection.
    pub(crate) readers: Option<SqlitePool>,
}

impl Db {
    /// Runs a write in a transaction it shares with others; returns after the commit.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> Fut<'c, T> + Send + 'static,
    {
        let (job, answer) = job(work);
        self.writer.queue().push_job(job).await?;
        answer.await.map_err(|_| StoreError::Closed)?
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
