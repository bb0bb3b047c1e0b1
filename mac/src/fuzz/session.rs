use std::collections::BTreeSet;

use super::answer;
use crate::command::UplinkCommands;
use crate::crypto::{self, Direction, UplinkMicContext11};
use crate::dedup::Counter;
use crate::downlink::on_downlink_sent;
use crate::ids::{DevAddr, DevEui, FCntUp, SessionId};
use crate::join_frame::DlSettings;
use crate::keys::{FNwkSIntKey, NetworkKeys, NwkSEncKey, SNwkSIntKey};
use crate::phy::{Frame, UplinkFrame, parse_uplink};
use crate::region::{Channel, DataRate, RegionId};
use crate::session::{AbpParams, OtaaParams, Profile, Session};
use crate::units::Timestamp;
use crate::uplink::{PortUse, QueueHint, RadioContext, Reply, Step, apply, apply_repeat, port_use};
use crate::verify::{Candidate, Outcome, Proof, SentWith, verify};
use crate::version::{MacVersion, RegionalRevision};

/// What a device with the right keys may send, frame after frame: MAC commands, ports, flags, counters and signal are the input's.
///
/// The payload of the application comes through whatever the commands are. Counters rise and are never used twice. What changed and
/// must survive a restart is said to have changed. The network's answer is a genuine frame that fits its window and asks for nothing that
/// the region forbids.
pub fn session_uplinks(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Some(mut world) = World::draw(&mut input) else { return };
    for _ in 0..STEPS_MAX {
        if input.0.is_empty() {
            return;
        }
        world.step(&mut input);
    }
}

/// A session's packed state, as it lies in the database.
///
/// What can be read is written back as it is, and a session that begins with it lives: it takes uplinks that answer everything that may
/// have been asked, in every region, and makes sound answers.
pub fn session_state(bytes: &[u8]) {
    for (index, region) in RegionId::ALL.iter().enumerate() {
        let id = SessionId::new(1);
        let Ok(session) = Session::unpack(id, DevEui::new(2), keys(true), bytes, None, 0, 0) else { return };
        if index == 0 {
            survives_its_bytes(&session);
        }
        let profile = Profile { region: *region, device_status_interval_s: 1, ..Profile::default() };
        let mut world = World::of(profile, session, Allow::Rising);
        for answers in [ANSWERS, &[], ANSWERS_THAT_REFUSE] {
            world.step(&mut Input(&[&[FLAG_ADR, 0, 0, 40, 2], answers].concat()));
        }
    }
}

/// The durable part of a session is the same after a restart.
pub(super) fn survives_its_bytes(session: &Session) {
    let state = session.pack();
    assert!(state.len() <= STATE_LEN_MAX, "a session takes {} bytes", state.len());
    let again = Session::unpack(
        session.id,
        session.dev_eui,
        session.keys.clone(),
        &state,
        session.fcnt_up,
        session.n_fcnt_down,
        session.a_fcnt_down,
    );
    let again = again.expect("what was packed is unpacked");
    assert_eq!(again.mac, session.mac);
    assert_eq!(
        (again.dev_addr, again.activation, again.version),
        (session.dev_addr, session.activation, session.version)
    );
    assert_eq!(again.pack(), state);
}

