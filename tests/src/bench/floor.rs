//! The floor of the machine: the least that any server must do for an uplink with three copies, without deciding anything.
//!
//! Three datagrams are received and acknowledged in batches, their JSON and base64 are read, one MIC is computed, one
//! payload decrypted, and one journal row is committed per 100 uplinks with `synchronous=FULL`. One thread receives, one
//! writes, as in a server.

use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mac::crypto::{self, Direction};
use mac::ids::FCntUp;
use mac::keys::FNwkSIntKey;
use mac::phy::{Frame, parse_uplink};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::devices::{Devices, SessionKeys};
use super::downlinks::{Tally, drain};
use super::fleet::{EU868, Fleet, PUSH_ACK, ask_for_buffer};
use super::options::Options;
use super::prepare::GATEWAYS;
use super::sender::{Pace, Sent, send_all};
use super::{float, machine, now_us, percentile, say, step, wait_until_still};

/// What the floor costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floor {
    /// Processor time per uplink at the paced rate.
    pub(crate) us_per_uplink: f64,
    /// Uplinks a second as fast as it goes, while the generator shares the machine.
    pub(crate) uplinks_per_second: f64,
    /// A commit of one row of 100 uplinks, 99 of 100 are quicker.
    pub(crate) commit_p99_ms: f64,
}

/// Measures the floor twice: at the target's rate for the cost, and as fast as it goes.
pub(crate) fn measure(options: &Options) -> Result<(Floor, Value)> {
    let rate = options.target_rate;
    let seconds = options.seconds.min(5);
    let paced = run(options, Some(rate), u64::from(rate) * u64::from(seconds))?;
    paced.say(&format!("floor at {rate}/s"));
    let fast = run(options, None, u64::from(rate) * u64::from(seconds) * 2)?;
    fast.say("floor as fast as it goes");
    let floor = Floor {
        us_per_uplink: paced.us_per_uplink(),
        uplinks_per_second: fast.uplinks_per_second(),
        commit_p99_ms: paced.commit_p99_ms,
    };
    Ok((floor, json!({ "paced": paced.to_json(), "fast": fast.to_json() })))
}

struct Measured {
    sent: Sent,
    taken: Taken,
    push_acks: u64,
    floor_cpu_us: u64,
    generator_cpu_us: u64,
    wall_us: u64,
    commits: usize,
    commit_p50_ms: f64,
    commit_p99_ms: f64,
}

impl Measured {
    fn us_per_uplink(&self) -> f64 {
        float(self.floor_cpu_us) / float(self.taken.uplinks.max(1))
    }

    fn uplinks_per_second(&self) -> f64 {
        float(self.taken.uplinks) * 1e6 / float(self.wall_us.max(1))
    }

    fn say(&self, what: &str) {
        say(format!(
            "{what}: {:.2} us per uplink, {:.0} uplinks/s; {} of {} datagrams, {} PUSH_ACKs, {} MICs wrong, {} commits (p50 \
             {:.2} ms, p99 {:.2} ms); generator {:.2} us per uplink",
            self.us_per_uplink(),
            self.uplinks_per_second(),
            self.taken.datagrams,
            self.sent.datagrams,
            self.push_acks,
            self.taken.wrong_mics,
            self.commits,
            self.commit_p50_ms,
            self.commit_p99_ms,
            float(self.generator_cpu_us) / float(self.sent.frames.max(1)),
        ));
    }

    fn to_json(&self) -> Value {
        json!({
            "cpu_us_per_uplink": self.us_per_uplink(),
            "uplinks_per_second": self.uplinks_per_second(),
            "datagrams_sent": self.sent.datagrams,
            "datagrams_taken": self.taken.datagrams,
            "push_acks": self.push_acks,
            "wrong_mics": self.taken.wrong_mics,
            "commits": self.commits,
            "commit_ms": { "p50": self.commit_p50_ms, "p99": self.commit_p99_ms },
            "generator_cpu_us_per_uplink": float(self.generator_cpu_us) / float(self.sent.frames.max(1)),
        })
    }
}

