//! The sockets: datagrams in batches in and out, acknowledged before they are read.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mac::drop_reason::DropReason;
use mac::ids::GatewayEui;
use mac::units::{Mono, Timestamp};
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};

use super::batch::{Batch, Replies, Reply, Sent};
use super::gwmp::{Header, PacketKind};
use super::limit::{Bucket, RateLimit};
use super::push_data::{self, Part};
use super::registry::{Effects, Gateways, Packet, TxDone};
use super::rxpk::{self, Arrival};
use super::{GatewayEvent, GatewayUplink, Ingress, TxOutcome, TxRequest, tx_ack};

/// Where and how datagrams are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UdpConfig {
    /// Address and port; `[::]` takes IPv4 too, port 0 any free one.
    pub bind: SocketAddr,
    /// The kernel's buffer for each socket, in bytes. It must hold what arrives while the server is busy.
    pub receive_buffer_bytes: usize,
    /// Receiver threads, each with a socket of its own; at least 1.
    pub threads: usize,
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self { bind: SocketAddr::from(([0, 0, 0, 0], 1700)), receive_buffer_bytes: 4 << 20, threads: 1 }
    }
}

/// Why the gateways' port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Another program has the port.
    #[error("udp {bind} is in use: stop the other server or packet forwarder, or choose another port")]
    InUse {
        /// The address asked for.
        bind: SocketAddr,
    },
    /// The system refused.
    #[error("cannot listen on udp {bind}")]
    Socket {
        /// The address asked for.
        bind: SocketAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// Reads the monotonic clock and the wall clock.
pub type Clock = Arc<dyn Fn() -> (Mono, Timestamp) + Send + Sync>;

/// Opens the port and takes datagrams until [`UdpServer::stop`].
pub fn start(
    config: UdpConfig,
    gateways: Arc<Gateways>,
    ingress: Arc<dyn Ingress>,
    clock: Clock,
) -> Result<UdpServer, GatewayError> {
    let failed = |source| GatewayError::Socket { bind: config.bind, source };
    let sockets = open(config).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            GatewayError::InUse { bind: config.bind }
        } else {
            failed(source)
        }
    })?;
    let first = sockets.first().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let sender = first.try_clone().map_err(failed)?;
    let server = UdpServer {
        local_addr: first.local_addr().map_err(failed)?,
        sender,
        stopping: Arc::new(AtomicBool::new(false)),
        threads: Mutex::new(Vec::with_capacity(sockets.len())),
        counters: Arc::new(Counters::default()),
        gateways,
        clock,
    };
    server.gateways.lock().open();
    for (index, socket) in sockets.into_iter().enumerate() {
        let mut receiver = Receiver {
            runs_timers: index == 0,
            clock: Arc::clone(&server.clock),
            counters: Arc::clone(&server.counters),
            stopping: Arc::clone(&server.stopping),
            ..Receiver::new(Arc::clone(&server.gateways), Arc::clone(&ingress))
        };
        // An error on the way drops `server`, which stops the threads that run already.
        let thread = std::thread::Builder::new()
            .name(format!("gateways-{index}"))
            .spawn(move || receiver.run(&socket))
            .map_err(failed)?;
        server.threads.lock().push(thread);
    }
    Ok(server)
}

/// The running receiver threads and the way back to the gateways.
pub struct UdpServer {
    local_addr: SocketAddr,
    sender: UdpSocket,
    stopping: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    counters: Arc<Counters>,
    gateways: Arc<Gateways>,
    clock: Clock,
}

impl UdpServer {
    /// The address that was opened; tells the port where port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What passed the sockets since the start.
    pub fn counters(&self) -> UdpCounters {
        self.counters.snapshot()
    }

