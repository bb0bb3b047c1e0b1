//! Sends frames through a fleet at a pace that does not wait for the server (open loop).

use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

use super::fleet::{Fleet, Frames, Gateway};
use super::{machine, now_us};

/// When the next frame may go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace<'a> {
    /// So many frames a second, whatever becomes of them.
    PerSecond(u32),
    /// As fast as whoever takes the datagrams counts them, at most so many ahead: for the floor, which then loses none.
    Ahead { taken: &'a AtomicU64, datagrams_max: u64 },
}

/// What was sent, and what it cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) frames: u64,
    pub(crate) datagrams: u64,
    pub(crate) wall_us: u64,
    /// Of the sending thread.
    pub(crate) cpu_us: u64,
    /// The furthest it fell behind its own schedule: what the processors did not give it.
    pub(crate) behind_us_max: u64,
    /// When the last frame left.
    pub(crate) ended_us: u64,
}

impl Sent {
    /// Frames a second that really left.
    pub(crate) fn rate(&self) -> f64 {
        super::float(self.frames) * 1e6 / super::float(self.wall_us.max(1))
    }

    /// Whether the generator had the processor time to send at this rate.
    pub(crate) fn kept(&self, rate: u32) -> bool {
        self.rate() >= super::float(u64::from(rate)) * 0.99
    }
}

/// Sends all frames, each through every gateway; notes in `sent_at_us` when the first copy of each left.
pub(crate) fn send_all(
    fleet: &Fleet,
    frames: &Frames,
    pace: Pace<'_>,
    sent_at_us: &[AtomicU64],
) -> Result<Sent> {
    let mut headers = MultiHeaders::preallocate(BURST, None);
    let cpu_before_us = machine::thread_cpu_us();
    let begun_us = now_us();
    let mut sent = Sent::default();
    let mut stalled = Instant::now();
    let mut next = 0;
    let mut bursts = 0;
    while next < frames.len() {
        let due = due(pace, fleet, sent.datagrams, now_us() - begun_us);
        let end = due.min(frames.len()).min(next + BURST);
        if end <= next {
            if stalled.elapsed() > STALL_DEADLINE {
                bail!("nobody took a datagram for {STALL_DEADLINE:?}");
            }
            std::thread::sleep(TICK);
            continue;
        }
        stalled = Instant::now();
        if let Pace::PerSecond(rate) = pace {
            let planned_us = next as u64 * 1_000_000 / u64::from(rate.max(1));
            sent.behind_us_max = sent.behind_us_max.max((now_us() - begun_us).saturating_sub(planned_us));
        }
        let at_us = now_us();
        for slot in sent_at_us.get(next..end).unwrap_or_default() {
            slot.store(at_us, Ordering::Release);
        }
        // Not always the same gateway hears it first.
        bursts += 1;
        let order = fleet.gateways.iter().cycle().skip(bursts % fleet.gateways.len().max(1));
        for gateway in order.take(fleet.gateways.len()) {
            send_burst(gateway, frames, next..end, &mut headers)?;
        }
        sent.frames += (end - next) as u64;
        sent.datagrams += (end - next) as u64 * fleet.copies();
        next = end;
    }
    sent.ended_us = now_us();
    sent.wall_us = sent.ended_us - begun_us;
    sent.cpu_us = machine::thread_cpu_us() - cpu_before_us;
    Ok(sent)
}

/// How many frames may have left by now.
fn due(pace: Pace<'_>, fleet: &Fleet, datagrams: u64, elapsed_us: u64) -> usize {
    let frames = match pace {
        Pace::PerSecond(rate) => elapsed_us * u64::from(rate) / 1_000_000 + 1,
        Pace::Ahead { taken, datagrams_max } => {
            let under_way = datagrams.saturating_sub(taken.load(Ordering::Acquire));
            (datagrams + datagrams_max.saturating_sub(under_way)) / fleet.copies().max(1)
        }
    };
    usize::try_from(frames).unwrap_or(usize::MAX)
}

fn send_burst(
    gateway: &Gateway,
    frames: &Frames,
    range: Range<usize>,
    headers: &mut MultiHeaders<SockaddrStorage>,
) -> Result<()> {
    const NO_CONTROL: [ControlMessage<'_>; 0] = [];
    // The socket is connected.
    const NO_ADDRESSES: [Option<SockaddrStorage>; BURST] = [None; BURST];
    let pieces: Vec<[IoSlice<'_>; 2]> =
        range.map(|index| [IoSlice::new(&gateway.head), IoSlice::new(frames.tail(index))]).collect();
    let mut rest = pieces.as_slice();
    while !rest.is_empty() {
        let fd = gateway.socket.as_raw_fd();
        match sendmmsg(fd, headers, rest.iter(), NO_ADDRESSES, NO_CONTROL, MsgFlags::empty()) {
            Ok(sent) => {
                let count = sent.count().max(1);
                rest = rest.get(count..).unwrap_or_default();
            }
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOBUFS) => std::thread::yield_now(),
            Err(Errno::ECONNREFUSED) => bail!("the server's port is closed: it has ended"),
            Err(error) => bail!("gateway {:016x} cannot send: {error}", gateway.eui),
        }
    }
    Ok(())
}

/// Frames handed to the kernel with one call.
const BURST: usize = 64;
const TICK: Duration = Duration::from_micros(500);
const STALL_DEADLINE: Duration = Duration::from_secs(10);
