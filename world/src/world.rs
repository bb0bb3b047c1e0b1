//! The driver: does what is on the agenda, step by step, and checks after each.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use simulator::device::{Ignored, Uplink};
use simulator::forwarder::{self, PULL_RESP, PUSH_ACK, Transmission as Order};
use store::{MemoryDisk, Readiness};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::account::{End, Frame, Invariant, Transmission, Violation};
use crate::air::{self, Listening};
use crate::chance::{Chance, For};
use crate::client::{self, Ordered};
use crate::node::Node;
use crate::scene::{Content, CrashPlan, Event, Inside, Scene};
use crate::schedule::{Action, Setting};
use crate::states::{State, States};
use crate::trace::{Trace, Words};

/// A world of its own: servers on one disk, gateways, devices, clients.
///
/// It lives on one thread, under a clock of its own, and does exactly what its seed says.
pub struct World {
    // Before the clock: what runs in it reads the clock while it is dropped.
    nodes: Vec<Node>,
    scene: Arc<Scene>,
    runtime: Runtime,
    _clock: seam::Simulated,
}

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Promises that were broken; empty for a good run.
    pub violations: Vec<Violation>,
    /// The same for the same schedule.
    pub trace_hash: u64,
    /// Situations it was in.
    pub states: States,
    /// What happened, when words were kept.
    pub story: String,
    /// Records in the log at the end.
    pub records: u64,
}

impl World {
    /// A world with everything registered and one server running.
    ///
    /// # Panics
    /// When the server does not start on an empty disk.
    pub fn new(seed: u64, setting: Setting, words: Words) -> Self {
        let clock = seam::simulate(seed, wall_clock);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing of the system");
        let scene = runtime.block_on(async {
            CLOCK.set(Some((Instant::now(), BEGINNING_US)));
            let inside = Inside::new(setting, Chance::new(seed), MemoryDisk::default(), Trace::new(words));
            Arc::new(Scene::new(inside))
        });
        let mut world = Self { nodes: Vec::new(), scene, runtime, _clock: clock };
        world.runtime.block_on(async {
            let node = Node::start(&world.scene, 0).await.expect("a server starts on an empty disk");
            client::register(&world.scene, &node.bridge).await.expect("everything is new");
            world.scene.open().front = Some((node.life, node.bridge.clone()));
            world.nodes.push(node);
            let consumers = world.scene.open().setting.consumers.clone();
            for (number, spec) in consumers.into_iter().enumerate() {
                tokio::spawn(client::consume(Arc::clone(&world.scene), number, spec));
            }
            let gateways = world.scene.open().gateways.len();
            for gateway in 0..gateways {
                world.scene.open().plan(0, Event::KeepAlive { gateway });
            }
        });
        world.run_ms(200);
        world
    }

    /// Lets time pass.
    pub fn run_ms(&mut self, ms: u64) {
        let Self { nodes, scene, runtime, .. } = self;
        let end_ms = scene_now(runtime, scene) + ms;
        runtime.block_on(Driver { nodes, scene }.run_until(end_ms));
    }

    /// Puts an action on the agenda, so many milliseconds from now. Its number decides its luck.
    pub(crate) fn plan(&self, in_ms: u64, number: u64, action: Action) {
        let _inside_runtime = self.runtime.enter();
        self.scene.open().plan(in_ms, Event::Act { number, action });
    }

    pub(crate) fn now_ms(&self) -> u64 {
        scene_now(&self.runtime, &self.scene)
    }