struct World {
    profile: Profile,
    session: Session,
    allow: Allow,
    now_us: i64,
    /// Downlink counters that sealed a frame: whether it is the application's, and the number.
    used: BTreeSet<(bool, u32)>,
    last: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Allow {
    Reset,
    Rising,
}

/// One frame and how it was sent.
struct Sent {
    phy: Vec<u8>,
    fcnt: FCntUp,
    /// Port and plain bytes of the application's payload.
    app: Option<(u8, Vec<u8>)>,
    /// MAC commands in clear.
    commands: Vec<u8>,
    radio: RadioContext,
}

impl World {
    /// A device of any version, region and activation; `None` where that makes no sound profile.
    fn draw(input: &mut Input<'_>) -> Option<Self> {
        let version = *MacVersion::ALL.get(usize::from(input.byte()) % MacVersion::ALL.len())?;
        let region = *RegionId::ALL.get(usize::from(input.byte()) % RegionId::ALL.len())?;
        let revision = RegionalRevision::from_number(i32::from(input.byte() % 12) + 1)?;
        let [otaa, adr, extras, may_reset, late_counters, dwell, eirp, status] = input.flags();
        let mut profile = Profile {
            region,
            mac_version: version,
            revision,
            adr,
            device_status_interval_s: u32::from(status),
            uplink_dwell: dwell.then_some(true),
            downlink_dwell: dwell.then_some(false),
            max_eirp_dbm: eirp.then_some(14),
            ..Profile::default()
        };
        if extras && profile.region().is_fixed_plan() {
            profile.sub_bands = 0b10;
        } else if extras {
            let like = profile.region().default_channels().first().map_or(0, |channel| channel.freq.value());
            profile.extra_channels = vec![crate::units::Hz::new(like + 400_000)];
        }
        profile.check().ok()?;
        let keys = keys(version.is_1_1());
        let (fcnt_up, fcnt_down) =
            if late_counters { (Some(FCntUp::new(u32::MAX - 8)), u32::MAX - 5) } else { (None, 0) };
        let now = Timestamp::from_us(START_US);
        let mut session = if otaa {
            let settings = profile.join_settings();
            let params = OtaaParams {
                id: SessionId::new(1),
                dev_eui: DevEui::new(2),
                dev_addr: DEV_ADDR,
                version,
                keys,
                dl_settings: DlSettings {
                    opt_neg: version.is_1_1(),
                    rx1_dr_offset: settings.rx1_dr_offset,
                    rx2_dr: settings.rx2_dr.value(),
                },
                rx_delay_s: settings.rx_delay_s,
                cf_list: settings.cf_list,
            };
            Session::new_otaa(&profile, params, now)
        } else {
            let params = AbpParams {
                id: SessionId::new(1),
                dev_eui: DevEui::new(2),
                dev_addr: DEV_ADDR,
                version,
                keys,
                fcnt_up,
                fcnt_down,
            };
            Session::new_abp(&profile, params, now)
        };
        session.fcnt_up = fcnt_up;
        session.n_fcnt_down = fcnt_down;
        session.a_fcnt_down = fcnt_down;
        let allow = if may_reset { Allow::Reset } else { Allow::Rising };
        Some(Self::of(profile, session, allow))
    }

    fn of(profile: Profile, session: Session, allow: Allow) -> Self {
        Self { profile, session, allow, now_us: START_US, used: BTreeSet::new(), last: None }
    }

    /// The device sends one frame, and the network answers.
    fn step(&mut self, input: &mut Input<'_>) {
        self.now_us += 600_000_000;
        let Some(sent) = self.send(input) else { return };
        let phy = match (input.byte(), self.last.take()) {
            (REPEAT, Some(before)) => before,
            _ => sent.phy.clone(),
        };
        let before = (self.session.pack(), self.session.fcnt_up);
        let counters = (self.session.n_fcnt_down, self.session.a_fcnt_down);
        let Some(proof) = self.verified(&phy, &sent.radio) else {
            assert_eq!(
                (self.session.pack(), self.session.fcnt_up),
                before,
                "an unproven frame changed something"
            );
            return;
        };
        let uplink = proof.open(&phy).expect("a proof opens its own frame");
        let now = Timestamp::from_us(self.now_us);
        let repeated = phy != sent.phy;
        let step = match self.session.recheck(&uplink) {
            Ok(Counter::Fresh) => {
                let last = self.session.fcnt_up;
                self.session.open_uplink(&self.profile, &uplink, now);
                assert!(self.allow == Allow::Reset || last.is_none_or(|last| uplink.fcnt() > last));
                let queue = Some(QueueHint { next_len: 11 }).filter(|_| sent.commands.len() % 2 == 0);
                let packed = self.session.pack();
                let step = apply(&mut self.session, &self.profile, &uplink, &sent.radio, queue, now);
                assert!(step.mac_changed || self.session.pack() == packed, "a durable change is not told");
                assert!(!repeated || self.allow == Allow::Reset);
                if !repeated {
                    delivers(&step, &sent);
                }
                step
            }
            Ok(Counter::Repeat) => {
                self.session.count_repeat();
                let step = apply_repeat(&mut self.session, &self.profile, &uplink, &sent.radio, now);
                assert!(step.app_payload.is_none() && step.status.is_none() && step.notes.len() <= 1);
                assert_eq!(self.session.pack(), before.0, "a repetition changes counters only");
                step
            }
            Ok(Counter::RepeatExhausted) | Err(_) => {
                assert_eq!((self.session.pack(), self.session.fcnt_up), before);
                self.last = Some(phy);
                return;
            }
        };
        self.last = Some(phy);
        let moved = (self.session.n_fcnt_down - counters.0, self.session.a_fcnt_down - counters.1);
        assert!(moved.0 <= 1 && moved.1 <= 1, "counters rise by the one frame: {moved:?}");
        survives_its_bytes(&self.session);
        let Some(plan) = &step.downlink else {
            assert_eq!(moved, (0, 0), "a counter without a frame");
            return;
        };
        answer::asks_for_nothing_forbidden(&self.profile, plan);
        if let Some(built) = answer::built(&self.session.keys, plan, counters) {
            let app_counter = plan.version_1_1 && built.confirmed;
            assert!(self.used.insert((app_counter, built.fcnt_down.value())), "a counter sealed two frames");
            on_downlink_sent(&mut self.session, plan, &built);
            survives_its_bytes(&self.session);
        }
    }

