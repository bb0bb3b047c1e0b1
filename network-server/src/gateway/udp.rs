//! The sockets: datagrams in batches in and out, acknowledged before they are read.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mac::units::{Mono, Timestamp};
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};

use super::batch::{Batch, Datagram, Replies, Reply, Sent};
use super::intake::{Acknowledge, Counters, Datagrams, Intake, UdpCounters};
use super::registry::{Effects, Gateways, TxDone};
use super::virtual_port::Wire;
use super::{Ingress, TxOutcome, TxRequest};

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
    let server = UdpServer::new(first.local_addr().map_err(failed)?, Exit::Socket(sender), gateways, clock);
    for (index, socket) in sockets.into_iter().enumerate() {
        let mut receiver = Receiver {
            socket,
            runs_timers: index == 0,
            intake: server.intake(Arc::clone(&ingress)),
            clock: Arc::clone(&server.clock),
            stopping: Arc::clone(&server.stopping),
        };
        // An error on the way drops `server`, which stops the threads that run already.
        let thread = std::thread::Builder::new()
            .name(format!("gateways-{index}"))
            .spawn(move || receiver.run())
            .map_err(failed)?;
        server.threads.lock().push(thread);
    }
    Ok(server)
}

/// The running receiver threads and the way back to the gateways.
pub struct UdpServer {
    local_addr: SocketAddr,
    exit: Exit,
    stopping: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    counters: Arc<Counters>,
    gateways: Arc<Gateways>,
    clock: Clock,
}

/// Where datagrams leave.
pub(crate) enum Exit {
    Socket(UdpSocket),
    Virtual(Arc<dyn Wire>),
}

impl Exit {
    fn send_to(&self, datagram: &[u8], address: SocketAddr) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.send_to(datagram, address).map(drop),
            Self::Virtual(wire) => wire.send(datagram, address),
        }
    }
}

impl UdpServer {
    pub(crate) fn new(local_addr: SocketAddr, exit: Exit, gateways: Arc<Gateways>, clock: Clock) -> Self {
        gateways.lock().open();
        Self {
            local_addr,
            exit,
            stopping: Arc::new(AtomicBool::new(false)),
            threads: Mutex::default(),
            counters: Arc::new(Counters::default()),
            gateways,
            clock,
        }
    }

    /// What reads the batches of one thread.
    pub(crate) fn intake(&self, ingress: Arc<dyn Ingress>) -> Intake {
        Intake::new(Arc::clone(&self.gateways), ingress, Arc::clone(&self.counters))
    }

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
        seam::crash_point("network.pull_resp.before_send");
        match self.exit.send_to(&outgoing.datagram, outgoing.address) {
            Ok(()) => {
                seam::crash_point("network.pull_resp.sent");
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

/// One thread and its socket.
struct Receiver {
    socket: UdpSocket,
    runs_timers: bool,
    intake: Intake,
    clock: Clock,
    stopping: Arc<AtomicBool>,
}

impl Receiver {
    fn run(&mut self) {
        let mut batch = Batch::new();
        let mut replies = Replies::new();
        while !self.stopping.load(Ordering::Relaxed) {
            let (asked_at, _) = (self.clock)();
            if let Err(error) = batch.receive(&self.socket) {
                tracing::error!(%error, "the gateways' socket cannot be read");
                std::thread::sleep(ERROR_PAUSE);
            }
            let (now, at) = (self.clock)();
            if !batch.is_empty() {
                let mut replies = SocketReplies { replies: &mut replies, socket: &self.socket };
                self.intake.handle(&batch, &mut replies, now, at);
            }
            if self.runs_timers {
                self.intake.handle_timeout(now);
            }
            // Where the next datagram came at once, more are near. A short pause makes one batch of them, for this
            // thread and for all behind it.
            let waited_us = now.saturating_us_since(asked_at);
            if waited_us < BUSY_WAIT_US && !batch.is_empty() && !batch.is_full() {
                std::thread::sleep(GATHER_PAUSE);
            }
        }
    }
}

impl Datagrams for Batch {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        Self::iter(self)
    }

    fn body(&self, index: usize) -> &[u8] {
        Self::body(self, index)
    }
}

struct SocketReplies<'a> {
    replies: &'a mut Replies,
    socket: &'a UdpSocket,
}

impl Acknowledge for SocketReplies<'_> {
    fn push(&mut self, reply: Reply) {
        self.replies.push(reply);
    }

    fn send(&mut self) -> Sent {
        self.replies.send(self.socket)
    }
}

/// How long a quiet socket is waited for; bounds the delay of [`UdpServer::stop`] and of timeouts.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(50);
/// A datagram that cannot leave for so long is lost.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);
const ERROR_PAUSE: Duration = Duration::from_millis(10);
const BUSY_WAIT_US: u64 = 500;
/// The acknowledgement may wait 100 ms (the forwarder's default), the kernel's buffer holds thousands of datagrams.
const GATHER_PAUSE: Duration = Duration::from_micros(500);