    /// Looks into the scene.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Inside) -> T) -> T {
        let _inside_runtime = self.runtime.enter();
        look(&mut self.scene.open())
    }

    /// Stops the faults, lets everything drain, and makes the last checks.
    pub fn finish(mut self) -> Outcome {
        // What follows a broken promise only confuses.
        for step in [Self::calm_down, Self::drain, Self::check_the_end, Self::look_at_the_disk] {
            if self.look(|inside| inside.account.violations.is_empty()) {
                step(&mut self);
            }
        }
        self.outcome()
    }

    fn outcome(&mut self) -> Outcome {
        let outcome = self.look(|inside| {
            inside.observe();
            Outcome {
                violations: inside.account.violations.clone(),
                trace_hash: inside.trace.hash(),
                states: inside.states.clone(),
                story: inside.trace.story(),
                records: inside.account.log_seen(),
            }
        });
        CLOCK.set(None);
        outcome
    }

    /// Ends every fault and brings a server back.
    fn calm_down(&mut self) {
        self.look(|inside| {
            inside.calm = true;
            inside.trouble = crate::scene::Trouble::default();
            inside.crash = None;
            inside.forger = None;
            inside.note(&[7], || "the faults stop".to_owned());
            for gateway in &mut inside.gateways {
                gateway.away_until_ms = 0;
            }
            // A device that has begun its nonces anew is given one that was not used.
            for device in &mut inside.devices {
                let next = device.dev_nonce_max.saturating_add(1);
                device.sim.set_next_dev_nonce(next);
            }
            for gateway in 0..inside.gateways.len() {
                inside.plan(0, Event::OutageEnds { gateway });
            }
        });
        // What is under way arrives: late frames, ends of overlaps, restarts.
        self.run_ms(30_000);
        let newest =
            self.look(|inside| inside.front.as_ref().map(|(life, _)| inside.account.lives[*life].server));
        let server = newest.or_else(|| self.nodes.last().map(|node| node.server)).unwrap_or(0);
        self.look(|inside| {
            for gateway in &mut inside.gateways {
                gateway.servers = vec![server];
            }
        });
        // Each opens its way for downlinks there.
        self.run_ms(KEEP_ALIVE_MS + 1_000);
    }

    fn drain(&mut self) {
        let (devices, gateways) = self.look(|inside| (inside.devices.len(), inside.gateways.len()));
        let heard = u8::try_from((1_u64 << gateways) - 1).expect("at most five gateways");
        let before = self.look(|inside| inside.account.log_seen());
        // Everybody joins once and sends once.
        for device in 0..devices {
            let in_ms = 50 * device as u64;
            self.plan(in_ms, DRAIN + device as u64, Action::Join { device, heard });
            let uplink = Action::Uplink { device, confirmed: true, len: 4, heard, times: 1 };
            self.plan(12_000 + in_ms, DRAIN + 100 + device as u64, uplink);
        }
        self.run_ms(26_000);
        let mut number = DRAIN + 1_000;
        for round in 0..DRAIN_ROUNDS {
            let open = self.look(|inside| {
                inside.observe();
                inside.account.devices_with_open_items()
            });
            if open.is_empty() || self.look(|inside| !inside.account.violations.is_empty()) {
                break;
            }
            // The duty cycle of a crowded gateway needs its hour.
            if round % 8 == 7 {
                self.plan(0, number, Action::Hours { hours: 1 });
                self.run_ms(1_000);
            }
            for device in open {
                number += 1;
                self.plan(0, number, Action::Uplink { device, confirmed: false, len: 4, heard, times: 1 });
            }
            self.run_ms(9_500);
        }
        if self.look(|inside| inside.account.violations.is_empty()) {
            self.look(|inside| inside.account.check_waiting_items());
        }
        // What is too long for the data rate is taken back.
        let waiting = self.look(|inside| inside.account.open_item_ids());
        let front = self.look(|inside| inside.front.clone());
        if let Some((_, bridge)) = front {
            let _inside_runtime = self.runtime.enter();
            for id in waiting {
                tokio::spawn(client::cancel(Arc::clone(&self.scene), bridge.clone(), id));
            }
        }
        self.run_ms(75_000);
        self.look(|inside| inside.heard_before_drain = before);
    }

    fn check_the_end(&mut self) {
        self.look(|inside| {
            inside.observe();
            let (before, devices) = (inside.heard_before_drain, inside.devices.len());
            inside.account.check_expected(0);
            inside.account.check_items();
            let head = inside.account.log_seen();
            for consumer in 0..inside.setting.consumers.len() {
                let reached = inside.account.reached(consumer);
                if reached < head {
                    let detail = format!("consumer {consumer} stays at {reached}, and the log ends at {head}");
                    inside.account.violate(Invariant::Liveness, detail);
                }
            }
            let silent = inside.account.silent_since(before, devices);
            if !silent.is_empty() {
                let detail = format!("devices that cannot be heard any more: {silent:?}");
                inside.account.violate(Invariant::Liveness, detail);
            }
        });
    }

    /// A last crash: what a new server loads is what the log says.
    fn look_at_the_disk(&mut self) {
        let Self { nodes, scene, runtime, .. } = self;
        runtime.block_on(async {
            let mut driver = Driver { nodes, scene };
            driver.end_all();
            match Node::start(scene, 9).await {
                Ok(node) => check_sessions(scene, &node).await,
                Err(error) => {
                    let detail = format!("no server starts on this disk: {error}");
                    scene.open().account.violate(Invariant::I10, detail);
                }
            }
        });
    }
}

/// The devices' counters as a server loads them against the log.
async fn check_sessions(scene: &Scene, node: &Node) {
    let mut rows = Vec::new();
    let loaded = node.store.network().load_sessions(|row| rows.push(row)).await;
    let mut inside = scene.open();
    inside.observe();
    if let Err(error) = loaded {
        inside.account.violate(Invariant::I10, format!("the sessions cannot be read: {error}"));
    }
    for row in rows {
        let Some(committed) = inside.account.committed_of(row.session_id) else { continue };
        let expected = committed.map_or(0, |fcnt| u64::from(fcnt) + 1);
        if row.fcnt_up_plus_1 != expected {
            let detail = format!(
                "session {:016x} is loaded with its next FCntUp at {} and the log says {expected}",
                row.session_id, row.fcnt_up_plus_1
            );
            inside.account.violate(Invariant::I10, detail);
        }
    }
}

struct Driver<'a> {
    nodes: &'a mut Vec<Node>,
    scene: &'a Arc<Scene>,
}

