//! Starting and stopping the network server: what is made in which order, and the only place that reads the clocks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use mac::dedup::WINDOW_MS;
use mac::ids::{DevEui, FCntUp, GatewayEui, NetId, SessionId};
use mac::region::RegionId;
use mac::session::Session;
use prometheus_client::registry::Registry;
use proto::port::{JoinPort, NetworkPort, PayloadPort};
use proto::v1;
use store::{SessionRow, Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::budget::{DOWNLINKS_IN_FLIGHT_MAX, DRAIN_MS, JOINS_IN_FLIGHT_MAX};
use crate::clock::Clock;
use crate::control::Control;
use crate::downlink::{DownlinkMessage, Downlinks};
use crate::drops::DropLog;
use crate::gateway::{
    self, GatewayConfig, GatewayError, GatewayEvent, GatewayPolicy, Gateways, UdpConfig, UdpServer,
    VirtualPort, Wire,
};
use crate::index::{Candidate, DevAddrIndex};
use crate::ingest::{Ingest, ReplayBudget, Verdicts};
use crate::join::Joins;
use crate::metrics::{Metrics, Sizes};
use crate::owner::{Device, Owner, OwnerMessage, Shared};
use crate::owner_queue::{OwnerQueue, owner_of, run_on};
use crate::profiles::{Profiles, from_message};
use crate::records;
use crate::seal::open_keys;
use crate::transmit::Transmitter;

/// How the network server is run.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Where gateways send to.
    pub udp: UdpConfig,
    /// The network's identifier; DevAddrs are made in it.
    pub net_id: NetId,
    /// How long copies of an uplink are gathered, milliseconds.
    pub dedup_window_ms: u64,
    /// Threads that decide; 1 suits up to four cores.
    pub owner_threads: usize,
    /// Gateways that knock are registered.
    pub auto_register: bool,
    /// The region of gateways registered so.
    pub auto_register_region: Option<RegionId>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            udp: UdpConfig::default(),
            net_id: NetId::new(0),
            dedup_window_ms: WINDOW_MS,
            owner_threads: 1,
            auto_register: false,
            auto_register_region: None,
        }
    }
}

/// What the network server runs on.
pub enum Host {
    /// Sockets and threads of this machine.
    Machine,
    /// A simulated world: everything is a task of the runtime it is started on, and datagrams leave on this wire.
    Simulation(Arc<dyn Wire>),
}

/// Why the network server did not start. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port of the gateways.
    #[error(transparent)]
    Gateways(#[from] GatewayError),
    /// What was stored could not be read.
    #[error("the stored network state could not be read")]
    Store(#[from] StoreError),
    /// A stored session cannot be used.
    #[error("session {session:016x} of device {dev_eui} in the database is damaged: restore a backup")]
    #[allow(missing_docs, reason = "fields are named after what they hold")]
    DamagedSession { dev_eui: DevEui, session: u64 },
    /// The system gives no thread.
    #[error("no thread could be started")]
    Thread(#[source] std::io::Error),
}

/// The running network server.
pub struct NetworkServer {
    port: Arc<Control>,
    payloads: Arc<ArcSwapOption<Arc<dyn PayloadPort>>>,
    ingest: Arc<Ingest>,
    udp: Arc<UdpServer>,
    virtual_port: Option<VirtualPort>,
    owners: Vec<OwnerQueue>,
    threads: Vec<JoinHandle<()>>,
    tasks: JoinSet<()>,
    /// Downlinks and joins between their commit and their outcome.
    under_way: TaskTracker,
    metrics: Arc<Metrics>,
    drops: Arc<DropLog>,
    sizes: Arc<Sizes>,
}

impl std::fmt::Debug for NetworkServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetworkServer").field("udp", &self.udp.local_addr()).finish_non_exhaustive()
    }
}

