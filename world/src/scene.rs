//! What the servers, the clients and the driver share: air, agenda, luck, account.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use app_bridge::AppBridge;
use parking_lot::{Mutex, MutexGuard};
use simulator::forwarder::Transmission;
use store::MemoryDisk;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::account::Account;
use crate::air::{Device, Gateway};
use crate::chance::Chance;
use crate::schedule::{Action, Setting};
use crate::states::States;
use crate::trace::Trace;

/// Shared by everything in one world; all of it runs on one thread.
pub(crate) struct Scene {
    inside: Mutex<Inside>,
    /// Wakes the driver when something was put on the agenda.
    pub(crate) bell: Notify,
}

impl Scene {
    pub(crate) fn new(inside: Inside) -> Self {
        Self { inside: Mutex::new(inside), bell: Notify::new() }
    }

    /// Opens the scene.
    ///
    /// # Panics
    /// When it is open already: that would wait for ever on the one thread there is.
    pub(crate) fn open(&self) -> MutexGuard<'_, Inside> {
        let mut inside = self.inside.try_lock().expect("the scene is opened by one at a time");
        let now_ms = inside.now_ms();
        inside.account.at(now_ms);
        inside
    }
}

/// See [`Scene`].
pub(crate) struct Inside {
    pub(crate) setting: Setting,
    pub(crate) chance: Chance,
    pub(crate) started: Instant,
    pub(crate) disk: MemoryDisk,
    pub(crate) trace: Trace,
    pub(crate) states: States,
    pub(crate) account: Account,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) devices: Vec<Device>,
    pub(crate) trouble: Trouble,
    pub(crate) crash: Option<CrashPlan>,
    /// The server that clients talk to: its life and its API.
    pub(crate) front: Option<(usize, AppBridge)>,
    /// Frames that were on air, for strangers who play them back.
    pub(crate) recorded: Vec<(simulator::device::Uplink, usize)>,
    /// What devices heard of applications: the device and the bytes.
    pub(crate) heard_payloads: Vec<(usize, Vec<u8>)>,
    /// A gateway that acknowledges the next order another one gets.
    pub(crate) forger: Option<usize>,
    /// No more faults.
    pub(crate) calm: bool,
    /// Where the log ended when the faults had stopped.
    pub(crate) heard_before_drain: u64,
    agenda: BinaryHeap<Reverse<Entry>>,
    entries: u64,
    /// Numbers what chance is asked for.
    pub(crate) draws: u64,
}

/// What is wrong with the disk.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    pub(crate) full_until_ms: u64,
    pub(crate) was_full: bool,
    pub(crate) errors: u64,
    pub(crate) unknown: u64,
    pub(crate) slow_until_ms: u64,
    pub(crate) slow_ms: u64,
}

/// A power cut that comes at a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrashPlan {
    pub(crate) life: usize,
    pub(crate) steps: u64,
    pub(crate) after: bool,
    pub(crate) away_ms: u64,
}

/// Something that will happen.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Act {
        number: u64,
        action: Action,
    },
    /// A device sends the same frame again unless it was served.
    Again {
        device: usize,
        transmission: usize,
        times: u8,
        heard: u8,
        number: u64,
    },
    /// A datagram reaches a server.
    ToServer {
        server: usize,
        gateway: usize,
        datagram: Vec<u8>,
        content: Content,
    },
    /// A datagram reaches a gateway.
    ToGateway {
        gateway: usize,
        server: usize,
        life: usize,
        datagram: Vec<u8>,
    },
    OnAir {
        gateway: usize,
        boots: u64,
        transmission: Box<Transmission>,
    },
    KeepAlive {
        gateway: usize,
    },
    SendAgain {
        gateway: usize,
        token: u16,
        boots: u64,
    },
    OutageEnds {
        gateway: usize,
    },
    Crashed {
        life: usize,
        away_ms: u64,
    },
    Restart {
        server: usize,
    },
    /// The old server of a take-over is ended at last.
    OverlapEnds {
        server: usize,
    },
    /// A gateway turns to the newest server.
    Turn {
        gateway: usize,
        server: usize,
    },
}

/// What a datagram to a server holds, for the account.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Frames(Vec<Vec<u8>>),
    Nothing,
    TxAck { life: usize, token: u16, accepted: bool },
}

#[derive(Debug)]
struct Entry {
    at_ms: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ms, self.number) == (other.at_ms, other.number)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.number).cmp(&(other.at_ms, other.number))
    }
}

impl Inside {
    #[allow(clippy::too_many_arguments, reason = "made in one place")]
    pub(crate) fn new(setting: Setting, chance: Chance, disk: MemoryDisk, trace: Trace) -> Self {
        let devices: Vec<Device> =
            setting.devices.iter().enumerate().map(|(index, spec)| Device::new(index, *spec)).collect();
        let gateways =
            setting.gateways.iter().enumerate().map(|(index, spec)| Gateway::new(index, *spec)).collect();
        let kinds = devices.iter().map(|device| (device.dev_eui.value(), device.spec.kind)).collect();
        let mut account = Account::new(kinds);
        setting.consumers.iter().for_each(|_| account.add_consumer());
        Self {
            setting,
            chance,
            started: Instant::now(),
            disk,
            trace,
            states: States::default(),
            account,
            gateways,
            devices,
            trouble: Trouble::default(),
            crash: None,
            front: None,
            recorded: Vec::new(),
            heard_payloads: Vec::new(),
            forger: None,
            calm: false,
            heard_before_drain: 0,
            agenda: BinaryHeap::new(),
            entries: 0,
            draws: 0,
        }
    }

    /// Milliseconds since the world began.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).expect("a world ends before that")
    }

    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).expect("a world ends before that")
    }

    /// Puts something on the agenda. Who is not the driver rings the bell afterwards.
    pub(crate) fn plan(&mut self, in_ms: u64, event: Event) {
        let at_ms = self.now_ms() + in_ms;
        self.entries += 1;
        self.agenda.push(Reverse(Entry { at_ms, number: self.entries, event }));
    }

    /// When the next thing happens.
    pub(crate) fn next_at_ms(&self) -> Option<u64> {
        self.agenda.peek().map(|Reverse(entry)| entry.at_ms)
    }

    /// What happens now.
    pub(crate) fn take_due(&mut self) -> Option<Event> {
        let due = self.next_at_ms()? <= self.now_ms();
        due.then(|| self.agenda.pop()).flatten().map(|Reverse(entry)| entry.event)
    }

    /// Notes something in the trace.
    pub(crate) fn note(&mut self, values: &[u64], words: impl FnOnce() -> String) {
        let now_ms = self.now_ms();
        self.trace.note(now_ms, values, words);
    }

    /// Holds the log against the account, as far as it has grown.
    pub(crate) fn observe(&mut self) {
        for (seq, record) in self.disk.records_after(self.account.log_seen()) {
            let bytes = prost::Message::encode_to_vec(&record);
            self.trace.note_bytes(&bytes);
            self.note(&[seq], || crate::words::record(seq, &record));
            self.account.logged(seq, &record, &mut self.states);
        }
    }
}

/// How often a gateway asks for downlinks.
pub(crate) const KEEP_ALIVE_MS: u64 = 10_000;