impl Driver<'_> {
    async fn run_until(&mut self, end_ms: u64) {
        loop {
            let (now_ms, next_ms) = {
                let inside = self.scene.open();
                (inside.now_ms(), inside.next_at_ms().unwrap_or(u64::MAX).min(end_ms))
            };
            if next_ms > now_ms {
                let until = tokio::time::sleep(Duration::from_millis(next_ms - now_ms));
                tokio::select! {
                    biased;
                    () = self.scene.bell.notified() => {}
                    () = until => {}
                }
            }
            let due = {
                let mut inside = self.scene.open();
                inside.observe();
                inside.account.check_expected(PATIENCE_MS);
                inside.take_due()
            };
            match due {
                Some(event) => self.happen(event).await,
                None if self.scene.open().now_ms() >= end_ms => return,
                None => {}
            }
            if self.scene.open().account.violations.len() >= ENOUGH {
                return;
            }
        }
    }

    async fn happen(&mut self, event: Event) {
        match event {
            Event::Act { number, action } => self.act(number, action).await,
            Event::Again { device, transmission, times, heard, number } => {
                let mut inside = self.scene.open();
                let listening = inside.devices[device].listening.clone();
                if let Some(listening) = listening.filter(|l| l.transmission == transmission && !l.served) {
                    let frame = inside.account.transmissions[transmission].frame;
                    inside.transmit(device, listening.uplink, frame, heard, times, number);
                }
            }
            Event::ToServer { server, gateway, datagram, content } => {
                self.reach_server(server, gateway, datagram, content);
            }
            Event::ToGateway { gateway, server, life, datagram } => {
                self.scene.open().at_gateway(gateway, server, life, &datagram);
            }
            Event::OnAir { gateway, boots, transmission } => {
                self.scene.open().at_device(gateway, boots, &transmission);
            }
            Event::KeepAlive { gateway } => {
                let mut inside = self.scene.open();
                let datagram = forwarder::pull_data(1, inside.gateways[gateway].eui);
                inside.gateway_sends(gateway, datagram, Content::Nothing);
                inside.plan(KEEP_ALIVE_MS, Event::KeepAlive { gateway });
            }
            Event::SendAgain { gateway, token, boots } => self.scene.open().send_again(gateway, token, boots),
            Event::OutageEnds { gateway } => self.scene.open().outage_ends(gateway),
            Event::Crashed { life, away_ms } => {
                if let Some(node) = self.nodes.iter().position(|node| node.life == life) {
                    self.end(node, Some(away_ms));
                }
            }
            Event::Restart { server } => self.restart(server).await,
            Event::OverlapEnds { server } => {
                if let Some(node) = self.nodes.iter().position(|node| node.server == server) {
                    let readiness = self.nodes[node].store.readiness().borrow().clone();
                    if matches!(&readiness, Readiness::NotReady { reason, .. } if reason.contains("taken over"))
                    {
                        self.scene.open().states.reach(State::StaleServerRefused);
                    }
                    self.end(node, None);
                }
            }
            Event::Turn { gateway, server } => {
                let mut inside = self.scene.open();
                let known = &mut inside.gateways[gateway].servers;
                // A take-over that was heard of late does not undo a later one.
                *known = vec![known.iter().copied().max().unwrap_or(0).max(server)];
            }
        }
    }

    fn reach_server(&mut self, server: usize, gateway: usize, datagram: Vec<u8>, content: Content) {
        let Some(node) = self.nodes.iter().find(|node| node.server == server) else { return };
        let address = {
            let mut inside = self.scene.open();
            match &content {
                Content::Frames(frames) => {
                    let eui = inside.gateways[gateway].eui.value();
                    for phy in frames {
                        inside.account.arrived(node.life, eui, phy);
                        if inside.account.take_refused_replays() > 0 {
                            inside.states.reach(State::ReplayRefused);
                        }
                    }
                    let count = frames.len();
                    inside.note(&[8, server as u64, gateway as u64, count as u64], || {
                        format!("server {server} gets {count} frames from gateway {}", gateway)
                    });
                }
                Content::TxAck { life, token, accepted } => {
                    let eui = inside.gateways[gateway].eui.value();
                    if *life == node.life {
                        inside.account.tx_ack_arrived(*life, gateway, eui, *token, *accepted);
                    }
                    inside.note(&[9, gateway as u64, u64::from(*accepted)], || {
                        format!("server {server} gets the TX_ACK of gateway {}: {accepted}", gateway)
                    });
                }
                Content::Nothing => {}
            }
            inside.trace.note_bytes(&datagram);
            inside.gateways[gateway].address
        };
        node.port.deliver(&[(datagram, address)]);
    }

    async fn act(&mut self, number: u64, action: Action) {
        match action {
            Action::Crash { away_ms } => {
                if let Some(newest) = self.nodes.len().checked_sub(1) {
                    self.scene.open().note(&[10], || "the server loses its power".to_owned());
                    self.end(newest, Some(away_ms));
                }
            }
            Action::CrashAtStep { steps, after, away_ms } => {
                let Some(life) = self.nodes.last().map(|node| node.life) else { return };
                self.scene.open().crash = Some(CrashPlan { life, steps, after, away_ms });
            }
            Action::TakeOver { overlap_ms } => self.take_over(overlap_ms).await,
            Action::Hours { hours } => {
                self.scene.open().note(&[11, hours], || format!("{hours} hours pass"));
                tokio::time::advance(Duration::from_secs(hours * 3_600)).await;
                // What was open before them is decided after them.
                self.scene.open().disk_trouble(1_000);
            }
            Action::Cancel { .. }
            | Action::ClockJump { .. }
            | Action::DiskFull { .. }
            | Action::Enqueue { .. }
            | Action::ForgeTxAck { .. }
            | Action::Join { .. }
            | Action::JoinStorm { .. }
            | Action::Outage { .. }
            | Action::PlayBack { .. }
            | Action::RebootGateway { .. }
            | Action::ResetDevNonce { .. }
            | Action::SlowDisk { .. }
            | Action::UnknownOutcomes { .. }
            | Action::Uplink { .. }
            | Action::WriteErrors { .. } => self.scene.open().act(number, action, self.scene),
        }
    }

    async fn take_over(&mut self, overlap_ms: u64) {
        let Some(old) = self.nodes.last() else { return };
        let (old_life, old_server) = (old.life, old.server);
        {
            let mut inside = self.scene.open();
            inside.account.end_life(old_life, End::Contested);
            inside.note(&[12], || format!("server {} takes the disk over", old_server + 1));
        }
        let server = old_server + 1;
        if self.start(server).await {
            let mut inside = self.scene.open();
            for gateway in 0..inside.gateways.len() {
                // Some hear of it late; some send to both for a while.
                if gateway % 2 == 0 {
                    inside.gateways[gateway].servers.push(server);
                }
                inside.plan(overlap_ms / 2 + gateway as u64, Event::Turn { gateway, server });
            }
            inside.plan(overlap_ms, Event::OverlapEnds { server: old_server });
        } else {
            // The disk refused the new one; the old one is out of the game all the same.
            self.scene.open().plan(0, Event::OverlapEnds { server: old_server });
        }
    }

    /// Ends a server as by a power cut.
    fn end(&mut self, index: usize, away_ms: Option<u64>) {
        let node = self.nodes.remove(index);
        node.cut_off();
        let mut inside = self.scene.open();
        inside.account.end_life(node.life, End::Dead);
        if inside.crash.is_some_and(|plan| plan.life == node.life) {
            inside.crash = None;
        }
        if inside.front.as_ref().is_some_and(|(life, _)| *life == node.life) {
            inside.front = None;
        }
        if let Some(away_ms) = away_ms {
            inside.plan(away_ms, Event::Restart { server: node.server });
        }
        drop(inside);
        let bridge = node.bridge.clone();
        // Its loops are told to end, or they would run beside the world for ever.
        tokio::spawn(async move { bridge.stop().await });
    }

    fn end_all(&mut self) {
        while !self.nodes.is_empty() {
            self.end(0, None);
        }
    }

    async fn restart(&mut self, server: usize) {
        if self.nodes.iter().any(|node| node.server >= server) {
            return;
        }
        self.start(server).await;
    }

    /// Starts a server; where the disk refuses, again a little later.
    async fn start(&mut self, server: usize) -> bool {
        let started = tokio::time::timeout(START_MAX, Node::start(self.scene, server)).await;
        match started {
            Ok(Ok(node)) => {
                check_sessions(self.scene, &node).await;
                let mut inside = self.scene.open();
                for former in self.nodes.iter() {
                    inside.account.end_life(former.life, End::Contested);
                }
                inside.front = Some((node.life, node.bridge.clone()));
                inside.note(&[13, server as u64], || format!("server {server} is ready"));
                drop(inside);
                self.nodes.push(node);
                true
            }
            Ok(Err(_)) | Err(_) => {
                let mut inside = self.scene.open();
                inside.note(&[14, server as u64], || format!("server {server} does not start"));
                inside.plan(1_000, Event::Restart { server });
                false
            }
        }
    }
}