    /// Asks a gateway to send a frame. `done` is called exactly once, from this thread or a receiver's; it must not
    /// block.
    pub fn send(&self, request: &TxRequest, done: Box<dyn FnOnce(TxOutcome) + Send>) {
        let (now, _) = (self.clock)();
        let begun = self.gateways.lock().begin_tx(request, done, now, seam::random);
        let outgoing = match begun {
            Ok(outgoing) => outgoing,
            Err((done, outcome)) => return done(outcome),
        };
        match self.sender.send_to(&outgoing.datagram, outgoing.address) {
            Ok(_) => {
                Counters::add(&self.counters.pull_resp_sent, 1);
                if let Some(done) = outgoing.unconfirmed {
                    done(TxOutcome::SentUnconfirmed);
                }
            }
            Err(error) => {
                let waiting: Option<TxDone> = self.gateways.lock().abandon_tx(request.gateway, outgoing.token);
                if let Some(done) = outgoing.unconfirmed.or(waiting) {
                    let detail = format!("{} cannot be sent to: {error}", outgoing.address);
                    done(TxOutcome::SendFailed { detail });
                }
            }
        }
    }

    /// Ends the receiver threads and then every downlink without an answer, with [`TxOutcome::NoAnswer`]. What was
    /// taken from the sockets before is delivered. Calling it again does nothing.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a receiver thread of the gateways' port panicked");
            }
        }
        let mut effects = Effects::default();
        self.gateways.lock().close(&mut effects);
        effects.run_outcomes();
    }
}

impl fmt::Debug for UdpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpServer").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What passed the sockets since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct UdpCounters {
    /// Datagrams taken from the sockets, of any kind.
    pub datagrams: u64,
    /// PUSH_ACK and PULL_ACK handed to the kernel.
    pub acknowledgements_sent: u64,
    /// PUSH_ACK not sent because the server was not ready or full.
    pub push_ack_withheld: u64,
    /// Acknowledgements that the kernel did not take.
    pub acknowledgements_failed: u64,
    /// PULL_RESP handed to the kernel.
    pub pull_resp_sent: u64,
}

#[derive(Debug, Default)]
struct Counters {
    datagrams: AtomicU64,
    acknowledgements_sent: AtomicU64,
    push_ack_withheld: AtomicU64,
    acknowledgements_failed: AtomicU64,
    pull_resp_sent: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    fn snapshot(&self) -> UdpCounters {
        UdpCounters {
            datagrams: self.datagrams.load(Ordering::Relaxed),
            acknowledgements_sent: self.acknowledgements_sent.load(Ordering::Relaxed),
            push_ack_withheld: self.push_ack_withheld.load(Ordering::Relaxed),
            acknowledgements_failed: self.acknowledgements_failed.load(Ordering::Relaxed),
            pull_resp_sent: self.pull_resp_sent.load(Ordering::Relaxed),
        }
    }
}

fn open(config: UdpConfig) -> io::Result<Vec<UdpSocket>> {
    let threads = config.threads.max(1);
    if threads == 1 {
        return Ok(vec![open_one(config.bind, PortUse::Alone, config.receive_buffer_bytes)?]);
    }
    // Sockets that share a port would also share it with another server's, and each get half of the gateways. One
    // that does not share finds out whether somebody is there.
    let bind = open_one(config.bind, PortUse::Alone, 0)?.local_addr()?;
    (0..threads).map(|_| open_one(bind, PortUse::Shared, config.receive_buffer_bytes)).collect()
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum PortUse {
    Alone,
    Shared,
}

fn open_one(bind: SocketAddr, port_use: PortUse, receive_buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, Some(Protocol::UDP))?;
    if bind.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if port_use == PortUse::Shared {
        setsockopt(&socket, sockopt::ReusePort, &true)?;
    }
    if receive_buffer_bytes > 0 {
        ask_for_buffer(&socket, receive_buffer_bytes)?;
    }
    socket.bind(&bind.into())?;
    socket.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(socket.into())
}

