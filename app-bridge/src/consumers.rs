//! Named consumers and their positions.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use proto::v1;
use seam::{Bug, planted};
use store::BridgeTables;
use tonic::Status;

use crate::error::BridgeError;
use crate::log::{Bounds, Log};
use crate::metrics::Metrics;
use crate::{cursor, validate};

/// Consumers kept at most; each is a row and a metric.
const CONSUMERS_MAX: usize = 1_000;

/// The positions of consumers, held by the server.
pub(crate) struct Consumers {
    tables: BridgeTables,
    log: Arc<Log>,
    metrics: Arc<Metrics>,
    /// Open streams of each consumer.
    streams: Mutex<HashMap<String, u32>>,
}

impl Consumers {
    pub(crate) fn new(tables: BridgeTables, log: Arc<Log>, metrics: Arc<Metrics>) -> Self {
        Self { tables, log, metrics, streams: Mutex::default() }
    }

    /// The position a consumer has acknowledged; `None` for one that is not known.
    pub(crate) async fn position(&self, name: &str) -> Result<Option<u64>, Status> {
        let row = self.tables.consumer(name).await.map_err(BridgeError::from)?;
        Ok(row.map(|row| row.position))
    }

    /// Remembers a new consumer at the position its first stream starts from.
    pub(crate) async fn introduce(&self, name: &str, position: u64) -> Result<(), Status> {
        self.refuse_too_many().await?;
        self.tables.acknowledge(name, position, NEVER).await.map_err(BridgeError::from)?;
        seam::crash_point("bridge.consumer.introduced");
        Ok(())
    }

    /// Moves a consumer's position, durably; never back, never beyond the head.
    pub(crate) async fn acknowledge(&self, name: &str, cursor: &[u8], at_us: i64) -> Result<(), Status> {
        validate::consumer("consumer", name)?;
        let position = cursor::decode(cursor).map_err(|error| validate::invalid("cursor", error))?;
        if position > self.log.bounds_known().head {
            let head = self.log.bounds().await?.head;
            if position > head {
                return Err(validate::invalid(
                    "cursor",
                    format!("points to event {position} and the last one is {head}; it is another server's"),
                ));
            }
        }
        // A consumer begins by watching. One that was deleted must not come back at the position its stream had.
        if self.position(name).await?.is_none() {
            return Err(unknown(name));
        }
        if planted(Bug::ConsumerPositionInMemory) {
            let (tables, name) = (self.tables.clone(), name.to_owned());
            tokio::spawn(async move { tables.acknowledge(&name, position, at_us).await });
            return Ok(());
        }
        self.tables.acknowledge(name, position, at_us).await.map_err(BridgeError::from)?;
        seam::crash_point("bridge.consumer.acknowledged");
        Ok(())
    }

    /// All consumers, with their lag.
    pub(crate) async fn list(&self) -> Result<v1::ListConsumersResponse, Status> {
        let Bounds { head, earliest } = self.log.bounds().await?;
        let rows = self.tables.consumers().await.map_err(BridgeError::from)?;
        let streams = self.streams.lock();
        let consumers = rows
            .into_iter()
            .map(|row| v1::list_consumers_response::Consumer {
                cursor: cursor::encode(row.position).to_vec(),
                position: row.position,
                lag: head.saturating_sub(row.position),
                acknowledged_at_us: row.acknowledged_at_us,
                streams: streams.get(&row.name).copied().unwrap_or_default(),
                name: row.name,
            })
            .collect();
        Ok(v1::ListConsumersResponse { consumers, head, earliest })
    }

    /// Forgets a consumer.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), Status> {
        validate::consumer("name", name)?;
        if !self.tables.delete_consumer(name).await.map_err(BridgeError::from)? {
            return Err(unknown(name));
        }
        self.metrics.consumer_lag.remove(&label(name));
        Ok(())
    }

    /// Brings the lag metrics up to date.
    pub(crate) async fn measure(&self) -> Result<(), BridgeError> {
        let head = self.log.bounds_known().head;
        for row in self.tables.consumers().await? {
            let lag = i64::try_from(head.saturating_sub(row.position)).unwrap_or(i64::MAX);
            self.metrics.consumer_lag.get_or_create(&label(&row.name)).set(lag);
        }
        Ok(())
    }

    /// Counts a stream of a consumer while the guard lives.
    pub(crate) fn stream_opened(self: &Arc<Self>, name: &str) -> StreamOfConsumer {
        let mut streams = self.streams.lock();
        let count = streams.entry(name.to_owned()).or_default();
        *count = count.saturating_add(1);
        StreamOfConsumer { consumers: Arc::clone(self), name: name.to_owned() }
    }

    async fn refuse_too_many(&self) -> Result<(), Status> {
        let count = self.tables.consumers().await.map_err(BridgeError::from)?.len();
        if count >= CONSUMERS_MAX {
            return Err(Status::resource_exhausted(format!(
                "there are {count} consumers, the most that are kept; delete those nobody uses"
            )));
        }
        Ok(())
    }
}

/// A stream that is open.
pub(crate) struct StreamOfConsumer {
    consumers: Arc<Consumers>,
    name: String,
}

impl Drop for StreamOfConsumer {
    fn drop(&mut self) {
        let mut streams = self.consumers.streams.lock();
        if let Some(count) = streams.get_mut(&self.name) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                streams.remove(&self.name);
            }
        }
    }
}

fn unknown(name: &str) -> Status {
    Status::not_found(format!("there is no consumer {name}; it begins with a Watch that names it"))
}

fn label(name: &str) -> Vec<(String, String)> {
    vec![("consumer".to_owned(), name.to_owned())]
}

/// The time of a consumer that has acknowledged nothing yet.
const NEVER: i64 = 0;