impl Inside {
    /// What needs no server.
    fn act(&mut self, number: u64, action: Action, scene: &Arc<Scene>) {
        let now_ms = self.now_ms();
        match action {
            Action::Uplink { device, confirmed, len, heard, times } => {
                let bytes: Vec<u8> = number.to_be_bytes().into_iter().cycle().take(usize::from(len)).collect();
                self.uplink(device, confirmed, &bytes, heard, times, number);
            }
            Action::Join { device, heard } => self.join(device, heard, number),
            Action::JoinStorm { heard } => {
                self.states.reach(State::JoinStorm);
                for device in 0..self.devices.len() {
                    self.join(device, heard, number * 64 + device as u64);
                }
            }
            Action::Enqueue { device, confirmed, len, lives_ms, priority, key } => {
                let Some((_, bridge)) = self.front.clone() else { return };
                let mut payload = number.to_be_bytes().to_vec();
                payload.resize(usize::from(len.max(8)).min(self.devices[device].payload_max()), 0xd0);
                let order = Ordered { device, confirmed, payload, lives_ms, priority, key };
                tokio::spawn(client::enqueue(Arc::clone(scene), bridge, order));
            }
            Action::Cancel { device } => {
                let Some((_, bridge)) = self.front.clone() else { return };
                let Some(id) = self.account.last_item_of(device) else { return };
                tokio::spawn(client::cancel(Arc::clone(scene), bridge, id));
            }
            Action::PlayBack { back, gateway } => {
                let Some(index) = self.recorded.len().checked_sub(1 + usize::from(back)) else { return };
                let (uplink, device) = self.recorded[index].clone();
                let tmst = self.gateways[gateway].counter(self.fresh_us());
                let transmission = Transmission {
                    device,
                    frame: self.account.frame_of_bytes(&uplink.phy_payload),
                    dev_nonce: dev_nonce_of(&uplink.phy_payload),
                    phy: uplink.phy_payload.clone(),
                    at_ms: now_ms,
                    windows: Vec::new(),
                    loose: true,
                };
                let boots = self.gateways[gateway].boots;
                self.account.on_air(transmission, &[(gateway, boots, tmst)]);
                self.note(&[15, gateway as u64], || format!("a stranger plays FCntUp {} back", uplink.fcnt));
                self.heard_by(gateway, &uplink, tmst, number);
            }
            Action::ForgeTxAck { gateway } => self.forger = Some(gateway),
            Action::Outage { gateway, ms } => {
                self.gateways[gateway].away_until_ms = now_ms + ms;
                self.note(&[16, gateway as u64], || format!("gateway {gateway} is cut off for {ms} ms"));
                self.plan(ms, Event::OutageEnds { gateway });
            }
            Action::RebootGateway { gateway } => {
                let now_us = self.now_us();
                self.gateways[gateway].reboot(now_us);
                self.note(&[17, gateway as u64], || format!("gateway {gateway} reboots"));
            }
            Action::DiskFull { ms } => {
                self.trouble.full_until_ms = now_ms + ms;
                self.disk_trouble(ms);
                self.note(&[18, ms], || format!("the disk is full for {ms} ms"));
            }
            Action::WriteErrors { count } => {
                self.trouble.errors += count;
                self.disk_trouble(count * 400);
                self.note(&[19, count], || format!("the next {count} writes fail"));
            }
            Action::UnknownOutcomes { count } => {
                self.trouble.unknown += count;
                self.disk_trouble(count * 400);
                self.note(&[20, count], || format!("the next {count} writes are done and reported as failed"));
            }
            Action::SlowDisk { ms, takes_ms } => {
                (self.trouble.slow_until_ms, self.trouble.slow_ms) = (now_ms + ms, takes_ms);
                self.disk_trouble(ms + 5 * takes_ms);
                self.note(&[21, ms], || format!("each write takes {takes_ms} ms for {ms} ms"));
            }
            Action::ClockJump { ms } => {
                self.states.reach(if ms < 0 { State::ClockJumpedBack } else { State::ClockJumpedForward });
                // Never back to the very microsecond of something that has happened.
                let jump_us = ms.saturating_mul(1_000).saturating_add(137);
                CLOCK.set(CLOCK.get().map(|(started, base_us)| (started, base_us.saturating_add(jump_us))));
                self.note(&[22], || format!("the wall clock jumps by {ms} ms"));
            }
            Action::ResetDevNonce { device } => {
                self.devices[device].sim.set_next_dev_nonce(1);
                self.devices[device].nonces_reset = true;
            }
            Action::Crash { .. }
            | Action::CrashAtStep { .. }
            | Action::TakeOver { .. }
            | Action::Hours { .. } => {}
        }
    }