fn run(options: &Options, rate: Option<u32>, uplinks: u64) -> Result<Measured> {
    let mut devices = Devices::distinct(0x70b3_d57e_d000_0000, FLOOR_DEVICES);
    let keys: Vec<SessionKeys> = (0..devices.count).map(|index| devices.keys(index)).collect();
    let first = devices.clone();
    let (frames, _) = devices.frames(usize::try_from(uplinks)?)?;
    let directory = tempfile::tempdir_in(&options.work_dir)?;
    let socket = socket()?;
    let fleet = Fleet::open(socket.local_addr()?, &GATEWAYS, EU868)?;
    let (rows, to_write) = sync_channel(ROWS_WAITING_MAX);
    let (datagrams, stop, stop_drain) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let tally = Tally::default();
    let pace = match rate {
        Some(rate) => Pace::PerSecond(rate),
        None => Pace::Ahead { taken: &datagrams, datagrams_max: DATAGRAMS_AHEAD },
    };
    let database = directory.path().join("floor.db");
    std::thread::scope(|scope| {
        let cpu_before_us = machine::own_cpu_us();
        let begun_us = now_us();
        let writer = scope.spawn(|| write(&database, to_write));
        let work = Work { socket: &socket, devices: &first, keys: &keys, datagrams: &datagrams, stop: &stop };
        let receiver = scope.spawn(move || work.run(&rows));
        let drainer = scope.spawn(|| drain(&fleet, &tally, &stop_drain, &|_| {}));
        let sender = scope.spawn(|| send_all(&fleet, &frames, pace, &[]));
        let sent = sender.join();
        if let Ok(Ok(sent)) = &sent {
            wait_until_still(&datagrams, sent.datagrams, Duration::from_millis(500));
        }
        stop.store(true, Ordering::Release);
        let taken = receiver.join();
        let commits = writer.join();
        let wall_us = now_us() - begun_us;
        stop_drain.store(true, Ordering::Release);
        let drain_cpu_us = drainer.join().ok().context("the draining thread panicked")?;
        let all_cpu_us = machine::own_cpu_us() - cpu_before_us;
        let sent = sent.ok().context("the sending thread panicked")??;
        let mut commits = commits.ok().context("the writing thread panicked")??;
        let generator_cpu_us = sent.cpu_us + drain_cpu_us;
        Ok(Measured {
            sent,
            taken: taken.ok().context("the receiving thread panicked")??,
            push_acks: tally.push_acks.load(Ordering::Acquire),
            floor_cpu_us: all_cpu_us.saturating_sub(generator_cpu_us),
            generator_cpu_us,
            wall_us,
            commits: commits.len(),
            commit_p50_ms: step::ms(percentile(&mut commits, 0.5)),
            commit_p99_ms: step::ms(percentile(&mut commits, 0.99)),
        })
    })
}

fn socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    ask_for_buffer(&socket)?;
    Ok(socket)
}

#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    datagrams: u64,
    uplinks: u64,
    wrong_mics: u64,
}

/// The receiving thread.
struct Work<'a> {
    socket: &'a UdpSocket,
    devices: &'a Devices,
    keys: &'a [SessionKeys],
    /// How many datagrams were taken, for the generator's pace.
    datagrams: &'a AtomicU64,
    stop: &'a AtomicBool,
}

#[derive(serde::Deserialize)]
struct PushData<'a> {
    #[serde(borrow)]
    rxpk: Vec<RxPk<'a>>,
}

/// What a server needs of a reception.
#[derive(serde::Deserialize)]
struct RxPk<'a> {
    tmst: u32,
    freq: f64,
    rssi: f32,
    lsnr: f32,
    datr: &'a str,
    data: &'a str,
}

impl Work<'_> {
    fn run(self, rows: &SyncSender<Vec<u8>>) -> Result<Taken> {
        let mut storage = vec![0_u8; BATCH_LEN * SLOT_LEN];
        let mut headers: MultiHeaders<SockaddrIn> = MultiHeaders::preallocate(BATCH_LEN, None);
        let mut reply_headers: MultiHeaders<SockaddrIn> = MultiHeaders::preallocate(BATCH_LEN, None);
        let mut taken = Taken::default();
        let mut row = Vec::with_capacity(ROW_LEN);
        while !self.stop.load(Ordering::Acquire) {
            let arrived = receive(self.socket, &mut headers, &mut storage)?;
            acknowledge(self.socket, &mut reply_headers, &arrived, &storage)?;
            for ((length, _), slot) in arrived.iter().zip(storage.chunks_exact(SLOT_LEN)) {
                // A PULL_DATA has nothing behind its header; it keeps the path open and is no uplink.
                if *length <= HEADER_LEN {
                    continue;
                }
                taken.datagrams += 1;
                let phy = read(slot.get(HEADER_LEN..*length).unwrap_or_default(), &mut row)?;
                // The copies of a frame come one after the other; each third one stands for the frame.
                if taken.datagrams % 3 == 0 {
                    taken.uplinks += 1;
                    self.open(phy, &mut row, &mut taken)?;
                    if taken.uplinks % UPLINKS_PER_ROW == 0 {
                        rows.send(std::mem::replace(&mut row, Vec::with_capacity(ROW_LEN)))?;
                    }
                }
            }
            self.datagrams.store(taken.datagrams, Ordering::Release);
        }
        Ok(taken)
    }

    /// One MIC, one payload.
    fn open(&self, phy: Vec<u8>, row: &mut Vec<u8>, taken: &mut Taken) -> Result<()> {
        let Ok(Frame::DataUp(frame)) = parse_uplink(&phy) else {
            bail!("the generator made a frame that is none")
        };
        let index = self.devices.index_of_addr(frame.dev_addr.value()).context("a DevAddr of nobody")?;
        let keys = self.keys.get(usize::try_from(index)?).context("a device without keys")?;
        let fcnt = u32::from(frame.fcnt.value());
        let key = FNwkSIntKey::new(keys.nwk_s_key);
        if crypto::uplink_mic_10(&key, frame.dev_addr, FCntUp::new(fcnt), frame.msg) != frame.mic {
            taken.wrong_mics += 1;
        }
        let mut payload = frame.frm_payload.to_vec();
        crypto::crypt_frm_payload(&keys.app_s_key, Direction::Up, frame.dev_addr, fcnt, &mut payload);
        row.extend_from_slice(&payload);
        Ok(())
    }
}

