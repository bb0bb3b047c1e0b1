//! The killer: the real binary under load, ended in every way a machine can end it, again and again on the same directory.
//!
//! [`plan`] says how each life of the server ends. Meanwhile the devices of [`field`] live as [`load`] says and the [`people`] call the
//! API. What left the server is written into the [`account`], and after each end held against the [`database`] and later against
//! what the server tells. `KILLS` sets the number of lives, `LOAM_SEED` repeats a plan.

#![allow(clippy::print_stdout, reason = "the seed repeats a failure; the counts tell what was proved")]

mod account;
mod database;
mod field;
mod first_start;
mod load;
mod people;
mod plan;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use loam_tests::story::{self, Stream};
use loam_tests::{Client, DEADLINE, Loam, Starting, eventually};
use nix::sys::signal::Signal;
use proto::v1::{self, MacVersion, Region};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;
use tokio::task::JoinSet;

use account::Account;
use database::{Books, Left};
use field::{Air, GATEWAYS, Kind, Node, Weather, profile_id};
use people::Memory;
use plan::{Fate, Road};

/// Rows FCNT-010, FCNT-011, AS-003, AS-004, DEDUP-001 and the join rows under every kind of end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_end_loses_what_was_accepted_or_reuses_a_counter() {
    let seed = number("LOAM_SEED").unwrap_or(20_261_124);
    let cycles = usize::try_from(number("KILLS").unwrap_or(100)).expect("a small number");
    let begun = Instant::now();
    let mut rng = StdRng::seed_from_u64(seed);
    no_core_files();
    let mut killer = Killer::set_up(StdRng::seed_from_u64(rng.random())).await;

    let fates = plan::draw(cycles, &mut rng);
    println!("seed {seed}, {} lives (LOAM_SEED and KILLS set them)", fates.len());
    for (number, fate) in fates.iter().enumerate() {
        killer.live(fate).await;
        killer.assert_faultless(&format!("life {number}: {fate:?}"));
        if (number + 1).is_multiple_of(CALM_EVERY) || number + 1 == fates.len() {
            killer.calm().await;
            killer.assert_faultless(&format!("the calm after life {number}"));
        }
    }
    killer.report(begun.elapsed());
}

/// Everything that outlives the server.
struct Killer {
    dir: TempDir,
    account: Arc<Account>,
    memory: Arc<Memory>,
    nodes: Vec<Arc<Node>>,
    books: Books,
    rng: StdRng,
    /// How long each start took until the server was ready.
    starts: Vec<Duration>,
    /// Lives by the way they ended.
    ends: BTreeMap<&'static str, u32>,
}

/// Those who live on a running server.
struct Crowd {
    client: Client,
    tasks: JoinSet<()>,
    /// Hears what the server sends to its last moment.
    _air: Arc<Air>,
}

impl Killer {
    async fn set_up(rng: StdRng) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = dir.path().join("data");
        std::fs::create_dir(&data_dir).expect("empty");
        let loam = Loam::start_with(&data_dir, SETTINGS);
        let client = loam.client();
        let nodes = nodes();
        register_all(&client, &nodes).await;
        assert!(loam.terminate().success());
        let mut killer = Self {
            dir,
            account: Arc::default(),
            memory: Arc::default(),
            nodes,
            books: Books::default(),
            rng,
            starts: Vec::new(),
            ends: BTreeMap::new(),
        };
        killer.look(Left::InOrder).await;
        killer
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn assert_faultless(&self, when: &str) {
        let faults = self.account.take_faults();
        assert!(faults.is_empty(), "{when}\n{faults:#?}");
    }

