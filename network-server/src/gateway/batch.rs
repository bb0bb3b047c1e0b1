//! Many datagrams with one call to the kernel, in and out.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

use super::gwmp::HEADER_LEN;

/// The datagrams of one receive, in place until the next one.
pub(crate) struct Batch {
    headers: MultiHeaders<SockaddrStorage>,
    /// Pages that no datagram ever reached are never backed by memory.
    storage: Box<[u8]>,
    received: Vec<(usize, SocketAddr)>,
}

/// A datagram and where it came from.
#[derive(Clone, Copy)]
pub(crate) struct Datagram<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) source: SocketAddr,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            headers: MultiHeaders::preallocate(BATCH_LEN, None),
            storage: vec![0; BATCH_LEN * SLOT_LEN].into(),
            received: Vec::with_capacity(BATCH_LEN),
        }
    }

    /// Waits for a datagram, at most as long as the socket's read timeout, and takes those that are there with it.
    /// After a timeout or a signal the batch is empty.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.received.clear();
        let mut slots = self.storage.chunks_exact_mut(SLOT_LEN);
        let mut buffers: [[IoSliceMut<'_>; 1]; BATCH_LEN] =
            std::array::from_fn(|_| [IoSliceMut::new(slots.next().unwrap_or_default())]);
        let flags = MsgFlags::MSG_WAITFORONE;
        match recvmmsg(socket.as_raw_fd(), &mut self.headers, buffers.iter_mut(), flags, None) {
            Ok(messages) => {
                for message in messages {
                    // Without an address there is nobody to answer; the place in the storage still counts.
                    let source = message.address.as_ref().and_then(socket_addr).unwrap_or(NOBODY);
                    self.received.push((message.bytes, source));
                }
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.received.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// True when there may be more in the kernel already.
    pub(crate) fn is_full(&self) -> bool {
        self.received.len() == BATCH_LEN
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.received.iter().zip(self.storage.chunks_exact(SLOT_LEN)).map(|((length, source), slot)| Datagram {
            bytes: slot.get(..*length).unwrap_or(slot),
            source: *source,
        })
    }

    /// What follows the header of the datagram at that place; empty where there is nothing.
    pub(crate) fn body(&self, index: usize) -> &[u8] {
        let length = self.received.get(index).map_or(0, |(length, _)| *length);
        let slot = self.storage.chunks_exact(SLOT_LEN).nth(index).unwrap_or_default();
        slot.get(HEADER_LEN..length).unwrap_or_default()
    }
}

/// An acknowledgement and where it goes.
#[derive(Clone, Copy)]
pub(crate) struct Reply {
    pub(crate) bytes: [u8; 4],
    pub(crate) address: SocketAddr,
}

/// The acknowledgements of one batch.
pub(crate) struct Replies {
    headers: MultiHeaders<SockaddrStorage>,
    bytes: Vec<[u8; 4]>,
    addresses: Vec<Option<SockaddrStorage>>,
}

/// How many datagrams the kernel took and how many it did not.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Sent {
    pub(crate) sent: u64,
    pub(crate) failed: u64,
}

impl Replies {
    pub(crate) fn new() -> Self {
        Self {
            headers: MultiHeaders::preallocate(BATCH_LEN, None),
            bytes: Vec::with_capacity(BATCH_LEN),
            addresses: Vec::with_capacity(BATCH_LEN),
        }
    }

    /// Adds one; those to nobody are forgotten.
    pub(crate) fn push(&mut self, reply: Reply) {
        // The kernel refuses port 0, and with it what is behind it in the same call.
        if reply.address.port() != 0 {
            self.bytes.push(reply.bytes);
            self.addresses.push(Some(reply.address.into()));
        }
    }

    /// Sends all of them. One that cannot be sent is skipped.
    pub(crate) fn send(&mut self, socket: &UdpSocket) -> Sent {
        let mut outcome = Sent::default();
        let slices: Vec<[IoSlice<'_>; 1]> = self.bytes.iter().map(|bytes| [IoSlice::new(bytes)]).collect();
        let mut next = 0;
        while let (Some(slices), Some(addresses)) = (slices.get(next..), self.addresses.get(next..)) {
            if slices.is_empty() {
                break;
            }
            const NO_CONTROL: [ControlMessage<'_>; 0] = [];
            let flags = MsgFlags::MSG_DONTWAIT;
            match sendmmsg(socket.as_raw_fd(), &mut self.headers, slices.iter(), addresses, NO_CONTROL, flags) {
                // At least one was sent; the one behind the last was not, which the next call tells.
                Ok(sent) => {
                    let count = sent.count().max(1);
                    outcome.sent = outcome.sent.saturating_add(count as u64);
                    next = next.saturating_add(count);
                }
                Err(Errno::EINTR) => {}
                Err(_) => {
                    outcome.failed = outcome.failed.saturating_add(1);
                    next = next.saturating_add(1);
                }
            }
        }
        self.bytes.clear();
        self.addresses.clear();
        outcome
    }
}

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*v4).into());
    }
    address.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into())
}

const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// Datagrams taken with one call.
const BATCH_LEN: usize = 64;
/// No UDP datagram is longer, so none is ever cut off.
const SLOT_LEN: usize = 65_536;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    #[test]
    fn datagrams_of_every_length_arrive_whole_and_in_order() {
        let (server, client) = (socket(), socket());
        let lengths = [0, 1, 12, 1_472, 9_000, 65_507];
        for length in lengths {
            client
                .send_to(&vec![u8::try_from(length % 251).unwrap(); length], server.local_addr().unwrap())
                .unwrap();
        }
        let mut batch = Batch::new();
        let mut found = Vec::new();
        while found.len() < lengths.len() {
            batch.receive(&server).unwrap();
            assert!(!batch.is_empty(), "only {found:?}");
            found.extend(batch.iter().map(|datagram| {
                assert_eq!(datagram.source, client.local_addr().unwrap());
                assert!(datagram.bytes.iter().all(|b| usize::from(*b) == datagram.bytes.len() % 251));
                datagram.bytes.len()
            }));
        }
        assert_eq!(found, lengths);
    }

    #[test]
    fn a_reply_that_cannot_be_sent_does_not_hold_back_those_behind_it() {
        let (server, client) = (socket(), socket());
        let good = client.local_addr().unwrap();
        // The kernel refuses a broadcast from a socket that was not set up for it.
        let bad = SocketAddr::from(([255, 255, 255, 255], 9));
        let mut replies = Replies::new();
        for (number, address) in [(1, good), (2, bad), (3, good), (4, NOBODY), (5, good)] {
            replies.push(Reply { bytes: [number; 4], address });
        }
        assert_eq!(replies.send(&server), Sent { sent: 3, failed: 1 });
        for number in [1, 3, 5] {
            let mut bytes = [0; 8];
            assert_eq!(client.recv(&mut bytes).unwrap(), 4);
            assert_eq!(bytes, [number, number, number, number, 0, 0, 0, 0]);
        }
        assert_eq!(replies.send(&server), Sent::default());
    }
}
