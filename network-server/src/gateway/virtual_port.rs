//! The gateways' port of a simulated world: the same datagrams and the same reading, without sockets and threads.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mac::units::{Mono, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Ingress;
use super::batch::{Datagram, Reply, Sent};
use super::gwmp::HEADER_LEN;
use super::intake::{Acknowledge, Datagrams, Intake};
use super::registry::Gateways;
use super::udp::{Clock, Exit, UdpServer};

/// Where datagrams go that leave a simulated server.
pub trait Wire: Send + Sync {
    /// Takes one. An error is one the kernel would have given; the datagram did not leave then.
    ///
    /// # Errors
    /// What the simulation wants the server to meet.
    fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()>;
}

/// The end of the port at which a simulated world puts in datagrams. Cheap to clone.
#[derive(Clone)]
pub struct VirtualPort {
    inner: Arc<Inner>,
}

struct Inner {
    intake: Mutex<Intake>,
    gateways: Arc<Gateways>,
    wire: Arc<dyn Wire>,
    clock: Clock,
    /// A deadline may be nearer than the one that is waited for.
    changed: Notify,
}

/// Opens the port without a socket; to be called where tasks can be spawned.
pub(crate) fn start_virtual(
    gateways: Arc<Gateways>,
    ingress: Arc<dyn Ingress>,
    clock: Clock,
    wire: Arc<dyn Wire>,
) -> (UdpServer, VirtualPort) {
    let address = SocketAddr::from(([127, 0, 0, 1], 1_700));
    let exit = Exit::Virtual(Arc::clone(&wire));
    let server = UdpServer::new(address, exit, Arc::clone(&gateways), Arc::clone(&clock));
    let inner =
        Inner { intake: Mutex::new(server.intake(ingress)), gateways, wire, clock, changed: Notify::new() };
    (server, VirtualPort { inner: Arc::new(inner) })
}

impl VirtualPort {
    /// Takes datagrams that came together, as one receive would.
    pub fn deliver(&self, datagrams: &[(Vec<u8>, SocketAddr)]) {
        let (now, at) = (self.inner.clock)();
        let mut replies = WireReplies { wire: self.inner.wire.as_ref(), sent: Sent::default() };
        let mut intake = self.inner.intake.lock();
        intake.handle(&Given(datagrams), &mut replies, now, at);
        drop(intake);
        self.inner.changed.notify_one();
    }

    /// Does what time brings, for ever: gateways that fall silent, downlinks nobody answers.
    pub async fn run_timers(self) {
        loop {
            let (now, _): (Mono, Timestamp) = (self.inner.clock)();
            self.inner.intake.lock().handle_timeout(now);
            let changed = self.inner.changed.notified();
            match self.inner.gateways.poll_timeout() {
                None => changed.await,
                Some(at) => {
                    let wait = std::time::Duration::from_micros(at.saturating_us_since(now).max(1));
                    // Either of the two is a reason to look again.
                    let _ = tokio::time::timeout(wait, changed).await;
                }
            }
        }
    }
}

/// Datagrams that somebody made.
pub(super) struct Given<'a>(pub(super) &'a [(Vec<u8>, SocketAddr)]);

impl Datagrams for Given<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.0.iter().map(|(bytes, source)| Datagram { bytes, source: *source })
    }

    fn body(&self, index: usize) -> &[u8] {
        self.0.get(index).and_then(|(bytes, _)| bytes.get(HEADER_LEN..)).unwrap_or_default()
    }
}

struct WireReplies<'a> {
    wire: &'a dyn Wire,
    sent: Sent,
}

impl Acknowledge for WireReplies<'_> {
    fn push(&mut self, reply: Reply) {
        match self.wire.send(&reply.bytes, reply.address) {
            Ok(()) => self.sent.sent = self.sent.sent.saturating_add(1),
            Err(_) => self.sent.failed = self.sent.failed.saturating_add(1),
        }
    }

    fn send(&mut self) -> Sent {
        std::mem::take(&mut self.sent)
    }
}