fn receive(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrIn>,
    storage: &mut [u8],
) -> Result<Vec<(usize, Option<SockaddrIn>)>> {
    let mut slots = storage.chunks_exact_mut(SLOT_LEN);
    let mut buffers: [[IoSliceMut<'_>; 1]; BATCH_LEN] =
        std::array::from_fn(|_| [IoSliceMut::new(slots.next().unwrap_or_default())]);
    let flags = MsgFlags::MSG_WAITFORONE;
    match recvmmsg(socket.as_raw_fd(), headers, buffers.iter_mut(), flags, None) {
        Ok(messages) => Ok(messages.map(|message| (message.bytes, message.address)).collect()),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(Vec::new()),
        Err(error) => Err(error).context("the floor cannot receive"),
    }
}

fn acknowledge(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrIn>,
    arrived: &[(usize, Option<SockaddrIn>)],
    storage: &[u8],
) -> Result<()> {
    const NO_CONTROL: [ControlMessage<'_>; 0] = [];
    let replies: Vec<[u8; 4]> = storage
        .chunks_exact(SLOT_LEN)
        .take(arrived.len())
        .map(|slot| match slot {
            [version, high, low, ..] => [*version, *high, *low, PUSH_ACK],
            _ => [0; 4],
        })
        .collect();
    let addresses: Vec<Option<SockaddrIn>> = arrived.iter().map(|(_, address)| *address).collect();
    let slices: Vec<[IoSlice<'_>; 1]> = replies.iter().map(|reply| [IoSlice::new(reply)]).collect();
    let mut next = 0;
    while let (Some(slices), Some(addresses)) = (slices.get(next..), addresses.get(next..))
        && !slices.is_empty()
    {
        let fd = socket.as_raw_fd();
        match sendmmsg(fd, headers, slices.iter(), addresses, NO_CONTROL, MsgFlags::empty()) {
            Ok(sent) => next += sent.count().max(1),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("the floor cannot acknowledge"),
        }
    }
    Ok(())
}

/// Reads a PUSH_DATA's text and adds what would be journalled of the copy.
fn read(text: &[u8], row: &mut Vec<u8>) -> Result<Vec<u8>> {
    let push: PushData<'_> = serde_json::from_slice(text).context("the generator wrote JSON that is none")?;
    let rxpk = push.rxpk.first().context("a PUSH_DATA without rxpk")?;
    row.extend_from_slice(&rxpk.tmst.to_be_bytes());
    row.extend_from_slice(&rxpk.freq.to_be_bytes());
    row.extend_from_slice(&rxpk.rssi.to_be_bytes());
    row.extend_from_slice(&rxpk.lsnr.to_be_bytes());
    row.extend_from_slice(rxpk.datr.as_bytes());
    Ok(BASE64.decode(rxpk.data)?)
}

/// The writing thread: one row each, committed to the disk. Returns how long each commit took, in microseconds.
fn write(database: &Path, rows: Receiver<Vec<u8>>) -> Result<Vec<i64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut connection = runtime.block_on(open(database))?;
    let mut commits_us = Vec::new();
    for row in rows {
        let begun_us = now_us();
        let insert = sqlx::query("INSERT INTO journal (count, body) VALUES (?1, ?2)").bind(100).bind(row);
        runtime.block_on(insert.execute(&mut connection))?;
        commits_us.push((now_us() - begun_us).cast_signed());
    }
    runtime.block_on(connection.close())?;
    Ok(commits_us)
}

async fn open(database: &Path) -> Result<SqliteConnection> {
    let mut connection = SqliteConnectOptions::new()
        .filename(database)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .connect()
        .await?;
    let table =
        "CREATE TABLE journal (batch INTEGER PRIMARY KEY, count INTEGER NOT NULL, body BLOB NOT NULL) STRICT";
    sqlx::query(table).execute(&mut connection).await?;
    Ok(connection)
}

const FLOOR_DEVICES: u32 = 1_000;
const UPLINKS_PER_ROW: u64 = 100;
const ROWS_WAITING_MAX: usize = 64;
const ROW_LEN: usize = 16_384;
const BATCH_LEN: usize = 64;
const SLOT_LEN: usize = 2_048;
const HEADER_LEN: usize = 12;
/// Few enough that the kernel's buffer holds them.
const DATAGRAMS_AHEAD: u64 = 384;