    fn disk_trouble(&mut self, ms: u64) {
        let until_ms = self.now_ms() + ms + 2_000;
        self.account.trouble_until_ms = self.account.trouble_until_ms.max(until_ms);
    }

    /// A device sends data; one without a session joins.
    pub(crate) fn uplink(
        &mut self,
        number: usize,
        confirmed: bool,
        bytes: &[u8],
        heard: u8,
        times: u8,
        salt: u64,
    ) {
        let device = &mut self.devices[number];
        if device.session == 0 {
            return self.join(number, heard, salt);
        }
        if self.is_listening(number) {
            return;
        }
        let device = &mut self.devices[number];
        let exhausted = device.spec.kind == crate::schedule::Kind::Abp
            && device.listening.as_ref().is_some_and(|l| !l.is_join && l.uplink.fcnt == u32::MAX);
        if exhausted {
            return;
        }
        let payload = (!bytes.is_empty()).then_some((PORT_UP, bytes));
        let pick = u32::try_from(salt & 0xffff).expect("16 bits");
        let uplink = device.sim.uplink(pick, payload, confirmed);
        let frame = Frame {
            device: number,
            session: device.session,
            fcnt: uplink.fcnt,
            confirmed,
            payload: payload.map(|(port, bytes)| (port, bytes.to_vec())),
            committed: false,
        };
        let frame = self.account.made(&uplink.phy_payload, frame);
        self.transmit(number, uplink, Some(frame), heard, times, salt);
    }

    fn join(&mut self, number: usize, heard: u8, salt: u64) {
        let device = &mut self.devices[number];
        if !device.joins() {
            return;
        }
        if self.is_listening(number) {
            return;
        }
        let device = &mut self.devices[number];
        let uplink = device.sim.join_request(u32::try_from(salt & 0xffff).expect("16 bits"));
        device.dev_nonce_max = device.dev_nonce_max.max(dev_nonce_of(&uplink.phy_payload));
        if device.session > 0 {
            self.account.asked_to_join(number);
        }
        self.transmit(number, uplink, None, heard, 1, salt);
    }