    /// Makes a genuine frame of the input's bytes; `None` when the device has no counter left.
    fn send(&self, input: &mut Input<'_>) -> Option<Sent> {
        let flags = input.byte();
        let gap = u32::from(input.byte());
        let (dr, channel) = self.draw_channel(input.byte());
        let snr_db = f32::from(input.byte().cast_signed()) / 4.0;
        let kind = input.byte();
        let session = &self.session;
        let version_1_1 = session.version.is_1_1();
        let fcnt = match session.fcnt_up {
            None => FCntUp::new(gap),
            Some(last) => FCntUp::new(last.value().checked_add(1 + gap)?),
        };
        let f_port = match kind % 4 {
            0 => None,
            1 => Some(0),
            2 => Some(input.byte().max(1)),
            _ => Some(226),
        };
        let commands = input.take(if f_port == Some(0) { COMMANDS_LEN_MAX } else { FOPTS_LEN_MAX });
        let (fopts, plain) = match f_port {
            Some(0) => (Vec::new(), commands.clone()),
            Some(_) => (commands.clone(), vec![kind; usize::from(kind / 8)]),
            None => (commands.clone(), Vec::new()),
        };
        let mut frm_payload = plain.clone();
        let key = if f_port == Some(0) { session.keys.nwk_s_enc.expose() } else { &APP_S_KEY };
        crypto::crypt_frm_payload(key, Direction::Up, session.dev_addr, fcnt.value(), &mut frm_payload);
        let frame = UplinkFrame {
            confirmed: flags & FLAG_CONFIRMED != 0,
            dev_addr: session.dev_addr,
            adr: flags & FLAG_ADR != 0,
            adr_ack_req: flags & FLAG_ADR_ACK_REQ != 0,
            ack: flags & FLAG_ACK != 0,
            class_b: flags & FLAG_CLASS_B != 0,
            fcnt,
            fopts,
            f_port,
            frm_payload,
        };
        let context =
            UplinkMicContext11 { conf_fcnt: session.conf_fcnt(), tx_dr: dr.value(), tx_ch: channel.index };
        let phy = frame.seal(&session.keys, version_1_1.then_some(context)).expect("the parts fit a frame");
        let radio = RadioContext {
            freq: channel.freq,
            dr,
            channel: Some(channel.index),
            snr_db: (flags & FLAG_NO_SNR == 0).then_some(snr_db),
            gateway_count: usize::from(kind),
            ended_at_gps_us: (flags & FLAG_GPS != 0).then_some(i64::from(gap) - 3),
            reply: if flags & FLAG_TOO_LATE == 0 { Reply::Possible } else { Reply::TooLate },
        };
        let app = f_port.filter(|port| port_use(*port) == PortUse::Application).map(|port| (port, plain));
        Some(Sent { phy, fcnt, app, commands, radio })
    }

    /// A channel the device knows, and a data rate of the region.
    fn draw_channel(&self, byte: u8) -> (DataRate, Channel) {
        let region = self.profile.region();
        let mut channels = region.default_channels().to_vec();
        channels.extend(self.session.extra_channels(&self.profile));
        let index = usize::from(byte >> 3) % channels.len();
        let channel = *channels.get(index).expect("every region has channels");
        let dr = DataRate::new(byte & 7);
        let known = region.modulation_up(dr, self.profile.revision).is_some();
        (if known { dr } else { region.data_rate_min(self.profile.revision, false) }, channel)
    }