    /// One life of the server.
    async fn live(&mut self, fate: &Fate) {
        let end = match fate {
            Fate::Crash { point, passage, road } => {
                self.crash(point, *passage, *road).await;
                "crash point"
            }
            Fate::Kill { after } => {
                let loam = self.start(&[]).expect("it starts");
                let crowd = self.crowd(&loam, Weather::Rough).await;
                story::pause(*after).await;
                loam.kill();
                self.part(crowd, Left::Suddenly).await;
                "kill -9"
            }
            Fate::KillAtStart { after } => {
                let starting = Starting::spawn(&self.data_dir(), SETTINGS);
                story::pause(*after).await;
                drop(starting);
                self.look(Left::Suddenly).await;
                "kill -9 at the start"
            }
            Fate::Pause { after, span, goes_on } => {
                let loam = self.start(&[]).expect("it starts");
                let crowd = self.crowd(&loam, Weather::Rough).await;
                story::pause(*after).await;
                loam.signal(Signal::SIGSTOP);
                story::pause(*span).await;
                if *goes_on {
                    loam.signal(Signal::SIGCONT);
                    story::pause(*after).await;
                }
                loam.kill();
                self.part(crowd, Left::Suddenly).await;
                "SIGSTOP and kill -9"
            }
            Fate::Stop { after } => {
                let loam = self.start(&[]).expect("it starts");
                let crowd = self.crowd(&loam, Weather::Rough).await;
                story::pause(*after).await;
                let status = loam.terminate();
                if !status.success() {
                    self.account.fault(format!("SIGTERM ended it with {status}"));
                }
                self.part(crowd, Left::InOrder).await;
                "SIGTERM"
            }
        };
        *self.ends.entry(end).or_default() += 1;
    }

    async fn crash(&mut self, point: &'static str, passage: u32, road: Road) {
        if road == Road::OldEvents {
            database::age(&self.data_dir(), [people::LEDGER, people::VISITOR]).await;
        }
        let armed = format!("{point}:{passage}");
        let started = self.start(&[("LOAM_CRASH_AT", &armed)]);
        let (crowd, status) = match (started, road) {
            (Err(status), _) => (None, Some(status)),
            (Ok(_), Road::Start) => (None, None),
            (Ok(mut loam), _) => {
                let mut crowd = self.crowd(&loam, Weather::Rough).await;
                if road == Road::ManyWrites {
                    self.add_churn(&mut crowd);
                }
                if road == Road::Stop {
                    story::pause(Duration::from_millis(200)).await;
                    loam.signal(Signal::SIGTERM);
                }
                let status = ended(&mut loam).await;
                (Some(crowd), status)
            }
        };
        match crowd {
            Some(crowd) => self.part(crowd, Left::Suddenly).await,
            None => self.look(Left::Suddenly).await,
        }
        if !status.is_some_and(died_at_point) {
            self.account.fault(format!(
                "{point} was not reached ({status:?}); the server needs `--features cli/crash-points`, as `make test` builds it"
            ));
        }
    }

    /// Starts the server; an error is how it ended before it was ready.
    fn start(&mut self, more: &[(&str, &str)]) -> Result<Loam, ExitStatus> {
        let settings: Vec<_> = SETTINGS.iter().chain(more).copied().collect();
        let begun = Instant::now();
        let loam = Starting::spawn(&self.data_dir(), &settings).ready()?;
        self.starts.push(begun.elapsed());
        Ok(loam)
    }

    /// Everybody comes.
    async fn crowd(&mut self, loam: &Loam, weather: Weather) -> Crowd {
        let client = loam.client();
        let air = Arc::new(Air::connect(loam, &self.account, weather).await);
        let (account, memory) = (|| Arc::clone(&self.account), || Arc::clone(&self.memory));
        let mut tasks = JoinSet::new();
        tasks.spawn(people::keep_ledger(client.clone(), account()));
        tasks.spawn(people::visit(client.clone(), account(), memory(), draw(&mut self.rng)));
        tasks.spawn(people::order(
            client.clone(),
            account(),
            memory(),
            self.nodes.clone(),
            draw(&mut self.rng),
        ));
        let guests =
            people::register(client.clone(), account(), memory(), Arc::clone(&air), draw(&mut self.rng));
        tasks.spawn(guests);
        load::live(&mut tasks, &self.nodes, &air, &mut self.rng);
        Crowd { client, tasks, _air: air }
    }

