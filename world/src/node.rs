//! One server of the world: all roles of one process on the shared disk, and the fate that cuts it off.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use app_bridge::AppBridge;
use app_bridge::codec::{Decoded, Interpreter};
use join_server::JoinServer;
use mac::phy::{DownFrame, parse_downlink};
use network_server::gateway::{VirtualPort, Wire};
use network_server::{Host, NetworkConfig, NetworkServer};
use proto::port::JoinPort;
use simulator::forwarder::{self, PULL_RESP, PUSH_ACK};
use store::{Faults, ReadFate, Readiness, Store, StoreOptions, WriteFate, WriteKind, WriteOutcome};
use tokio::sync::watch;

use crate::account::{Identity, Invariant, Order};
use crate::chance::For;
use crate::scene::{Content, CrashPlan, Event, Inside, Scene};
use crate::states::State;

/// A running server.
pub(crate) struct Node {
    pub(crate) life: usize,
    pub(crate) server: usize,
    pub(crate) port: VirtualPort,
    pub(crate) bridge: AppBridge,
    pub(crate) store: Store,
    /// Its tasks end with it.
    _network: NetworkServer,
    fate: Arc<Fate>,
}

impl Node {
    /// Starts every role on the disk.
    ///
    /// # Errors
    /// What the disk refused; nothing is running then.
    pub(crate) async fn start(scene: &Arc<Scene>, server: usize) -> anyhow::Result<Self> {
        let (disk, life, options, chance) = {
            let mut inside = scene.open();
            let life = inside.account.begin_life(server);
            let options =
                StoreOptions { retention_max_age_s: inside.setting.retention_s, ..StoreOptions::default() };
            (inside.disk.clone(), life, options, inside.chance)
        };
        let fate = Arc::new(Fate {
            life,
            server,
            dead: AtomicBool::new(false),
            scene: Arc::clone(scene),
            readiness: OnceLock::new(),
        });
        let store = Store::open_in_memory(&disk, options, Arc::clone(&fate) as _).await?;
        // Nobody else sets it.
        let _ = fate.readiness.set(store.readiness());
        let random = Box::new(|bytes: &mut [u8]| seam::fill_random(bytes));
        let join: Arc<dyn JoinPort> = Arc::new(JoinServer::new(
            store.join(),
            store.sealer(),
            *store.transport_key(),
            "world".to_owned(),
            random,
        ));
        let host = Host::Simulation(Arc::clone(&fate) as _);
        let network = NetworkServer::start(NetworkConfig::default(), &store, Arc::clone(&join), host).await?;
        let port = network.virtual_port().expect("a simulated server has one");
        let decode = move |bytes: &[u8], f_port: u8| {
            let mut draw =
                chance.draw(For::Codec, u64::from(f_port), bytes.iter().map(|b| u64::from(*b)).sum());
            match draw.between(0, 9) {
                0 => Decoded::failed("the codec does not know these bytes"),
                1 => Decoded { timed_out: true, ..Decoded::failed("the codec took too long") },
                _ => Decoded { object_json: format!("{{\"length\":{}}}", bytes.len()), ..Decoded::default() },
            }
        };
        let config = app_bridge::Config {
            interpreter: Interpreter::Simulated(Arc::new(decode)),
            heartbeat_period: Duration::from_secs(60),
            ..app_bridge::Config::default()
        };
        let bridge = AppBridge::start(
            config,
            store.bridge(),
            store.sealer(),
            &store.transport_key(),
            network.port(),
            join,
        )
        .await?;
        network.set_payload_port(bridge.payload_port());
        Ok(Self { life, server, port, bridge, store, _network: network, fate })
    }

    /// Cuts the server off: whatever its tasks still do, nobody sees it.
    pub(crate) fn cut_off(&self) {
        self.fate.dead.store(true, Ordering::Relaxed);
    }
}

/// Decides at each step of a server what it meets; and whether it meets anything at all any more.
pub(crate) struct Fate {
    life: usize,
    server: usize,
    dead: AtomicBool,
    scene: Arc<Scene>,
    readiness: OnceLock<watch::Receiver<Readiness>>,
}