    /// A device of class A sends nothing before it has heard an answer or both windows have passed (TS001-1.0.4 §3.3.4).
    fn is_listening(&self, number: usize) -> bool {
        let Some(listening) = self.devices[number].listening.as_ref().filter(|l| !l.served) else {
            return false;
        };
        let last_us = listening.uplink.windows().map(|window| window.delay_us).max().unwrap_or(0);
        let sent_ms = self.account.transmissions[listening.transmission].at_ms;
        self.now_ms() < sent_ms + u64::from(last_us / 1_000) + WINDOW_LEN_MS
    }

    /// Now, and no two transmissions end in the same microsecond.
    fn fresh_us(&self) -> u64 {
        self.now_us() + self.account.transmissions.len() as u64 % 997
    }

    /// A device sends, and gateways hear it.
    fn transmit(
        &mut self,
        number: usize,
        uplink: Uplink,
        frame: Option<usize>,
        heard: u8,
        times: u8,
        salt: u64,
    ) {
        let now_us = self.fresh_us();
        let gateways: Vec<usize> =
            (0..self.gateways.len()).filter(|gateway| heard >> gateway & 1 == 1).collect();
        let places: Vec<(usize, u64, u32)> = gateways
            .iter()
            .map(|gateway| {
                let known = &self.gateways[*gateway];
                (*gateway, known.boots, known.counter(now_us))
            })
            .collect();
        let device = &self.devices[number];
        let dev_nonce = if frame.is_none() { dev_nonce_of(&uplink.phy_payload) } else { 0 };
        let transmission = Transmission {
            device: number,
            frame,
            dev_nonce,
            phy: uplink.phy_payload.clone(),
            at_ms: self.now_ms(),
            windows: uplink
                .windows()
                .map(|window| (window.delay_us, window.freq_hz, window.data_rate.clone()))
                .collect(),
            loose: device.resettled && frame.is_some(),
        };
        let transmission = self.account.on_air(transmission, &places);
        self.note(&[23, number as u64, u64::from(uplink.fcnt), u64::from(heard)], || {
            let what = match frame {
                Some(_) => format!("FCntUp {}", uplink.fcnt),
                None => format!("a Join-Request with DevNonce {dev_nonce}"),
            };
            format!("device {} sends {what}, heard by {} gateways", number, gateways.len())
        });
        if frame.is_some() && times > 1 {
            let after_ms = u64::from(self.devices[number].spec.rx_delay_s + 1) * 1_000 + 1_300;
            let again = Event::Again { device: number, transmission, times: times - 1, heard, number: salt };
            self.plan(after_ms, again);
        }
        let is_join = frame.is_none();
        self.recorded.push((uplink.clone(), number));
        for (gateway, _, tmst) in places {
            self.heard_by(gateway, &uplink, tmst, salt);
        }
        self.devices[number].listening = Some(Listening { uplink, transmission, is_join, served: false });
    }

    /// A gateway reports a frame.
    fn heard_by(&mut self, gateway: usize, uplink: &Uplink, tmst_us: u32, _salt: u64) {
        let text = forwarder::rxpk_text(&[air::reception(uplink, tmst_us, gateway)]);
        let known = &mut self.gateways[gateway];
        let token = known.token();
        let datagram = forwarder::push_data(token, known.eui, &text);
        let (boots, sends_again) = (known.boots, known.spec.sends_again);
        if sends_again {
            known.unacknowledged.insert(token, (datagram.clone(), 1));
            self.plan(SEND_AGAIN_MS, Event::SendAgain { gateway, token, boots });
        }
        self.gateway_sends(gateway, datagram, Content::Frames(vec![uplink.phy_payload.clone()]));
    }

    fn send_again(&mut self, gateway: usize, token: u16, boots: u64) {
        let known = &mut self.gateways[gateway];
        if known.boots != boots {
            return;
        }
        let Some((datagram, times)) = known.unacknowledged.get_mut(&token) else { return };
        *times += 1;
        let (datagram, times) = (datagram.clone(), *times);
        if times > SEND_AGAIN_MAX {
            known.unacknowledged.remove(&token);
            return;
        }
        self.plan(SEND_AGAIN_MS, Event::SendAgain { gateway, token, boots });
        let content = frames_of(&datagram);
        self.gateway_sends(gateway, datagram, content);
    }

    /// A gateway sends a datagram to its servers: kept during an outage, lost, late, twice.
    fn gateway_sends(&mut self, gateway: usize, datagram: Vec<u8>, content: Content) {
        let now_ms = self.now_ms();
        let known = &mut self.gateways[gateway];
        if now_ms < known.away_until_ms {
            if known.spec.keeps && matches!(content, Content::Frames(_)) {
                known.kept.push(datagram);
            }
            return;
        }
        for server in known.servers.clone() {
            self.up_link(gateway, server, datagram.clone(), content.clone());
        }
    }