    fn add_churn(&mut self, crowd: &mut Crowd) {
        for node in &self.nodes {
            let (account, memory) = (Arc::clone(&self.account), Arc::clone(&self.memory));
            let rng = draw(&mut self.rng);
            crowd.tasks.spawn(people::churn(crowd.client.clone(), account, memory, Arc::clone(node), rng));
        }
    }

    /// The server has ended: everybody goes, and the database is looked at.
    async fn part(&mut self, mut crowd: Crowd, left: Left) {
        crowd.tasks.shutdown().await;
        // What the server sent last is still read from the gateways' sockets.
        story::pause(Duration::from_millis(5)).await;
        self.look(left).await;
    }

    async fn look(&mut self, left: Left) {
        let evidence = self.account.take_evidence();
        let faults = self.books.examine(&self.data_dir(), &evidence, left).await;
        faults.into_iter().for_each(|fault| self.account.fault(fault));
    }

    /// No more faults: everything that was begun comes to its end, everybody is served, and the log is one and the same for all.
    async fn calm(&mut self) {
        let loam = self.start(&[]).expect("it starts");
        let client = loam.client();
        let air = Arc::new(Air::connect(&loam, &self.account, Weather::Calm).await);
        let mut tasks = JoinSet::new();
        tasks.spawn(people::keep_ledger(client.clone(), Arc::clone(&self.account)));

        let mut served = JoinSet::new();
        for node in &self.nodes {
            let (node, air, mut rng) = (Arc::clone(node), Arc::clone(&air), draw(&mut self.rng));
            served.spawn(async move { load::is_served(&node, &air, &mut rng).await });
        }
        served.join_all().await.into_iter().filter_map(Result::err).for_each(|fault| self.account.fault(fault));

        people::order_again(&client, &self.account, &self.memory).await;
        load::live(&mut tasks, &self.nodes, &air, &mut self.rng);
        let mut heard = JoinSet::new();
        for node in &self.nodes {
            heard.spawn(people::is_heard(client.clone(), Arc::clone(&self.account), Arc::clone(node)));
        }
        heard.join_all().await.into_iter().filter_map(Result::err).for_each(|fault| self.account.fault(fault));
        let begun = Instant::now();
        while !self.account.unfinished().is_empty() && begun.elapsed() < ITEMS_PATIENCE {
            story::pause(Duration::from_millis(50)).await;
        }
        for id in self.account.unfinished() {
            self.account.fault(format!("item {id} comes to no end: {}", self.account.story(&id)));
        }
        // Everybody has read to the same end.
        tasks.shutdown().await;
        let end = self.read_to_the_end(&client, &air).await;
        people::visit_up_to(&client, &self.account, &self.memory, &end).await;
        let cursors = self.account.cursors();
        let visited = self.memory.visited();
        let missed = cursors.iter().filter(|cursor| !visited.contains(*cursor)).count();
        if missed > 0 {
            self.account.fault(format!("the visitor was never told {missed} of {} events", cursors.len()));
        }
        self.account.settle();
        let status = loam.terminate();
        assert!(status.success(), "{status}");
        self.look(Left::InOrder).await;
        let (told, kept) = (self.account.uplinks(), self.books.uplinks());
        if told != *kept {
            self.account.fault(format!("{} uplinks were told and {} are kept", told.len(), kept.len()));
        }
    }

    /// The ledger catches up, and the log read anew is the one it was told. Returns the cursor of the last event.
    async fn read_to_the_end(&mut self, client: &Client, air: &Air) -> Vec<u8> {
        let node = Arc::clone(self.nodes.first().expect("there are devices"));
        let (session, fcnt) = air.uplink(&node, true, &mut self.rng).await;
        let ledger = tokio::spawn(people::keep_ledger(client.clone(), Arc::clone(&self.account)));
        let end =
            eventually("the ledger reaches the end", async || self.account.cursor_of(session, fcnt)).await;
        ledger.abort();
        let mut stream = Stream::earliest(client).await;
        let mut place = None;
        while stream.cursor != end {
            let event = stream.event().await;
            place = Some(self.account.told(&stream.cursor, &event, place));
        }
        end
    }