fn ask_for_buffer(socket: &Socket, asked_bytes: usize) -> io::Result<()> {
    // Beyond net.core.rmem_max only the administrator may go; anybody else is cut down without an error.
    if setsockopt(socket, sockopt::RcvBufForce, &asked_bytes).is_err() {
        socket.set_recv_buffer_size(asked_bytes)?;
    }
    // Linux doubles what is asked for its own bookkeeping and reports that.
    let granted_bytes = socket.recv_buffer_size()? / 2;
    if granted_bytes < asked_bytes {
        tracing::warn!(
            asked_bytes,
            granted_bytes,
            "the receive buffer for gateways is smaller than configured, bursts may be lost: run `sysctl -w net.core.rmem_max={asked_bytes}`"
        );
    }
    Ok(())
}

/// What one thread does with the datagrams of its socket.
pub(super) struct Receiver {
    runs_timers: bool,
    gateways: Arc<Gateways>,
    ingress: Arc<dyn Ingress>,
    clock: Clock,
    counters: Arc<Counters>,
    stopping: Arc<AtomicBool>,
    /// Refusals told one by one; the rest is counted in `untold`.
    told: Bucket,
    untold: [u64; DropReason::COUNT],
    /// The PUSH_DATA of this batch to read: the place in the batch and the packet.
    pushes: Vec<(usize, Packet)>,
    /// Frames of this batch by gateway.
    counts: Vec<(GatewayEui, u64)>,
}

impl Receiver {
    /// A receiver whose clock stands still.
    pub(super) fn new(gateways: Arc<Gateways>, ingress: Arc<dyn Ingress>) -> Self {
        Self {
            runs_timers: false,
            gateways,
            ingress,
            clock: Arc::new(Default::default),
            counters: Arc::default(),
            stopping: Arc::default(),
            told: Bucket::default(),
            untold: [0; DropReason::COUNT],
            pushes: Vec::new(),
            counts: Vec::new(),
        }
    }

    fn run(&mut self, socket: &UdpSocket) {
        let mut batch = Batch::new();
        let mut replies = Replies::new();
        while !self.stopping.load(Ordering::Relaxed) {
            let (asked_at, _) = (self.clock)();
            if let Err(error) = batch.receive(socket) {
                tracing::error!(%error, "the gateways' socket cannot be read");
                std::thread::sleep(ERROR_PAUSE);
            }
            let (now, at) = (self.clock)();
            if !batch.is_empty() {
                self.handle(&batch, &mut replies, now, at, |replies| replies.send(socket));
            }
            if self.runs_timers && self.gateways.poll_timeout().is_some_and(|due| due <= now) {
                for event in self.gateways.handle_timeout(now) {
                    self.ingress.deliver(event);
                }
            }
            // Where the next datagram came at once, more are near. A short pause makes one batch of them, for this
            // thread and for all behind it.
            let waited_us = now.saturating_us_since(asked_at);
            if waited_us < BUSY_WAIT_US && !batch.is_empty() && !batch.is_full() {
                std::thread::sleep(GATHER_PAUSE);
            }
        }
    }

