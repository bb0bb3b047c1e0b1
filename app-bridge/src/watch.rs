//! One watcher: reads pages while it is behind, takes from the shared head when it is there.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use prost::Message;
use proto::v1;
use seam::{Bug, planted};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::cursor;
use crate::decode::{Chunk, Decoder};
use crate::filter::Filter;
use crate::head::{Head, Next, Seat};
use crate::log::Log;
use crate::metrics::Metrics;

/// Records of one page read by a watcher that is behind.
const PAGE_RECORDS: u32 = 128;
/// Batches under way to a client. A slow one holds this much memory and no more.
const BATCHES_MAX: usize = 2;
/// Messages handed over together at most.
const BATCH_MESSAGES_MAX: usize = 128;
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// What all watchers share.
pub(crate) struct Streams {
    pub(crate) log: Arc<Log>,
    pub(crate) head: Arc<Head>,
    pub(crate) decoder: Arc<Decoder>,
    pub(crate) metrics: Arc<Metrics>,
    /// Silence after which a heartbeat is sent.
    pub(crate) heartbeat_period: Duration,
    pub(crate) stop: CancellationToken,
}

impl Streams {
    /// Starts a stream after `position`. `guard` is dropped when the stream has ended, on either side.
    pub(crate) fn watch<G: Send + 'static>(
        self: &Arc<Self>,
        position: u64,
        filter: Filter,
        guard: G,
    ) -> EncodedStream {
        let (batches, receiver) = mpsc::channel(BATCHES_MAX);
        let outlet = Outlet {
            batches,
            silent_since: Instant::now(),
            heartbeat_period: self.heartbeat_period,
            stop: self.stop.clone(),
        };
        let watcher = Watcher { streams: Arc::clone(self), filter, position, outlet };
        tokio::spawn(async move {
            watcher.run().await;
            drop(guard);
        });
        EncodedStream { receiver, batch: Vec::new().into_iter() }
    }
}

/// Messages of a watch, encoded.
pub(crate) struct EncodedStream {
    receiver: mpsc::Receiver<Result<Vec<Bytes>, Status>>,
    batch: std::vec::IntoIter<Bytes>,
}

impl Stream for EncodedStream {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(message) = self.batch.next() {
                return Poll::Ready(Some(Ok(message)));
            }
            match std::task::ready!(self.receiver.poll_recv(context)) {
                Some(Ok(batch)) => self.batch = batch.into_iter(),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}

struct Watcher {
    streams: Arc<Streams>,
    filter: Filter,
    /// Everything up to here was delivered, filtered out, or reported as a gap.
    position: u64,
    outlet: Outlet,
}

/// Why a watcher ends.
enum End {
    ClientGone,
    Stopping,
}

impl Watcher {
    async fn run(mut self) {
        let ended = self.deliver().await;
        if let Err(End::Stopping) = ended {
            let status = Status::unavailable("the server is stopping; watch again from the last cursor");
            // A client that reads nothing does not get the message; its connection is closed all the same.
            let _ = self.outlet.batches.try_send(Err(status));
        }
    }

    async fn deliver(&mut self) -> Result<(), End> {
        self.outlet.heartbeat(self.position).await?;
        loop {
            self.catch_up().await?;
            let seat = self.streams.head.join(self.position);
            self.stay_at_head(&seat).await?;
        }
    }