impl NetworkServer {
    /// Loads what the store holds, starts the owners, and opens the gateways' port last.
    ///
    /// # Errors
    /// [`StartError`]; nothing is running then.
    pub async fn start(
        config: NetworkConfig,
        store: &Store,
        join_server: Arc<dyn JoinPort>,
        host: Host,
    ) -> Result<Self, StartError> {
        let clock = Clock::start();
        let metrics = Arc::new(Metrics::default());
        let drops = Arc::new(DropLog::default());
        let sizes = Arc::new(Sizes::default());
        let index = Arc::new(DevAddrIndex::default());
        let profiles = Arc::new(Profiles::default());
        let gateways = Arc::new(Gateways::new(GatewayPolicy {
            auto_register: config.auto_register,
            ..GatewayPolicy::default()
        }));
        let (downlink_jobs, downlinks) = mpsc::channel(DOWNLINKS_IN_FLIGHT_MAX);
        let (join_jobs, joins) = mpsc::channel(JOINS_IN_FLIGHT_MAX);
        let shared = Arc::new(Shared {
            index: Arc::clone(&index),
            drops: Arc::clone(&drops),
            metrics: Arc::clone(&metrics),
            sizes: Arc::clone(&sizes),
            gateways: Arc::clone(&gateways),
            journal: store.journal(),
            sealer: store.sealer(),
            clock,
            downlinks: downlink_jobs,
            joins: join_jobs,
            window_ms: config.dedup_window_ms,
            turns: (0..TURNS).map(|_| tokio::sync::Mutex::new(())).collect(),
        });

        let mut loaded: Vec<Owner> =
            (0..config.owner_threads.max(1)).map(|_| Owner::new(Arc::clone(&shared))).collect();
        load(store, &shared, &profiles, &gateways, &mut loaded).await?;

        let mut owners = Vec::new();
        let mut threads = Vec::new();
        let mut tasks = JoinSet::new();
        for (number, owner) in loaded.into_iter().enumerate() {
            owners.push(match &host {
                Host::Machine => {
                    let (queue, thread) = OwnerQueue::on_thread(owner, number).map_err(StartError::Thread)?;
                    threads.push(thread);
                    queue
                }
                Host::Simulation(_) => OwnerQueue::as_task(owner, &mut tasks),
            });
        }

        let (news, news_received) = mpsc::channel(NEWS_MAX);
        let ingest = Arc::new(Ingest {
            index,
            drops: Arc::clone(&drops),
            metrics: Arc::clone(&metrics),
            sizes: Arc::clone(&sizes),
            owners: owners.clone(),
            news,
            readiness: store.readiness(),
            verdicts: Verdicts::default(),
            replays: ReplayBudget::default(),
            stopping: AtomicBool::new(false),
        });
        let udp_clock = Arc::new(move || (clock.mono(), clock.wall()));
        let ingress = Arc::clone(&ingest) as _;
        let (udp, virtual_port) = match host {
            Host::Machine => (gateway::start(config.udp, Arc::clone(&gateways), ingress, udp_clock)?, None),
            Host::Simulation(wire) => {
                let (udp, port) = gateway::start_virtual(Arc::clone(&gateways), ingress, udp_clock, wire);
                tasks.spawn(port.clone().run_timers());
                (udp, Some(port))
            }
        };
        let udp = Arc::new(udp);

        let payloads = Arc::new(ArcSwapOption::empty());
        let under_way = TaskTracker::new();
        let transmitter =
            Arc::new(Transmitter::new(Arc::clone(&udp), Arc::clone(&gateways), clock, Arc::clone(&metrics)));
        tasks.spawn(
            Arc::new(Downlinks {
                shared: Arc::clone(&shared),
                owners: owners.clone(),
                transmitter: Arc::clone(&transmitter),
                payloads: Arc::clone(&payloads),
                under_way: under_way.clone(),
            })
            .run(downlinks),
        );
        let joining = Joins::new(
            Arc::clone(&shared),
            owners.clone(),
            transmitter,
            join_server,
            config.net_id,
            under_way.clone(),
        );
        tasks.spawn(Arc::new(joining).run(joins));
        let port = Arc::new(Control {
            store: store.clone(),
            shared,
            owners: owners.clone(),
            profiles,
            gateways,
            started_at: clock.wall(),
        });
        tasks.spawn(tell_news(Arc::clone(&port), config.auto_register_region, news_received));
        Ok(Self {
            port,
            payloads,
            ingest,
            udp,
            virtual_port,
            owners,
            threads,
            tasks,
            under_way,
            metrics,
            drops,
            sizes,
        })
    }

    /// The port the app-bridge talks to.
    pub fn port(&self) -> Arc<dyn NetworkPort> {
        Arc::clone(&self.port) as Arc<dyn NetworkPort>
    }

    /// Tells whom windows ask for payloads. Before that they leave without.
    pub fn set_payload_port(&self, port: Arc<dyn PayloadPort>) {
        self.payloads.store(Some(Arc::new(port)));
    }