    /// Acknowledges the datagrams of a batch with `send`, then reads them.
    pub(super) fn handle(
        &mut self,
        batch: &Batch,
        replies: &mut Replies,
        now: Mono,
        at: Timestamp,
        send: impl FnOnce(&mut Replies) -> Sent,
    ) {
        Counters::add(&self.counters.datagrams, batch.len() as u64);
        let full = self.ingress.is_full();
        let withheld = full || !self.ingress.ready();

        let mut effects = Effects::default();
        let mut tx_acks = Vec::new();
        let mut withheld_count = 0;
        let gateways = Arc::clone(&self.gateways);
        let mut registry = gateways.lock();
        for (index, datagram) in batch.iter().enumerate() {
            let source = datagram.source;
            let header = match Header::parse(datagram.bytes) {
                Ok((header, _)) => header,
                Err(reason) => {
                    let detail = registry.admit_stranger(source, now).then(|| {
                        let start = datagram.bytes.get(..SHOWN_BYTES_MAX).unwrap_or(datagram.bytes);
                        format!("{} bytes that begin with {start:02x?}", datagram.bytes.len())
                    });
                    self.refuse(&mut effects, now, DropEvent { reason, gateway: None, source }, detail);
                    continue;
                }
            };
            let packet = Packet { header, source, now, at };
            let gateway = Some(header.gateway);
            if header.kind == PacketKind::TxAck {
                tx_acks.push((index, packet));
                continue;
            }
            let is_push = header.kind == PacketKind::PushData;
            if is_push && withheld {
                withheld_count += 1;
            } else if let Some(bytes) = header.acknowledgement() {
                replies.push(Reply { bytes, address: source });
            }
            match registry.receive(&packet, &mut effects) {
                Ok(()) if is_push && full => {
                    self.refuse(
                        &mut effects,
                        now,
                        DropEvent { reason: DropReason::QueueFull, gateway, source },
                        None,
                    );
                }
                Ok(()) if is_push => self.pushes.push((index, packet)),
                Ok(()) => {}
                Err(reason) => {
                    // The others are told by an event of their own, or come in floods.
                    let detail = (reason == DropReason::GatewayUnknown).then(String::new);
                    self.refuse(&mut effects, now, DropEvent { reason, gateway, source }, detail);
                }
            }
        }
        drop(registry);
        Counters::add(&self.counters.push_ack_withheld, withheld_count);
        let outcome = send(replies);
        Counters::add(&self.counters.acknowledgements_sent, outcome.sent);
        Counters::add(&self.counters.acknowledgements_failed, outcome.failed);

        self.handle_tx_acks(batch, &tx_acks, &mut effects);
        effects.run_outcomes();
        let uplinks = self.read_pushes(batch, &mut effects);
        self.flush_untold(&mut effects);
        for event in effects.events {
            self.ingress.deliver(event);
        }
        if !uplinks.is_empty() {
            self.ingress.deliver(GatewayEvent::Uplinks(uplinks));
        }
    }

    fn handle_tx_acks(&mut self, batch: &Batch, tx_acks: &[(usize, Packet)], effects: &mut Effects) {
        for (index, packet) in tx_acks {
            let answer = tx_ack::parse(batch.body(*index));
            let (result, admitted) = {
                let mut registry = self.gateways.lock();
                let result = match answer {
                    Ok(answer) => {
                        registry.receive_tx_ack(packet, answer, effects).map_err(|reason| (reason, None))
                    }
                    Err(detail) => Err((DropReason::BadJson, Some(detail))),
                };
                let admitted = result.is_err() && registry.admit_stranger(packet.source, packet.now);
                (result, admitted)
            };
            if let Err((reason, detail)) = result {
                let told = admitted.then(|| {
                    let token = u16::from_be_bytes(packet.header.token);
                    detail.map_or_else(
                        || format!("TX_ACK {token:04x}"),
                        |detail| format!("TX_ACK {token:04x}: {detail}"),
                    )
                });
                let event = DropEvent { reason, gateway: Some(packet.header.gateway), source: packet.source };
                self.refuse(effects, packet.now, event, told);
            }
        }
    }

