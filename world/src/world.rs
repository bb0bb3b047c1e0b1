//! A world from its beginning to its end.

use std::cell::Cell;
use std::sync::Arc;

use store::MemoryDisk;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::account::{Invariant, Violation};
use crate::chance::Chance;
use crate::client;
use crate::driver::{Driver, check_sessions};
use crate::node::Node;
use crate::scene::{Event, Inside, KEEP_ALIVE_MS, Scene};
use crate::schedule::{Action, Setting};
use crate::states::States;
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

/// Sets the wall clock of the world on this thread forward or back.
pub(crate) fn jump_clock(jump_us: i64) {
    CLOCK.set(CLOCK.get().map(|(started, base_us)| (started, base_us.saturating_add(jump_us))));
}

/// Spring 2026.
const BEGINNING_US: i64 = 1_775_000_000_000_000;
/// Actions of the last phase have numbers from here on.
const DRAIN: u64 = 1_000_000;
const DRAIN_ROUNDS: u64 = 32;