    fn verified(&self, phy: &[u8], radio: &RadioContext) -> Option<Proof> {
        let Ok(Frame::DataUp(frame)) = parse_uplink(phy) else { panic!("a genuine frame is one") };
        let session = &self.session;
        let candidate = Candidate {
            session: session.id,
            version: session.version,
            f_nwk_s_int: &session.keys.f_nwk_s_int,
            s_nwk_s_int: Some(&session.keys.s_nwk_s_int),
            conf_fcnt: session.conf_fcnt(),
            last: session.fcnt_up,
            allow_fcnt_reset: self.allow == Allow::Reset,
        };
        match verify(&frame, &candidate, SentWith { dr: radio.dr, channel: radio.channel }) {
            Outcome::Fresh(proof) | Outcome::Repeat(proof) | Outcome::Reset(proof) => Some(proof),
            Outcome::Exhausted | Outcome::NoMatch | Outcome::Replayed(_) | Outcome::TooFar(_) => None,
        }
    }
}

/// The application gets its bytes, and nobody else's.
fn delivers(step: &Step, sent: &Sent) {
    let plain = step.app_payload.as_ref().map(|app| {
        let mut bytes = sent.phy.get(app.bytes.clone()).expect("within the frame").to_vec();
        crypto::crypt_frm_payload(
            &APP_S_KEY,
            Direction::Up,
            dev_addr_of(&sent.phy),
            sent.fcnt.value(),
            &mut bytes,
        );
        (app.f_port, bytes)
    });
    assert_eq!(plain, sent.app);
    let commands = UplinkCommands::new(&sent.commands).count();
    assert!(step.notes.len() <= commands + NOTES_BESIDE_COMMANDS, "{:?}", step.notes);
}

fn dev_addr_of(phy: &[u8]) -> DevAddr {
    let bytes = phy.get(1..5).and_then(|bytes| bytes.first_chunk::<4>()).expect("a data frame has an address");
    DevAddr::from_wire_bytes(*bytes)
}

fn keys(version_1_1: bool) -> NetworkKeys {
    let distinct = u8::from(version_1_1);
    NetworkKeys {
        f_nwk_s_int: FNwkSIntKey::new([0x11; 16]),
        s_nwk_s_int: SNwkSIntKey::new([0x11 + distinct; 16]),
        nwk_s_enc: NwkSEncKey::new([0x11 + 2 * distinct; 16]),
    }
}

/// Bytes that are taken one after the other; zeros behind their end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn flags(&mut self) -> [bool; 8] {
        let byte = self.byte();
        std::array::from_fn(|bit| byte >> bit & 1 == 1)
    }

    /// A length byte and so many bytes, at most `max` and at most what is left.
    fn take(&mut self, max: usize) -> Vec<u8> {
        let len = usize::from(self.byte()).min(max).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken.to_vec()
    }
}

/// Every answer a device can give to what this network asks, accepted.
const ANSWERS: &[u8] = &[15, 0x03, 7, 0x05, 7, 0x06, 100, 10, 0x07, 3, 0x07, 3, 0x08, 0x09, 0x02, 0x0d];
/// The same, refused.
const ANSWERS_THAT_REFUSE: &[u8] = &[10, 0x03, 0, 0x03, 0, 0x05, 0, 0x07, 0, 0x0a, 0];

const START_US: i64 = 1_750_000_000_000_000;
const DEV_ADDR: DevAddr = DevAddr::new(0x2601_0203);
const APP_S_KEY: [u8; 16] = [0x5a; 16];
const STEPS_MAX: usize = 16;
const FOPTS_LEN_MAX: usize = 15;
const COMMANDS_LEN_MAX: usize = 60;
const STATE_LEN_MAX: usize = 200;
/// A given-up request of each kind, a reset, an exhausted counter, a stray ACK, a relay's frame.
const NOTES_BESIDE_COMMANDS: usize = 10;
const REPEAT: u8 = 1;
const FLAG_CONFIRMED: u8 = 0x01;
const FLAG_ADR: u8 = 0x02;
const FLAG_ADR_ACK_REQ: u8 = 0x04;
const FLAG_ACK: u8 = 0x08;
const FLAG_CLASS_B: u8 = 0x10;
const FLAG_NO_SNR: u8 = 0x20;
const FLAG_GPS: u8 = 0x40;
const FLAG_TOO_LATE: u8 = 0x80;
