//! The driver: does what is on the agenda, step by step, and checks after each.

use std::sync::Arc;
use std::time::Duration;

use simulator::forwarder;
use store::Readiness;

use crate::account::{End, Invariant, Transmission};
use crate::client::{self, Ordered};
use crate::node::Node;
use crate::radio::dev_nonce_of;
use crate::scene::{Content, CrashPlan, Event, Inside, KEEP_ALIVE_MS, Scene};
use crate::schedule::Action;
use crate::states::State;
use crate::world::jump_clock;

/// See the file's head.
pub(crate) struct Driver<'a> {
    pub(crate) nodes: &'a mut Vec<Node>,
    pub(crate) scene: &'a Arc<Scene>,
}

impl Driver<'_> {
    pub(crate) async fn run_until(&mut self, end_ms: u64) {
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
                        format!("server {server} gets {count} frames from gateway {gateway}")
                    });
                }
                Content::TxAck { life, token, accepted } => {
                    let eui = inside.gateways[gateway].eui.value();
                    if *life == node.life {
                        inside.account.tx_ack_arrived(*life, gateway, eui, *token, *accepted);
                    }
                    inside.note(&[9, gateway as u64, u64::from(*accepted)], || {
                        format!("server {server} gets the TX_ACK of gateway {gateway}: {accepted}")
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
            Action::Activate { .. }
            | Action::Cancel { .. }
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

    pub(crate) fn end_all(&mut self) {
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
            Action::Activate { device } => {
                let Some((_, bridge)) = self.front.clone() else { return };
                tokio::spawn(client::activate_again(Arc::clone(scene), bridge, device));
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
                self.heard_by(gateway, &uplink, tmst);
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
                jump_clock(jump_us);
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
}

/// The devices' counters as a server loads them against the log.
pub(crate) async fn check_sessions(scene: &Scene, node: &Node) {
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

/// An uplink that is not in the log after so long was lost.
const PATIENCE_MS: u64 = 20_000;
const START_MAX: Duration = Duration::from_secs(60);
/// A broken world need not go on: what follows only confuses.
const ENOUGH: usize = 1;