/// Where a step ends a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cut {
    After,
    Before,
}

impl Fate {
    /// True once nobody sees what the server does.
    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Counts a step; answers where the power fails in it.
    fn step(&self, inside: &mut Inside) -> Option<Cut> {
        let plan = inside.crash.as_mut().filter(|plan| plan.life == self.life)?;
        plan.steps = plan.steps.saturating_sub(1);
        if plan.steps > 0 {
            return None;
        }
        let CrashPlan { after, away_ms, .. } = inside.crash.take()?;
        self.dead.store(true, Ordering::Relaxed);
        inside.account.end_life(self.life, crate::account::End::Dead);
        inside.plan(0, Event::Crashed { life: self.life, away_ms });
        self.scene.bell.notify_one();
        let cut = if after { Cut::After } else { Cut::Before };
        inside.note(&[1, self.life as u64], || {
            format!("server {} loses its power in a step: {cut:?}", self.server)
        });
        Some(cut)
    }
}

impl Faults for Fate {
    fn write(&self, kind: WriteKind) -> WriteFate {
        let nothing = |outcome| WriteFate { takes: Duration::ZERO, outcome };
        if self.is_dead() {
            return nothing(WriteOutcome::CrashBefore);
        }
        let mut inside = self.scene.open();
        let now_ms = inside.now_ms();
        let cut = self.step(&mut inside);
        let full = now_ms < inside.trouble.full_until_ms;
        match cut {
            Some(Cut::Before) => {
                inside.states.reach(if full { State::CrashOfLateStore } else { State::CrashBeforeCommit });
                return nothing(WriteOutcome::CrashBefore);
            }
            Some(Cut::After) if !full => {
                inside.states.reach(State::CrashAfterCommit);
                return nothing(WriteOutcome::CrashAfter);
            }
            Some(Cut::After) => return nothing(WriteOutcome::CrashBefore),
            None => {}
        }
        inside.draws += 1;
        let (draws, commit_ms) = (inside.draws, inside.setting.commit_ms);
        let slow_ms = if now_ms < inside.trouble.slow_until_ms { inside.trouble.slow_ms } else { 0 };
        let takes_us = inside.chance.draw(For::Disk, draws, 0).between(100, commit_ms * 1_000);
        let takes = Duration::from_micros(takes_us) + Duration::from_millis(slow_ms);
        let _ = kind;
        let outcome = if full {
            inside.states.reach(State::DiskFull);
            inside.trouble.was_full = true;
            WriteOutcome::Refused { disk_full: true }
        } else if inside.trouble.errors > 0 {
            inside.trouble.errors -= 1;
            WriteOutcome::Refused { disk_full: false }
        } else if inside.trouble.unknown > 0 {
            inside.trouble.unknown -= 1;
            inside.states.reach(State::CommitOutcomeUnknown);
            WriteOutcome::DoneButReportedFailed
        } else {
            if std::mem::take(&mut inside.trouble.was_full) {
                inside.states.reach(State::DiskFreeAgain);
            }
            WriteOutcome::Done
        };
        WriteFate { takes, outcome }
    }

    fn read(&self) -> ReadFate {
        if self.is_dead() { ReadFate::Crash } else { ReadFate::DONE }
    }

    fn is_off(&self) -> bool {
        self.is_dead()
    }
}

impl Wire for Fate {
    fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        if self.is_dead() {
            return Ok(());
        }
        let Some((kind, token, body)) = forwarder::parse(datagram) else { return Ok(()) };
        let mut inside = self.scene.open();
        let Some(gateway) = inside.gateways.iter().position(|gateway| gateway.address == to) else {
            return Ok(());
        };
        match kind {
            PUSH_ACK => {
                let ready = self.readiness.get().is_none_or(|readiness| readiness.borrow().is_ready());
                if !ready {
                    let detail =
                        format!("server {} acknowledges a PUSH_DATA while its disk refuses", self.server);
                    inside.account.violate(Invariant::I11, detail);
                }
            }
            PULL_RESP => {
                inside.observe();
                let cut = self.step(&mut inside);
                if cut == Some(Cut::Before) {
                    return Ok(());
                }
                self.order(&mut inside, gateway, u16::from_be_bytes(token), body);
            }
            _ => return Ok(()),
        }
        let (life, server) = (self.life, self.server);
        inside.down_link(gateway, server, life, datagram);
        drop(inside);
        self.scene.bell.notify_one();
        Ok(())
    }
}

