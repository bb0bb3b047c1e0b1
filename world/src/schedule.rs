//! What will be done in a world, and what will go wrong: data made from a seed, so that it can be shown, cut down and run again.

use mac::region::RegionId;

use crate::chance::{Chance, Draw, For};

/// Everything one run consists of.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Decides all luck.
    pub seed: u64,
    /// What there is.
    pub setting: Setting,
    /// What is done, by time; the number is the action's for ever, whatever else is left out.
    pub actions: Vec<Timed>,
}

/// An action and when it happens, in milliseconds after the beginning.
#[derive(Clone, Debug)]
pub struct Timed {
    /// When.
    pub at_ms: u64,
    /// Its number.
    pub number: u64,
    /// What.
    pub action: Action,
}

/// What there is in a world.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Gateways, 1 to 5.
    pub gateways: Vec<GatewaySpec>,
    /// Devices, 5 to 50.
    pub devices: Vec<DeviceSpec>,
    /// Consumers of the event stream.
    pub consumers: Vec<ConsumerSpec>,
    /// Datagrams lost between gateway and server, in a thousand.
    pub lost: u32,
    /// Datagrams that come twice, in a thousand.
    pub twice: u32,
    /// Datagrams that take seconds, in a thousand.
    pub slow: u32,
    /// Usual way of a datagram, milliseconds.
    pub way_ms: u64,
    /// Downlinks a device does not hear, in a thousand.
    pub unheard: u32,
    /// Orders a gateway refuses, in a thousand.
    pub refused: u32,
    /// A commit takes up to so long, milliseconds.
    pub commit_ms: u64,
    /// Events are kept for so long, seconds.
    pub retention_s: u64,
}

/// A gateway.
#[derive(Clone, Copy, Debug)]
pub struct GatewaySpec {
    /// Where its counter stands at the beginning.
    pub tmst_us: u32,
    /// It sends a PUSH_DATA again until it is acknowledged.
    pub sends_again: bool,
    /// It keeps what it hears while its backhaul is away.
    pub keeps: bool,
}

/// What a device is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Personalised, 1.0.3.
    Abp,
    /// Joins with 1.0.3.
    Otaa103,
    /// Joins with 1.0.4: its DevNonces rise.
    Otaa104,
    /// Joins with 1.1.
    Otaa11,
}

/// A device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSpec {
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    pub region: RegionId,
    /// RX1 comes so many seconds after an uplink.
    pub rx_delay_s: u8,
    /// It has a codec.
    pub codec: bool,
    /// The first counter of its uplinks, where it is personalised.
    pub fcnt_up: u32,
    /// The first counter of its downlinks, where it is personalised.
    pub fcnt_down: u32,
    /// The DevAddr of a personalised device; several may share one.
    pub dev_addr: u32,
}

/// A consumer.
#[derive(Clone, Copy, Debug)]
pub struct ConsumerSpec {
    /// It waits so long after each event, milliseconds.
    pub pause_ms: u64,
    /// It acknowledges each so many events.
    pub acknowledges_each: u64,
    /// It leaves after so many events and comes again; 0: it stays.
    pub leaves_after: u64,
}

/// Something that is done, or goes wrong. Times are in milliseconds, devices and gateways numbered from 0.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "fields are named after what they hold")]
pub enum Action {
    /// A device sends; it joins where it has no session. `heard` has a bit for each gateway in reach.
    Uplink { device: usize, confirmed: bool, len: u8, heard: u8, times: u8 },
    /// A device asks to join, session or not.
    Join { device: usize, heard: u8 },
    /// All devices that can ask to join.
    JoinStorm { heard: u8 },
    /// Somebody orders a downlink. `key` is an idempotency key, 0 for none.
    Enqueue { device: usize, confirmed: bool, len: u8, lives_ms: u64, priority: u32, key: u64 },
    /// Somebody personalises a device again, with the keys it has.
    Activate { device: usize },
    /// Somebody takes the last order for a device back.
    Cancel { device: usize },
    /// A stranger plays a frame back that was on air: the `back`-th last one.
    PlayBack { back: u16, gateway: usize },
    /// A gateway acknowledges an order that another one got.
    ForgeTxAck { gateway: usize },
    /// A gateway's backhaul is away.
    Outage { gateway: usize, ms: u64 },
    /// A gateway starts anew: its counter begins again, what it was to send is gone.
    RebootGateway { gateway: usize },
    /// The server ends as by a power cut, and is started again.
    Crash { away_ms: u64 },
    /// The server ends so at its n-th step from now: before or after a commit, or as a datagram leaves.
    CrashAtStep { steps: u64, after: bool, away_ms: u64 },
    /// Another server takes the disk over while the old one goes on for a while.
    TakeOver { overlap_ms: u64 },
    /// The disk is full.
    DiskFull { ms: u64 },
    /// The next so many writes are refused.
    WriteErrors { count: u64 },
    /// The next so many writes are done and reported as failed.
    UnknownOutcomes { count: u64 },
    /// Every write takes long.
    SlowDisk { ms: u64, takes_ms: u64 },
    /// The wall clock jumps.
    ClockJump { ms: i64 },
    /// Nothing happens for hours; what is under way then is under way after them.
    Hours { hours: u64 },
    /// A device starts its counter of DevNonces again.
    ResetDevNonce { device: usize },
}

