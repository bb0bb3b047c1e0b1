//! A virtual gateway: a packet forwarder of protocol version 2 on a real UDP socket.
//!
//! It knows nothing of the server's decisions. It sends what the air brings it, takes PULL_RESPs as a forwarder would
//! (one TX_ACK each), and hands them to whoever holds the [`Downlinks`] end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mac::ids::GatewayEui;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::forwarder::{self, PULL_ACK, PULL_RESP, PUSH_ACK};
pub use crate::forwarder::{Reception, Transmission};

/// Downlinks a gateway was asked to send, in order of arrival.
pub type Downlinks = mpsc::UnboundedReceiver<Transmission>;

/// How the gateway answers a PULL_RESP.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum TxAnswer {
    /// TX_ACK with error NONE.
    #[default]
    Accept,
    /// TX_ACK without a body, which some forwarders send for success.
    AcceptEmpty,
    /// TX_ACK with this error.
    Refuse(&'static str),
    /// No TX_ACK at all.
    Silent,
}

/// Counts of a gateway.
#[derive(Debug, Default)]
pub struct GatewayCounts {
    /// PUSH_DATA sent.
    pub pushed: AtomicU64,
    /// PUSH_ACK received.
    pub push_acks: AtomicU64,
    /// PULL_ACK received.
    pub pull_acks: AtomicU64,
    /// PULL_RESP received.
    pub pull_resps: AtomicU64,
}

/// See the file's head.
#[derive(Debug)]
pub struct VirtualGateway {
    eui: GatewayEui,
    socket: Arc<UdpSocket>,
    started: Instant,
    /// Where the counter stood at the start, so that tests can place it before its roll-over.
    tmst_offset_us: u32,
    token: AtomicU16,
    counts: Arc<GatewayCounts>,
    pull_acked: Arc<Notify>,
    answers: Arc<parking::Answers>,
    tasks: Vec<JoinHandle<()>>,
}

impl VirtualGateway {
    /// Opens the downlink path: sends PULL_DATA until the server answers, then keeps it alive every 5 s.
    ///
    /// # Errors
    /// The socket's, or `TimedOut` when the server does not answer within 10 s.
    pub async fn connect(server: SocketAddr, eui: GatewayEui) -> io::Result<(Self, Downlinks)> {
        Self::connect_with_counter(server, eui, 0).await
    }

    /// Like [`VirtualGateway::connect`], with the counter starting at `tmst_offset_us`.
    ///
    /// # Errors
    /// As [`VirtualGateway::connect`].
    pub async fn connect_with_counter(
        server: SocketAddr,
        eui: GatewayEui,
        tmst_offset_us: u32,
    ) -> io::Result<(Self, Downlinks)> {
        let local = if server.ip().is_loopback() {
            SocketAddr::from(([127, 0, 0, 1], 0))
        } else {
            SocketAddr::from(([0, 0, 0, 0], 0))
        };
        let socket = Arc::new(UdpSocket::bind(local).await?);
        socket.connect(server).await?;
        let (to_owner, downlinks) = mpsc::unbounded_channel();
        let counts = Arc::new(GatewayCounts::default());
        let pull_acked = Arc::new(Notify::new());
        let answers = Arc::new(parking::Answers::default());
        let started = Instant::now();
        let receiver = Receiver {
            eui,
            socket: Arc::clone(&socket),
            counts: Arc::clone(&counts),
            pull_acked: Arc::clone(&pull_acked),
            answers: Arc::clone(&answers),
            to_owner,
            started,
            tmst_offset_us,
        };
        let tasks = vec![tokio::spawn(receiver.run()), tokio::spawn(keep_alive(Arc::clone(&socket), eui))];
        let gateway = Self {
            eui,
            socket,
            started,
            tmst_offset_us,
            token: AtomicU16::new(1),
            counts,
            pull_acked,
            answers,
            tasks,
        };
        gateway.wait_for_pull_ack().await?;
        Ok((gateway, downlinks))
    }

    /// The gateway's EUI.
    pub fn eui(&self) -> GatewayEui {
        self.eui
    }

    /// What it has sent and received.
    pub fn counts(&self) -> &GatewayCounts {
        &self.counts
    }

    /// The gateway's counter, microseconds modulo 2^32.
    pub fn tmst_us(&self) -> u32 {
        counter(self.started, self.tmst_offset_us)
    }

    /// Answers the next PULL_RESPs this way instead of accepting, one each, in order.
    pub fn answer_next(&self, answer: TxAnswer) {
        self.answers.push(answer);
    }

    /// Sends one PUSH_DATA with these receptions.
    ///
    /// # Errors
    /// The socket's.
    pub async fn push(&self, receptions: &[Reception]) -> io::Result<()> {
        self.push_json(&forwarder::rxpk_text(receptions)).await
    }