impl Fate {
    /// Tells the account of a PULL_RESP that leaves.
    fn order(&self, inside: &mut Inside, gateway: usize, token: u16, body: &[u8]) {
        let eui = inside.gateways[gateway].eui;
        let Some(transmission) = forwarder::parse_pull_resp(eui, body, 0) else {
            inside.account.violate(Invariant::I7, "a PULL_RESP that no forwarder can read".to_owned());
            return;
        };
        let boots = inside.gateways[gateway].boots;
        let found = transmission.tmst_us.and_then(|tmst| {
            // What a gateway heard before its reboot is answered in the old numbers.
            (0..=boots).rev().find_map(|boots| inside.account.answered(gateway, boots, tmst))
        });
        let phy = transmission.phy_payload;
        let join_key = found
            .filter(|(number, _)| inside.account.transmissions[*number].frame.is_none())
            .map(|(number, _)| inside.devices[inside.account.transmissions[number].device].join_key());
        let answered = found.and_then(|(number, _)| inside.account.transmissions[number].frame);
        let answered = answered.map(|frame| inside.account.frames[frame].fcnt);
        let identity = if join_key.is_none() { identify(inside, &phy, answered) } else { None };
        let (life, delay_s) = (self.life, found.map_or(0, |(_, delay_s)| delay_s));
        inside.trace.note_bytes(&phy);
        inside.note(&[2, gateway as u64, u64::from(delay_s)], || {
            let what = match (&identity, join_key) {
                (Some(identity), _) => format!("FCntDown {} for device {}", identity.fcnt, identity.device),
                (None, Some(_)) => "a Join-Accept".to_owned(),
                (None, None) => "a frame nobody knows".to_owned(),
            };
            format!("server {} asks gateway {} to send {what} after {delay_s} s", self.server, gateway)
        });
        let order = Order {
            life,
            gateway,
            token,
            phy,
            transmission: found.map(|(number, _)| number),
            left_ms: inside.now_ms(),
            refused: false,
            delay_s,
        };
        let Inside { account, states, .. } = inside;
        account.ordered(order, transmission.freq_hz, &transmission.data_rate, identity, join_key, states);
        if let Some(forger) = inside.forger.filter(|forger| *forger != gateway) {
            inside.forger = None;
            inside.states.reach(State::ForgedTxAck);
            let datagram = forwarder::tx_ack(token, inside.gateways[forger].eui, Some("NONE"));
            let server = self.server;
            inside.plan(0, Event::ToServer { server, gateway: forger, datagram, content: Content::Nothing });
        }
    }
}

/// Whose a data downlink is: the device and session in which its MIC holds.
fn identify(inside: &Inside, phy: &[u8], answered: Option<u32>) -> Option<Identity> {
    let Some(DownFrame::Data(frame)) = parse_downlink(phy) else { return None };
    let of_port = frame.f_port.is_some_and(|port| port > 0);
    for (number, device) in inside.devices.iter().enumerate() {
        let sessions = device.past.iter().map(|(session, sim)| (*session, sim));
        for (session, sim) in sessions.chain([(device.session, &device.sim)]) {
            if sim.dev_addr() != Some(frame.dev_addr) {
                continue;
            }
            let Some(fcnt) = sim.counter_of(phy, answered) else { continue };
            let of_application = device.spec.kind == crate::schedule::Kind::Otaa11 && of_port;
            return Some(Identity { device: number, session, of_application, fcnt });
        }
    }
    None
}