    fn read_pushes(&mut self, batch: &Batch, effects: &mut Effects) -> Vec<GatewayUplink> {
        let pushes = std::mem::take(&mut self.pushes);
        let mut uplinks = Vec::with_capacity(pushes.len());
        let mut stats = Vec::new();
        for (index, packet) in &pushes {
            let gateway = packet.header.gateway;
            let arrival = Arrival { gateway, received: packet.now, received_at: packet.at };
            let from = |reason| DropEvent { reason, gateway: Some(gateway), source: packet.source };
            let frames_before = uplinks.len();
            let mut refusals = Vec::new();
            let read = push_data::read(batch.body(*index), |part| match part {
                Part::Rxpk(json) => match rxpk::parse(json, arrival) {
                    Ok(uplink) => uplinks.push(uplink),
                    Err(refusal) => refusals.push(refusal),
                },
                Part::Stat(json) if json.starts_with('{') && json.len() <= STAT_LEN_MAX => {
                    stats.push((gateway, json.into(), packet.at));
                }
                Part::Stat(json) => {
                    let start: String = json.chars().take(SHOWN_BYTES_MAX).collect();
                    let detail = format!("stat has {} bytes and begins with {start}", json.len());
                    refusals.push(rxpk::RxpkRefusal { reason: DropReason::BadStat, detail, phy: None });
                }
            });
            if let Err(detail) = read {
                self.refuse(effects, packet.now, from(DropReason::BadJson), Some(detail));
            }
            for refusal in refusals {
                self.refuse_frame(effects, packet.now, from(refusal.reason), refusal);
            }
            self.count(gateway, (uplinks.len() - frames_before) as u64);
        }
        if !pushes.is_empty() {
            let mut registry = self.gateways.lock();
            for (gateway, count) in self.counts.drain(..) {
                registry.note_uplinks(gateway, count);
            }
            for (gateway, json, at) in stats {
                registry.note_stat(gateway, json, at);
            }
        }
        self.pushes = pushes;
        self.pushes.clear();
        uplinks
    }

    fn count(&mut self, gateway: GatewayEui, frames: u64) {
        match self.counts.iter_mut().find(|(known, _)| *known == gateway) {
            Some((_, count)) => *count += frames,
            None => self.counts.push((gateway, frames)),
        }
    }

    /// Tells a refusal with its detail, or only counts it: without a detail, or when too many were told.
    fn refuse(&mut self, effects: &mut Effects, now: Mono, event: DropEvent, detail: Option<String>) {
        match detail {
            Some(detail) => {
                let refusal = rxpk::RxpkRefusal { reason: event.reason, detail, phy: None };
                self.refuse_frame(effects, now, event, refusal);
            }
            None => self.leave_untold(event.reason),
        }
    }

    fn refuse_frame(&mut self, effects: &mut Effects, now: Mono, event: DropEvent, refusal: rxpk::RxpkRefusal) {
        if !self.told.take(TOLD_RATE, now) {
            return self.leave_untold(event.reason);
        }
        effects.events.push(GatewayEvent::Dropped {
            gateway: event.gateway,
            reason: event.reason,
            detail: refusal.detail,
            phy: refusal.phy,
            source: event.source,
        });
    }

    fn leave_untold(&mut self, reason: DropReason) {
        if let Some(count) = self.untold.get_mut(reason.index()) {
            *count += 1;
        }
    }

    fn flush_untold(&mut self, effects: &mut Effects) {
        for (reason, count) in DropReason::ALL.iter().zip(&mut self.untold) {
            if *count > 0 {
                effects
                    .events
                    .push(GatewayEvent::DroppedMany { reason: *reason, count: std::mem::take(count) });
            }
        }
    }
}

/// Who sent what was refused.
#[derive(Clone, Copy)]
struct DropEvent {
    reason: DropReason,
    gateway: Option<GatewayEui>,
    source: SocketAddr,
}

/// How long a quiet socket is waited for; bounds the delay of [`UdpServer::stop`] and of timeouts.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(50);
/// A datagram that cannot leave for so long is lost.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);
const ERROR_PAUSE: Duration = Duration::from_millis(10);
const BUSY_WAIT_US: u64 = 500;
/// The acknowledgement may wait 100 ms (the forwarder's default), the kernel's buffer holds thousands of datagrams.
const GATHER_PAUSE: Duration = Duration::from_micros(500);
/// Refusals told one by one by each thread.
const TOLD_RATE: RateLimit = RateLimit { per_second: 200, burst: 1_000 };
const SHOWN_BYTES_MAX: usize = 16;
/// Real ones have 200 to 800 bytes.
const STAT_LEN_MAX: usize = 4_096;