    fn up_link(&mut self, gateway: usize, server: usize, datagram: Vec<u8>, content: Content) {
        self.draws += 1;
        let mut draw = self.chance.draw(For::UpLink, self.draws, gateway as u64);
        let Setting { lost, twice, slow, way_ms, .. } = self.setting;
        let quiet = self.calm;
        if !quiet && draw.in_thousand(lost) {
            if matches!(content, Content::TxAck { .. }) {
                self.states.reach(State::TxAckLost);
            }
            return;
        }
        let mut way = way_ms / 2 + draw.between(0, way_ms.max(1));
        if !quiet && draw.in_thousand(slow) {
            way += draw.pick(&[150, 400, 1_500, 4_000, 9_000]);
            if draw.in_thousand(60) && matches!(content, Content::Frames(_)) {
                way += draw.between(1, 24) * 3_600_000;
                self.states.reach(State::FrameHoursLate);
            }
        }
        if !quiet && draw.in_thousand(twice) {
            let again = way + draw.pick(&[1, 30, 350, 2_000]);
            self.states.reach(State::DatagramTwice);
            self.plan(
                again,
                Event::ToServer { server, gateway, datagram: datagram.clone(), content: content.clone() },
            );
        }
        self.plan(way, Event::ToServer { server, gateway, datagram, content });
    }

    fn outage_ends(&mut self, gateway: usize) {
        if self.now_ms() < self.gateways[gateway].away_until_ms {
            return;
        }
        let kept = std::mem::take(&mut self.gateways[gateway].kept);
        if !kept.is_empty() {
            self.states.reach(State::BufferedFramesFlushed);
        }
        for datagram in kept {
            let content = frames_of(&datagram);
            self.gateway_sends(gateway, datagram, content);
        }
    }

    /// A datagram leaves a server for a gateway.
    pub(crate) fn down_link(&mut self, gateway: usize, server: usize, life: usize, datagram: &[u8]) {
        self.draws += 1;
        let mut draw = self.chance.draw(For::DownLink, self.draws, gateway as u64);
        let Setting { lost, twice, slow, way_ms, .. } = self.setting;
        if !self.calm && draw.in_thousand(lost) {
            return;
        }
        let mut way = way_ms / 2 + draw.between(0, way_ms.max(1));
        if !self.calm && draw.in_thousand(slow) {
            way += draw.pick(&[150, 400, 1_500]);
        }
        let event = Event::ToGateway { gateway, server, life, datagram: datagram.to_vec() };
        if !self.calm && draw.in_thousand(twice) {
            self.plan(way + draw.pick(&[1, 40]), event.clone());
        }
        self.plan(way, event);
    }

    /// A datagram reaches a gateway.
    fn at_gateway(&mut self, gateway: usize, server: usize, life: usize, datagram: &[u8]) {
        let (now_ms, now_us) = (self.now_ms(), self.now_us());
        if now_ms < self.gateways[gateway].away_until_ms {
            return;
        }
        let Some((kind, token, body)) = forwarder::parse(datagram) else { return };
        let token = u16::from_be_bytes(token);
        match kind {
            PUSH_ACK => {
                self.gateways[gateway].unacknowledged.remove(&token);
            }
            PULL_RESP => {
                let known = &self.gateways[gateway];
                let content = body.iter().fold(7_u64, |hash, byte| hash.wrapping_mul(31) ^ u64::from(*byte));
                let seen = known.orders.get(&(token, content)).copied();
                let answer = seen.unwrap_or_else(|| self.take_order(gateway, token, body, now_us));
                let known = &mut self.gateways[gateway];
                known.orders.insert((token, content), answer);
                let datagram = forwarder::tx_ack(token, known.eui, Some(answer.unwrap_or("NONE")));
                if answer.is_some() {
                    self.states.reach(State::TxRefused);
                }
                let content = Content::TxAck { life, token, accepted: answer.is_none() };
                self.up_link(gateway, server, datagram, content);
            }
            _ => {}
        }
    }

