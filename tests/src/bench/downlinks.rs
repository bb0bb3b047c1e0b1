//! Takes what the server sends to the gateways: counts acknowledgements, answers downlinks.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};

use super::fleet::{Fleet, Gateway, PULL_RESP, PUSH_ACK};
use super::machine;

/// Counts of what came; they rise while it runs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) push_acks: AtomicU64,
    pub(crate) pull_resps: AtomicU64,
}

/// Drains the sockets until `stop`, and then once more. Each PULL_RESP is accepted with a TX_ACK; its JSON text goes to
/// `on_downlink`. Returns the processor time of this thread in microseconds.
pub(crate) fn drain(
    fleet: &Fleet,
    tally: &Tally,
    stop: &AtomicBool,
    on_downlink: &(dyn Fn(&[u8]) + Sync),
) -> u64 {
    let cpu_before_us = machine::thread_cpu_us();
    let mut batch = Batch::new();
    let mut kept_alive = Instant::now();
    loop {
        let last = stop.load(Ordering::Acquire);
        for gateway in &fleet.gateways {
            while batch.receive(gateway) == BATCH_LEN {
                batch.take(gateway, tally, on_downlink);
            }
            batch.take(gateway, tally, on_downlink);
        }
        if kept_alive.elapsed() > KEEP_ALIVE {
            kept_alive = Instant::now();
            fleet.gateways.iter().for_each(Gateway::keep_alive);
        }
        if last {
            return machine::thread_cpu_us() - cpu_before_us;
        }
        std::thread::sleep(TICK);
    }
}

struct Batch {
    headers: MultiHeaders<SockaddrStorage>,
    storage: Box<[u8]>,
    lengths: Vec<usize>,
}

impl Batch {
    fn new() -> Self {
        Self {
            headers: MultiHeaders::preallocate(BATCH_LEN, None),
            storage: vec![0; BATCH_LEN * SLOT_LEN].into(),
            lengths: Vec::with_capacity(BATCH_LEN),
        }
    }

    /// Receives what is there, without waiting; returns how many datagrams.
    fn receive(&mut self, gateway: &Gateway) -> usize {
        self.lengths.clear();
        let mut slots = self.storage.chunks_exact_mut(SLOT_LEN);
        let mut buffers: [[IoSliceMut<'_>; 1]; BATCH_LEN] =
            std::array::from_fn(|_| [IoSliceMut::new(slots.next().unwrap_or_default())]);
        let fd = gateway.socket.as_raw_fd();
        // An error says that nothing is there, or that the server is away.
        if let Ok(messages) = recvmmsg(fd, &mut self.headers, buffers.iter_mut(), MsgFlags::MSG_DONTWAIT, None)
        {
            self.lengths.extend(messages.map(|message| message.bytes));
        }
        self.lengths.len()
    }

    fn take(&self, gateway: &Gateway, tally: &Tally, on_downlink: &(dyn Fn(&[u8]) + Sync)) {
        let mut push_acks = 0;
        for (length, slot) in self.lengths.iter().zip(self.storage.chunks_exact(SLOT_LEN)) {
            match slot.get(..*length) {
                Some([_, _, _, PUSH_ACK]) => push_acks += 1,
                Some([_, high, low, PULL_RESP, text @ ..]) => {
                    tally.pull_resps.fetch_add(1, Ordering::AcqRel);
                    gateway.accept_downlink([*high, *low]);
                    on_downlink(text);
                }
                Some(_) | None => {}
            }
        }
        tally.push_acks.fetch_add(push_acks, Ordering::AcqRel);
    }
}

const BATCH_LEN: usize = 64;
const SLOT_LEN: usize = 2_048;
const TICK: Duration = Duration::from_millis(1);
/// Forwarders send PULL_DATA about so often.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