    /// Where gateways send to.
    pub fn local_addr(&self) -> std::net::SocketAddr {
        self.udp.local_addr()
    }

    /// Where a simulated world puts in datagrams; `None` on a machine.
    pub fn virtual_port(&self) -> Option<VirtualPort> {
        self.virtual_port.clone()
    }

    /// Makes counters and histograms visible.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(&self.drops, Arc::clone(&self.sizes), Arc::clone(&self.udp), registry);
    }

    /// Stops taking frames, decides the open windows, commits, and waits for the outcome of what is under way. The store is the
    /// caller's to close.
    pub async fn stop(mut self) {
        self.ingest.stopping.store(true, Ordering::Relaxed);
        let drained = tokio::time::timeout(Duration::from_millis(DRAIN_MS), async {
            for owner in &self.owners {
                if run_on(owner, Owner::close_all).await.is_none() {
                    return;
                }
            }
            // What the owners handed over is committed, and its downlinks are under way, when these two come back.
            if self.port.shared.journal.commit(Vec::new(), Vec::new()).await.is_err() {
                return;
            }
            let (flushed, wait) = oneshot::channel();
            if self.port.shared.downlinks.send(DownlinkMessage::Flush(flushed)).await.is_ok() {
                let _ = wait.await;
            }
            self.under_way.close();
            self.under_way.wait().await;
        });
        if drained.await.is_err() {
            tracing::warn!("the outcome of some downlinks was not waited for; they end as unknown");
        }
        // Not before: they are asked whether an outcome still counts.
        self.stop_owners().await;
        let udp = Arc::clone(&self.udp);
        if tokio::task::spawn_blocking(move || udp.stop()).await.is_err() {
            tracing::error!("stopping the gateways' port was cut off");
        }
        self.tasks.shutdown().await;
    }

    async fn stop_owners(&mut self) {
        for owner in &self.owners {
            // A full queue is behind a disk that refuses; then there is nothing to wait for.
            let stop = owner.send_timeout(OwnerMessage::Stop, Duration::from_millis(DRAIN_MS));
            if stop.is_err() {
                tracing::error!("an owner did not take the order to stop; frames it held were not accepted");
                return;
            }
        }
        let threads = std::mem::take(&mut self.threads);
        let ended =
            tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
        if !matches!(tokio::time::timeout(Duration::from_millis(DRAIN_MS), ended).await, Ok(Ok(true))) {
            tracing::error!(
                "the owners did not end in time: the disk refuses; frames they held were not accepted"
            );
        }
    }
}

/// Fills the owners and the index from the store.
async fn load(
    store: &Store,
    shared: &Arc<Shared>,
    profiles: &Profiles,
    gateways: &Gateways,
    owners: &mut [Owner],
) -> Result<(), StartError> {
    let tables = store.network();
    for message in tables.load_profiles().await? {
        match from_message(&message) {
            Ok(profile) => profiles.put(&message.id, profile),
            Err(error) => tracing::error!(
                profile = message.id,
                error,
                "a stored profile cannot be used; its devices are refused"
            ),
        }
    }
    for (eui, message) in tables.load_gateways().await? {
        gateways.put(gateway_config(GatewayEui::new(eui), &message));
    }
    let count = owners.len();
    let mut devices = 0_u64;
    tables
        .load_devices(|row| {
            let dev_eui = DevEui::new(row.dev_eui);
            let Some(profile) = profiles.find(&row.profile_id) else {
                tracing::error!(%dev_eui, profile = row.profile_id, "the device's profile cannot be used; its frames are refused");
                return;
            };
            let device = Device {
                join_eui: row.join_eui,
                profile,
                disabled: row.disabled,
                allow_fcnt_reset: row.allow_fcnt_reset,
                queue: None,
                current: None,
                pending: Vec::new(),
                answer: Weak::new(),
            };
            if let Some(owner) = owners.get_mut(owner_of(dev_eui, count)) {
                owner.devices.insert(dev_eui, Box::new(device));
                devices = devices.saturating_add(1);
            }
        })
        .await?;
    let mut failed = None;
    let mut sessions = 0_u64;
    tables
        .load_sessions(|row| {
            let dev_eui = DevEui::new(row.dev_eui);
            let Some(owner) = owners.get_mut(owner_of(dev_eui, count)) else { return };
            let Some(device) = owner.devices.get_mut(&dev_eui) else { return };
            match session_of(shared, &row) {
                Some(session) => {
                    let profile = device.profile.load();
                    shared.index.put(Candidate::new(&session, &profile, device.allow_fcnt_reset));
                    sessions = sessions.saturating_add(1);
                    // Of two live ones, which a crash between two commits could leave, the newer counts.
                    let newer = |known: &Session| known.mac.started_at_s < session.mac.started_at_s;
                    if session.mac.pending {
                        device.pending.push(session);
                    } else if device.current.as_ref().is_none_or(newer) {
                        device.current = Some(session);
                    }
                }
                None => {
                    failed.get_or_insert(StartError::DamagedSession { dev_eui, session: row.session_id });
                }
            }
        })
        .await?;
    for owner in owners {
        owner.devices.values_mut().filter(|d| d.pending.len() > 1).for_each(|device| sort_pending(device));
        owner.devices.shrink_to_fit();
    }
    shared.sizes.devices.store(devices, Ordering::Relaxed);
    shared.sizes.sessions.store(sessions, Ordering::Relaxed);
    failed.map_or(Ok(()), Err)
}