    /// A gateway takes an order to send, or says why not.
    fn take_order(&mut self, gateway: usize, token: u16, body: &[u8], now_us: u64) -> Option<&'static str> {
        let known = &self.gateways[gateway];
        let Some(order) = forwarder::parse_pull_resp(known.eui, body, known.counter(now_us)) else {
            return Some("UNKNOWN");
        };
        let mut draw = self.chance.draw(For::Forwarder, gateway as u64, u64::from(token));
        let lead_ms = u64::try_from(order.lead_us / 1_000).ok().filter(|lead| *lead >= LEAD_MIN_MS);
        let Some(lead_ms) = lead_ms else {
            self.states.reach(State::WindowMissed);
            return Some("TOO_LATE");
        };
        if lead_ms > LEAD_MAX_MS {
            self.states.reach(State::GatewayRebooted);
            return Some("TOO_EARLY");
        }
        if !self.calm && draw.in_thousand(self.setting.refused) {
            return Some(draw.pick(&["COLLISION_PACKET", "COLLISION_BEACON", "TX_FREQ", "TX_POWER"]));
        }
        let boots = known.boots;
        self.plan(lead_ms, Event::OnAir { gateway, boots, transmission: Box::new(order) });
        None
    }

    /// A frame goes on air; whoever listens for it may hear it.
    fn at_device(&mut self, gateway: usize, boots: u64, order: &Order) {
        if self.gateways[gateway].boots != boots {
            self.states.reach(State::GatewayRebooted);
            return;
        }
        let Some(tmst) = order.tmst_us else { return };
        let Some((number, delay_s)) = self.account.answered(gateway, boots, tmst) else { return };
        if tmst < delay_s * 1_000_000 {
            self.states.reach(State::TmstWrapped);
        }
        let device = self.account.transmissions[number].device;
        let Some(listening) = self.devices[device].listening.clone() else { return };
        if listening.transmission != number || listening.served {
            return;
        }
        let heard_at = tmst.wrapping_sub(delay_s * 1_000_000);
        let Some(window) = listening.uplink.window_hit(heard_at, tmst, order.freq_hz, &order.data_rate) else {
            return;
        };
        self.draws += 1;
        let mut draw = self.chance.draw(For::OnAir, self.draws, device as u64);
        if !self.calm && draw.in_thousand(self.setting.unheard) {
            self.note(&[24, device as u64], || format!("device {} does not hear it", device));
            return;
        }
        self.devices[device].listening = Some(Listening { served: true, ..listening.clone() });
        self.states.reach(if window == 1 { State::DownlinkHeardInRx1 } else { State::DownlinkHeardInRx2 });
        if listening.is_join {
            self.take_accept(device, &order.phy_payload)
        } else {
            self.take_data(device, &order.phy_payload)
        }
    }

    fn take_accept(&mut self, number: usize, phy: &[u8]) {
        let device = &mut self.devices[number];
        let before = device.sim.clone();
        match device.sim.take_join_accept(phy) {
            Ok(()) => {
                if device.session > 0 {
                    device.past.push((device.session, before));
                }
                device.session += 1;
                device.resettled = false;
                let session = device.session;
                let dev_nonce =
                    device.listening.as_ref().map(|l| self.account.transmissions[l.transmission].dev_nonce);
                self.account.joined(number, session, dev_nonce.unwrap_or(0));
                self.note(&[25, number as u64, session], || format!("device {} has joined", number));
            }
            // The very same Join-Request gets the very same answer.
            Err(Ignored::JoinNonceReused { .. }) if device.nonces_reset => {
                self.states.reach(State::DevNonceUsedTwice);
            }
            Err(ignored) => {
                let detail = format!("device {} cannot take its Join-Accept: {ignored}", number);
                self.account.violate(Invariant::I4, detail);
            }
        }
    }

    fn take_data(&mut self, number: usize, phy: &[u8]) {
        let device = &mut self.devices[number];
        match device.sim.take_downlink(phy) {
            Ok(heard) => {
                device.resettled |= heard.commands.iter().any(|_| true);
                self.note(&[26, number as u64, u64::from(heard.fcnt)], || {
                    format!("device {} hears FCntDown {}", number, heard.fcnt)
                });
                if let Some((_, bytes)) = heard.payload {
                    self.heard_payloads.push((number, bytes.clone()));
                    self.account.payload_heard(number, &bytes);
                }
            }
            Err(ignored) => {
                let detail = format!("device {} cannot take a downlink in its window: {ignored}", number);
                self.account.violate(Invariant::I3, detail);
            }
        }
    }
}

/// The frames of a PUSH_DATA, read as a forwarder wrote them.
fn frames_of(datagram: &[u8]) -> Content {
    use base64::Engine as _;
    let text = String::from_utf8_lossy(datagram.get(12..).unwrap_or_default()).into_owned();
    let frames = text
        .split("\"data\":\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter_map(|data| base64::engine::general_purpose::STANDARD.decode(data).ok())
        .collect();
    Content::Frames(frames)
}

/// DevNonce of a Join-Request: bytes 17 and 18 of the frame, the low one first (TS001-1.0.4 §6.2.5).
fn dev_nonce_of(phy: &[u8]) -> u16 {
    match phy.get(17..19) {
        Some([low, high]) => u16::from_le_bytes([*low, *high]),
        Some(_) | None => 0,
    }
}

fn scene_now(runtime: &Runtime, scene: &Scene) -> u64 {
    let _inside_runtime = runtime.enter();
    scene.open().now_ms()
}

thread_local! {
    /// When the world began and what its wall clock showed then.
    static CLOCK: Cell<Option<(Instant, i64)>> = const { Cell::new(None) };
}

/// The wall clock of the world on this thread.
fn wall_clock() -> i64 {
    CLOCK.get().map_or(BEGINNING_US, |(started, base_us)| {
        base_us.saturating_add(i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX))
    })
}

/// Spring 2026.
const BEGINNING_US: i64 = 1_775_000_000_000_000;
const PORT_UP: u8 = 3;
const KEEP_ALIVE_MS: u64 = 10_000;
const SEND_AGAIN_MS: u64 = 2_000;
const SEND_AGAIN_MAX: u32 = 6;
/// How long a device listens in a window at most: a preamble at the slowest data rate.
const WINDOW_LEN_MS: u64 = 300;
/// What a forwarder needs to get a frame into its queue, and how far ahead it takes one.
const LEAD_MIN_MS: u64 = 5;
const LEAD_MAX_MS: u64 = 20_000;
/// An uplink that is not in the log after so long was lost.
const PATIENCE_MS: u64 = 20_000;
const START_MAX: Duration = Duration::from_secs(60);
/// Actions of the last phase have numbers from here on.
const DRAIN: u64 = 1_000_000;
const DRAIN_ROUNDS: u64 = 32;
/// A broken world need not go on: what follows only confuses.
const ENOUGH: usize = 1;