    fn report(&self, wall: Duration) {
        let account::Counts { uplinks, downlinks, joins, items, events } = self.account.counts();
        println!(
            "{} lives in {:.0} s, ended by {:?}",
            self.ends.values().sum::<u32>(),
            wall.as_secs_f64(),
            self.ends
        );
        println!(
            "uplinks: {} sent, {} accepted, {} answered on air; {downlinks} counters of downlinks on air",
            uplinks.sent, uplinks.accepted, uplinks.answered
        );
        println!(
            "joins: {} accepts on air, {} in the log; {items} items of queues; {events} events",
            joins.0, joins.1
        );
        let mut starts = self.starts.clone();
        starts.sort();
        let at = |percent: usize| starts.get((starts.len() - 1) * percent / 100).map_or(0, Duration::as_millis);
        println!("ready after {} ms (p50), {} ms (p99), {} ms (most)", at(50), at(99), at(100));
        assert!(uplinks.accepted > 20 * self.starts.len(), "too little was accepted to prove anything");
    }
}

/// Waits until the process has ended; `None`: it goes on.
async fn ended(loam: &mut Loam) -> Option<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < DEADLINE {
        if let Some(status) = loam.ended() {
            return Some(status);
        }
        story::pause(Duration::from_millis(2)).await;
    }
    None
}

fn died_at_point(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::SIGABRT as i32)
}

fn draw(rng: &mut StdRng) -> StdRng {
    StdRng::seed_from_u64(rng.random())
}

/// The devices that are there from the beginning to the end.
fn nodes() -> Vec<Arc<Node>> {
    let versions = [MacVersion::MacVersion103, MacVersion::MacVersion104, MacVersion::MacVersion110];
    let joining = (0..12_usize).map(|n| Kind { version: versions[n % versions.len()], joins: true });
    let personalised = (0..12_usize).map(|n| Kind { version: versions[n % 2], joins: false });
    let kinds = joining.chain(personalised).zip(1_u64..);
    kinds.map(|(kind, number)| Arc::new(Node::new(DEV_EUIS + number, kind))).collect()
}

async fn register_all(client: &Client, nodes: &[Arc<Node>]) {
    story::register_profile(client, story::profile(REGION)).await;
    for version in [MacVersion::MacVersion103, MacVersion::MacVersion104, MacVersion::MacVersion110] {
        let id = profile_id(version).into();
        let profile = v1::Profile { id, mac_version: version.into(), ..story::profile(REGION) };
        let request = v1::CreateProfileRequest { profile: Some(profile) };
        client.clone().profiles.create_profile(request).await.expect("a new profile");
    }
    for eui in GATEWAYS {
        story::register_gateway(client, eui, REGION).await;
    }
    for node in nodes {
        client.clone().devices.create_device(node.registration()).await.expect("a new device");
        if !node.kind.joins {
            client.clone().devices.activate_device(node.activation()).await.expect("a session");
        }
    }
}

/// The server is ended by SIGABRT at its crash points; its memory is of no interest.
fn no_core_files() {
    let resource = nix::sys::resource::Resource::RLIMIT_CORE;
    nix::sys::resource::setrlimit(resource, 0, 0).expect("a limit may be lowered");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Short windows make short lives long enough; a checkpoint a second makes them meet it.
const SETTINGS: &[(&str, &str)] = &[
    ("LOAM_NETWORK__DEDUP_WINDOW_MS", "40"),
    ("LOAM_STORE__CHECKPOINT_PERIOD_S", "1"),
    ("LOAM_SERVER__LOG_LEVEL", "warn"),
];
/// It knows no duty cycle: these devices hear more in a minute than a gateway may send in an hour elsewhere.
const REGION: Region = Region::In865;
const DEV_EUIS: u64 = 0x70b3_d57e_c000_0000;
const CALM_EVERY: usize = 100;
/// The app-bridge waits a minute for the outcome of what left before a kill.
const ITEMS_PATIENCE: Duration = Duration::from_secs(100);