impl Schedule {
    /// The schedule of a seed.
    pub fn from_seed(seed: u64) -> Self {
        let mut draw = Chance::new(seed).draw(For::Schedule, 0, 0);
        let setting = Setting::drawn(&mut draw);
        let count = draw.between(120, 260);
        let mut actions = Vec::new();
        let mut at_ms = 0;
        let pace_ms = draw.between(200, 1_600);
        let mut mood = Mood::drawn(&mut draw);
        for number in 0..count {
            at_ms += draw.between(1, pace_ms);
            let action = Action::drawn(&mut draw, &setting, &mut mood);
            actions.push(Timed { at_ms, number, action });
        }
        add_activations(seed, &setting, at_ms, &mut actions);
        Self { seed, setting, actions }
    }
}

/// In some schedules an operator personalises devices again. It has draws of its own: it came later than the rest, and the other
/// schedules are what they were.
fn add_activations(seed: u64, setting: &Setting, end_ms: u64, actions: &mut Vec<Timed>) {
    let mut draw = Chance::new(seed).draw(For::Activation, 0, 0);
    let personalised: Vec<usize> =
        (0..setting.devices.len()).filter(|device| setting.devices[*device].kind == Kind::Abp).collect();
    if personalised.is_empty() || !draw.in_thousand(150) {
        return;
    }
    let drawn = actions.len() as u64;
    for number in drawn..drawn + draw.between(1, 6) {
        let action = Action::Activate { device: draw.pick(&personalised) };
        actions.push(Timed { at_ms: draw.between(1, end_ms), number, action });
    }
    actions.sort_by_key(|timed| timed.at_ms);
}

impl Setting {
    fn drawn(draw: &mut Draw) -> Self {
        let gateway_count = draw.between(1, 5);
        let gateways = (0..gateway_count)
            .map(|_| GatewaySpec {
                // Half of them wrap within the first minutes.
                tmst_us: if draw.in_thousand(500) {
                    u32::MAX - u32::try_from(draw.between(0, 120_000_000)).expect("small")
                } else {
                    u32::try_from(draw.next() >> 33).expect("31 bits")
                },
                sends_again: draw.in_thousand(300),
                keeps: draw.in_thousand(400),
            })
            .collect();
        // Seldom a crowd: it costs more than it shows.
        let device_count = if draw.in_thousand(30) { draw.between(20, 50) } else { draw.between(5, 12) };
        let devices = (0..device_count).map(|number| DeviceSpec::drawn(draw, number)).collect();
        let consumer_count = draw.between(1, 3);
        let consumers = (0..consumer_count).map(|_| ConsumerSpec::drawn(draw)).collect();
        let stormy = draw.in_thousand(500);
        Self {
            gateways,
            devices,
            consumers,
            lost: draw.pick(if stormy { &[50, 150, 300] } else { &[0, 0, 20] }),
            twice: draw.pick(if stormy { &[20, 80, 150] } else { &[0, 5, 20] }),
            slow: draw.pick(if stormy { &[20, 100, 200] } else { &[0, 5, 20] }),
            way_ms: draw.pick(&[2, 20, 60, 120, 250]),
            unheard: draw.pick(&[0, 50, 300]),
            refused: draw.pick(&[0, 50, 300]),
            commit_ms: draw.pick(&[1, 3, 10, 40]),
            retention_s: if draw.in_thousand(150) { 40 } else { 7 * 24 * 3_600 },
        }
    }
}

impl DeviceSpec {
    fn drawn(draw: &mut Draw, number: u64) -> Self {
        let kind = draw.pick(&[Kind::Abp, Kind::Abp, Kind::Otaa103, Kind::Otaa104, Kind::Otaa11]);
        Self {
            kind,
            region: draw.pick(&[
                RegionId::Eu868,
                RegionId::Eu868,
                RegionId::Us915,
                RegionId::Au915,
                RegionId::As923_1,
                RegionId::In865,
            ]),
            rx_delay_s: draw.pick(&[1, 1, 5]),
            codec: draw.in_thousand(300),
            fcnt_up: draw.pick(&[0, 0, 0, 0xfff8, 0xffff, 0xffff_fffa, 70_000]),
            fcnt_down: draw.pick(&[0, 0, 0, 0xfffc, 70_000]),
            // Two devices share each address.
            dev_addr: 0x0100_0000 + u32::try_from(number / 2).expect("small"),
        }
    }
}