    /// Sends one PUSH_DATA with this text behind the header, whatever it is.
    ///
    /// # Errors
    /// The socket's.
    pub async fn push_json(&self, text: &str) -> io::Result<()> {
        let token = self.token.fetch_add(1, Ordering::Relaxed);
        let datagram = forwarder::push_data(token, self.eui, text);
        self.counts.pushed.fetch_add(1, Ordering::Relaxed);
        self.send_raw(&datagram).await
    }

    /// Sends any bytes from the gateway's socket.
    ///
    /// # Errors
    /// The socket's.
    pub async fn send_raw(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send(datagram).await.map(|_| ())
    }

    async fn wait_for_pull_ack(&self) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            self.send_raw(&forwarder::pull_data(0, self.eui)).await.or_else(refused_is_not_ready)?;
            if tokio::time::timeout(Duration::from_millis(100), self.pull_acked.notified()).await.is_ok() {
                return Ok(());
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "no PULL_ACK within 10 s: is the server running?"))
    }
}

impl Drop for VirtualGateway {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A server that is starting or restarting refuses datagrams for a moment.
fn refused_is_not_ready(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::ConnectionRefused { Ok(()) } else { Err(error) }
}

async fn keep_alive(socket: Arc<UdpSocket>, eui: GatewayEui) {
    let mut every = tokio::time::interval(Duration::from_secs(5));
    loop {
        every.tick().await;
        // A server that is away is asked again with the next tick.
        let _ = socket.send(&forwarder::pull_data(0, eui)).await;
    }
}

struct Receiver {
    eui: GatewayEui,
    socket: Arc<UdpSocket>,
    counts: Arc<GatewayCounts>,
    pull_acked: Arc<Notify>,
    answers: Arc<parking::Answers>,
    to_owner: mpsc::UnboundedSender<Transmission>,
    started: Instant,
    tmst_offset_us: u32,
}

impl Receiver {
    async fn run(self) {
        let mut buffer = vec![0; 65_536];
        loop {
            // Errors here are ICMP answers of a server that is away.
            let Ok(len) = self.socket.recv(&mut buffer).await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            self.take(&buffer[..len]).await;
        }
    }

    async fn take(&self, datagram: &[u8]) {
        let Some((kind, token, body)) = forwarder::parse(datagram) else { return };
        match kind {
            PUSH_ACK => {
                self.counts.push_acks.fetch_add(1, Ordering::Relaxed);
            }
            PULL_ACK => {
                self.counts.pull_acks.fetch_add(1, Ordering::Relaxed);
                self.pull_acked.notify_one();
            }
            PULL_RESP => self.take_pull_resp(token, body).await,
            _ => {}
        }
    }

    async fn take_pull_resp(&self, token: [u8; 2], body: &[u8]) {
        self.counts.pull_resps.fetch_add(1, Ordering::Relaxed);
        let answer = self.answers.pop();
        let Some(transmission) = self.parse(body) else {
            self.tx_ack(token, Some("UNKNOWN")).await;
            return;
        };
        let accepted = match answer {
            TxAnswer::Accept => {
                self.tx_ack(token, Some("NONE")).await;
                true
            }
            TxAnswer::AcceptEmpty => {
                self.tx_ack(token, None).await;
                true
            }
            TxAnswer::Refuse(error) => {
                self.tx_ack(token, Some(error)).await;
                false
            }
            TxAnswer::Silent => true,
        };
        if accepted {
            // Nobody listens any more when the owner has dropped its end.
            let _ = self.to_owner.send(transmission);
        }
    }

    fn parse(&self, body: &[u8]) -> Option<Transmission> {
        forwarder::parse_pull_resp(self.eui, body, counter(self.started, self.tmst_offset_us))
    }

    async fn tx_ack(&self, token: [u8; 2], error: Option<&str>) {
        let datagram = forwarder::tx_ack(u16::from_be_bytes(token), self.eui, error);
        // A lost TX_ACK is a case the server has to bear.
        let _ = self.socket.send(&datagram).await;
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the counter is modulo 2^32 by definition")]
fn counter(started: Instant, offset_us: u32) -> u32 {
    (started.elapsed().as_micros() as u32).wrapping_add(offset_us)
}

/// Answers prepared for the next PULL_RESPs.
mod parking {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::TxAnswer;

    #[derive(Debug, Default)]
    pub(super) struct Answers(Mutex<VecDeque<TxAnswer>>);

    impl Answers {
        pub(super) fn push(&self, answer: TxAnswer) {
            self.0.lock().expect("no holder panics").push_back(answer);
        }

        pub(super) fn pop(&self) -> TxAnswer {
            self.0.lock().expect("no holder panics").pop_front().unwrap_or_default()
        }
    }
}