    /// Reads pages until the head of the log.
    async fn catch_up(&mut self) -> Result<(), End> {
        let streams = Arc::clone(&self.streams);
        loop {
            let reading = streams.log.read(self.position, PAGE_RECORDS, 0);
            let page = match self.outlet.patiently(self.position, reading).await? {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, position = self.position, "the event log cannot be read; a stream waits");
                    self.outlet.patiently(self.position, tokio::time::sleep(RETRY_PAUSE)).await?;
                    continue;
                }
            };
            let follows = page.records.first().map_or(page.earliest_seq, |(seq, _)| *seq);
            if follows > self.position.saturating_add(1) && planted(Bug::GapNotTold) {
                self.position = follows.saturating_sub(1);
                continue;
            }
            if follows > self.position.saturating_add(1) {
                self.report_gap(follows.saturating_sub(1)).await?;
                continue;
            }
            let Some(&(last_seq, _)) = page.records.last() else {
                return Ok(());
            };
            let decoding = streams.decoder.decode(self.position, &page.records, Some(&self.filter));
            match self.outlet.patiently(self.position, decoding).await? {
                Ok(chunk) => self.send(&chunk).await?,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        position = self.position,
                        "events cannot be decoded; a stream waits"
                    );
                    self.outlet.patiently(self.position, tokio::time::sleep(RETRY_PAUSE)).await?;
                    continue;
                }
            }
            if last_seq >= page.head_seq {
                return Ok(());
            }
        }
    }

    /// Follows the shared head until this watcher falls behind it.
    async fn stay_at_head(&mut self, _seat: &Seat) -> Result<(), End> {
        let head = Arc::clone(&self.streams.head);
        loop {
            let before = head.moved().position();
            match head.next(self.position) {
                Next::Behind if planted(Bug::SlowConsumerSkips) => {
                    self.position = self.streams.log.bounds_known().head;
                    return Ok(());
                }
                Next::Behind => return Ok(()),
                Next::Chunk(chunk) => self.send(&chunk).await?,
                Next::AtEnd => {
                    let moved = head.moved().wait_for(|count| count != before);
                    self.outlet.patiently(self.position, moved).await?;
                }
            }
        }
    }

    async fn report_gap(&mut self, to: u64) -> Result<(), End> {
        let from = self.position.saturating_add(1);
        let gap = v1::Gap { from, to, count: to.saturating_sub(self.position) };
        self.position = to;
        self.outlet.send_one(v1::watch_response::Item::Gap(gap), to).await
    }

    /// Sends what of a chunk is beyond the position and passes the filter.
    async fn send(&mut self, chunk: &Chunk) -> Result<(), End> {
        let open = self.filter.is_open();
        let start = chunk.entries.partition_point(|entry| entry.seq <= self.position);
        let mut wanted = chunk.entries.iter().skip(start).filter(|entry| {
            open || (self.filter.passes_record(entry.traits)
                && self.filter.passes_device(entry.device.as_deref()))
        });
        loop {
            let batch: Vec<Bytes> =
                wanted.by_ref().take(BATCH_MESSAGES_MAX).map(|entry| entry.message.clone()).collect();
            if batch.is_empty() {
                break;
            }
            self.streams.metrics.events_delivered.inc_by(batch.len() as u64);
            self.outlet.send(batch).await?;
        }
        self.position = chunk.last_seq;
        Ok(())
    }
}

/// The way to the client.
struct Outlet {
    batches: mpsc::Sender<Result<Vec<Bytes>, Status>>,
    silent_since: Instant,
    heartbeat_period: Duration,
    stop: CancellationToken,
}

impl Outlet {
    /// Waits for something while the client is told every now and then that the stream lives.
    async fn patiently<T>(&mut self, position: u64, work: impl Future<Output = T>) -> Result<T, End> {
        let mut work = pin!(work);
        loop {
            let quiet = self.heartbeat_period.saturating_sub(self.silent_since.elapsed());
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = self.batches.closed() => return Err(End::ClientGone),
                () = self.stop.cancelled() => return Err(End::Stopping),
                () = tokio::time::sleep(quiet) => {}
            }
            self.heartbeat(position).await?;
        }
    }

    async fn heartbeat(&mut self, position: u64) -> Result<(), End> {
        self.send_one(v1::watch_response::Item::Heartbeat(v1::Heartbeat {}), position).await
    }

    async fn send_one(&mut self, item: v1::watch_response::Item, position: u64) -> Result<(), End> {
        let response = v1::WatchResponse { item: Some(item), cursor: cursor::encode(position).to_vec() };
        self.send(vec![Bytes::from(response.encode_to_vec())]).await
    }

    async fn send(&mut self, batch: Vec<Bytes>) -> Result<(), End> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(End::Stopping),
            sent = self.batches.send(Ok(batch)) => {
                self.silent_since = Instant::now();
                sent.map_err(|_| End::ClientGone)
            }
        }
    }
}