impl ConsumerSpec {
    fn drawn(draw: &mut Draw) -> Self {
        Self {
            pause_ms: draw.pick(&[0, 0, 10, 400, 5_000]),
            acknowledges_each: draw.between(1, 8),
            leaves_after: draw.pick(&[0, 0, 5, 20]),
        }
    }
}

/// Which faults a schedule likes; most schedules like few, so that each is seen alone too.
#[derive(Clone, Debug)]
struct Mood {
    crashes: u32,
    disk: u32,
    gateways: u32,
    clocks: u32,
    servers_left: u64,
    joins: u32,
    downlinks: u32,
}

impl Mood {
    fn drawn(draw: &mut Draw) -> Self {
        let mut some = |much: u32| if draw.in_thousand(450) { much } else { 0 };
        Self {
            crashes: some(30),
            disk: some(30),
            gateways: some(50),
            clocks: some(10),
            servers_left: u64::from(some(2)),
            joins: some(60).max(15),
            downlinks: some(250).max(60),
        }
    }
}

impl Action {
    fn drawn(draw: &mut Draw, setting: &Setting, mood: &mut Mood) -> Self {
        let device = pick_index(draw, setting.devices.len());
        let gateway = pick_index(draw, setting.gateways.len());
        let all = (1_u64 << setting.gateways.len()) - 1;
        let heard = u8::try_from(draw.between(1, all)).expect("at most five gateways");
        if draw.in_thousand(mood.crashes) {
            let away_ms = draw.pick(&[50, 300, 2_000, 20_000]);
            return match draw.between(0, 3) {
                0 => Self::Crash { away_ms },
                1 if mood.servers_left > 0 => {
                    mood.servers_left -= 1;
                    Self::TakeOver { overlap_ms: draw.between(10, 20_000) }
                }
                _ => Self::CrashAtStep { steps: draw.between(1, 40), after: draw.in_thousand(500), away_ms },
            };
        }
        if draw.in_thousand(mood.disk) {
            return match draw.between(0, 3) {
                0 => Self::DiskFull { ms: draw.pick(&[300, 3_000, 20_000]) },
                1 => Self::WriteErrors { count: draw.between(1, 4) },
                2 => Self::UnknownOutcomes { count: draw.between(1, 4) },
                _ => Self::SlowDisk { ms: draw.between(500, 8_000), takes_ms: draw.between(50, 900) },
            };
        }
        if draw.in_thousand(mood.gateways) {
            return match draw.between(0, 3) {
                0 => Self::Outage { gateway, ms: draw.pick(&[2_000, 15_000, 60_000]) },
                1 => Self::RebootGateway { gateway },
                2 => Self::ForgeTxAck { gateway },
                _ => Self::PlayBack { back: u16::try_from(draw.between(0, 60)).expect("small"), gateway },
            };
        }
        if draw.in_thousand(mood.clocks) {
            return match draw.between(0, 4) {
                0 => Self::Hours { hours: draw.between(1, 24) },
                _ => Self::ClockJump {
                    ms: draw.pick(&[-1_000, 1_000, -60_000, 3_600_000, -315_360_000_000, 315_360_000_000]),
                },
            };
        }
        if draw.in_thousand(mood.joins) {
            return match draw.between(0, 20) {
                0 => Self::JoinStorm { heard },
                1 => Self::ResetDevNonce { device },
                _ => Self::Join { device, heard },
            };
        }
        if draw.in_thousand(mood.downlinks) {
            return if draw.in_thousand(60) {
                Self::Cancel { device }
            } else {
                Self::Enqueue {
                    device,
                    confirmed: draw.in_thousand(400),
                    len: draw.pick(&[8, 8, 8, 20, 60, 120]),
                    lives_ms: draw.pick(&[0, 0, 0, 5_000, 60_000]),
                    priority: u32::try_from(draw.between(0, 2)).expect("small"),
                    key: if draw.in_thousand(150) { draw.between(1, 3) } else { 0 },
                }
            };
        }
        Self::Uplink {
            device,
            confirmed: draw.in_thousand(400),
            len: draw.pick(&[0, 4, 4, 11, 30]),
            heard,
            times: u8::try_from(draw.pick(&[1, 1, 1, 2, 3])).expect("small"),
        }
    }
}

fn pick_index(draw: &mut Draw, count: usize) -> usize {
    usize::try_from(draw.next() % count as u64).expect("below the count")
}
