//! One consumer of the event stream, on a thread and a runtime of its own, as a business system would be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use proto::v1;
use proto::v1::event_service_client::EventServiceClient;
use proto::v1::watch_response::Item;
use tokio::sync::oneshot;
use tonic::transport::Endpoint;
use tonic::{Request, Streaming};

use super::server::Server;
use super::{machine, now_us, wait_until_still};

/// What an event is to a measurement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// The event of that frame; `whole` when everything that belongs into it is there.
    Expected { index: usize, whole: bool },
    /// Nothing that was sent.
    Foreign,
}

/// Tells what an event is.
pub(crate) type Judge = Box<dyn Fn(&v1::Event) -> Verdict + Send>;

/// What has arrived; it rises while the stream runs.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// When each frame's event arrived first; 0: not yet.
    pub(crate) arrived_us: Vec<AtomicU64>,
    /// Frames whose event arrived.
    pub(crate) unique: AtomicU64,
    /// Events that arrived again.
    pub(crate) duplicates: AtomicU64,
    /// Events in which something was missing, such as the decoded object.
    pub(crate) broken: AtomicU64,
    /// Events of nothing that was sent.
    pub(crate) foreign: AtomicU64,
}

/// An open stream.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) delivery: Arc<Delivery>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<u64>>,
}

impl Consumer {
    /// Opens a stream of events of one kind from now on, and waits until it is open, so that nothing after this call is missed.
    pub(crate) fn open(server: &Server, kind: v1::EventKind, frames: usize, judge: Judge) -> Result<Self> {
        let delivery = Arc::new(Delivery {
            arrived_us: (0..frames).map(|_| AtomicU64::new(0)).collect(),
            unique: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let (opened, is_open) = std::sync::mpsc::channel();
        let reader =
            Reader { api: server.api, key: server.key()?, kind, delivery: Arc::clone(&delivery), judge };
        let thread = std::thread::Builder::new().name("consumer".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(reader.run(&opened, stopped))
        })?;
        if is_open.recv_timeout(OPEN_DEADLINE).is_err() {
            drop(stop);
            return match thread.join() {
                Ok(Err(error)) => Err(error.context("the event stream cannot be opened")),
                Ok(Ok(_)) | Err(_) => bail!("the event stream sent nothing within {OPEN_DEADLINE:?}"),
            };
        }
        Ok(Self { delivery, stop, thread })
    }

    /// Waits until every frame's event is there, or nothing has come for `quiet`, and then a moment for events that must not come.
    pub(crate) fn wait(&self, quiet: Duration) {
        let frames = self.delivery.arrived_us.len() as u64;
        wait_until_still(&self.delivery.unique, frames, quiet);
        std::thread::sleep(AFTERMATH);
    }

    /// Ends the stream; returns what came and the processor time of the reading thread in microseconds.
    pub(crate) fn close(self) -> Result<(Arc<Delivery>, u64)> {
        // It has ended by itself when the server closed the stream; the error is found below.
        let _ = self.stop.send(());
        match self.thread.join() {
            Ok(cpu_us) => Ok((self.delivery, cpu_us.context("the event stream broke")?)),
            Err(_) => bail!("the consumer's thread panicked"),
        }
    }
}

struct Reader {
    api: SocketAddr,
    key: String,
    kind: v1::EventKind,
    delivery: Arc<Delivery>,
    judge: Judge,
}

impl Reader {
    async fn run(
        self,
        opened: &std::sync::mpsc::Sender<()>,
        mut stopped: oneshot::Receiver<()>,
    ) -> Result<u64> {
        let cpu_before_us = machine::thread_cpu_us();
        let mut stream = tokio::time::timeout(OPEN_DEADLINE, self.watch()).await.context("no answer")??;
        // Whoever waits has given up when this fails, and then it is stopped as well.
        let _ = opened.send(());
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => return Ok(machine::thread_cpu_us() - cpu_before_us),
                message = stream.message() => match message?.context("the server closed it")?.item {
                    Some(Item::Event(event)) => self.take(&event),
                    Some(Item::Gap(gap)) => bail!("events are gone: {gap:?}"),
                    Some(Item::Heartbeat(_)) | None => {}
                },
            }
        }
    }

    /// Opens the stream and takes its first message, which carries no event.
    async fn watch(&self) -> Result<Streaming<v1::WatchResponse>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.api))?
            .initial_stream_window_size(WINDOW_LEN)
            .initial_connection_window_size(WINDOW_LEN)
            .tcp_nodelay(true);
        let mut client =
            EventServiceClient::new(endpoint.connect().await?).max_decoding_message_size(MESSAGE_LEN_MAX);
        let mut request = Request::new(v1::WatchRequest {
            start: Some(v1::watch_request::Start::Latest(true)),
            kinds: vec![self.kind.into()],
            ..v1::WatchRequest::default()
        });
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.key).parse()?);
        let mut stream = client.watch(request).await?.into_inner();
        let first = stream.message().await?.context("the server closed it")?;
        if let Some(Item::Event(event)) = first.item {
            self.take(&event);
        }
        Ok(stream)
    }

    fn take(&self, event: &v1::Event) {
        let add = |counter: &AtomicU64| counter.fetch_add(1, Ordering::AcqRel);
        let Verdict::Expected { index, whole } = (self.judge)(event) else {
            add(&self.delivery.foreign);
            return;
        };
        let Some(arrived_us) = self.delivery.arrived_us.get(index) else {
            add(&self.delivery.foreign);
            return;
        };
        if !whole {
            add(&self.delivery.broken);
        }
        if arrived_us.swap(now_us(), Ordering::AcqRel) == 0 {
            add(&self.delivery.unique);
        } else {
            add(&self.delivery.duplicates);
        }
    }
}

const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// In which an event that was delivered twice would show.
const AFTERMATH: Duration = Duration::from_millis(300);
const WINDOW_LEN: u32 = 4 << 20;
const MESSAGE_LEN_MAX: usize = 16 << 20;