fn sort_pending(device: &mut Device) {
    device.pending.sort_by_key(|session| session.mac.started_at_s);
}

fn session_of(shared: &Shared, row: &SessionRow) -> Option<Session> {
    let id = SessionId::new(row.session_id);
    let keys = open_keys(&shared.sealer, id, &row.sealed_keys).ok()??;
    let fcnt_up = match row.fcnt_up_plus_1.checked_sub(1) {
        None => None,
        Some(fcnt) => Some(FCntUp::new(u32::try_from(fcnt).ok()?)),
    };
    let dev_eui = DevEui::new(row.dev_eui);
    Session::unpack(id, dev_eui, keys, &row.state, fcnt_up, row.n_fcnt_down, row.a_fcnt_down).ok()
}

/// A gateway as the sockets need it.
pub(crate) fn gateway_config(eui: GatewayEui, message: &v1::Gateway) -> GatewayConfig {
    GatewayConfig {
        region: RegionId::from_number(message.region),
        antenna_gain_dbi: message.antenna_gain_dbi,
        power_dbm_max: (message.max_power_dbm != 0.0).then_some(message.max_power_dbm),
        ..GatewayConfig::new(eui)
    }
}

/// Makes news of gateways durable: they are events like all others.
async fn tell_news(control: Arc<Control>, region: Option<RegionId>, mut news: mpsc::Receiver<GatewayEvent>) {
    while let Some(event) = news.recv().await {
        let at = control.shared.clock.wall();
        let record = match event {
            GatewayEvent::Online { gateway } => records::gateway(at, gateway, true, ""),
            GatewayEvent::Offline { gateway } => records::gateway(at, gateway, false, "silent for a minute"),
            GatewayEvent::PathMoved { gateway, from, to } => {
                tracing::info!(gateway_eui = %gateway, %from, %to, "the downlink path of a gateway moved");
                records::gateway(at, gateway, true, &format!("downlink path moved from {from} to {to}"))
            }
            GatewayEvent::PathMoveRefused { gateway, from } => {
                tracing::warn!(gateway_eui = %gateway, %from, "a PULL_DATA from elsewhere was kept out");
                let message = format!(
                    "gateway {gateway}: a PULL_DATA from {from} was kept out, the path is alive elsewhere"
                );
                records::error(at, None, "path_move_refused", message)
            }
            GatewayEvent::AutoRegistered { gateway, source } => {
                tracing::info!(gateway_eui = %gateway, %source, "a gateway registered itself");
                let message = v1::Gateway {
                    gateway_eui: gateway.to_string(),
                    name: format!("registered from {source}"),
                    region: region.map_or(0, RegionId::number),
                    created_at_us: at.us(),
                    ..v1::Gateway::default()
                };
                if let Err(error) = control.store.network().put_gateway(gateway.value(), &message).await {
                    tracing::error!(gateway_eui = %gateway, %error, "a gateway that registered itself was not written");
                }
                records::gateway(at, gateway, true, &format!("registered from {source}"))
            }
            GatewayEvent::Dropped { .. } | GatewayEvent::DroppedMany { .. } | GatewayEvent::Uplinks(_) => {
                continue;
            }
        };
        if let Err(error) = control.shared.journal.commit(vec![record], Vec::new()).await {
            tracing::error!(%error, "news of a gateway was not written");
        }
    }
}

const NEWS_MAX: usize = 4_096;
const TURNS: usize = 256;
