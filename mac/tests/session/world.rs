//! The network beside the device: verifies, opens windows, applies, builds; and the air between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mac::crypto::{self, Direction};
use mac::dedup::{Closed, Counter, Dedup, DedupLimits, FrameId, Handled, Reception};
use mac::downlink::{AppPayload, BuiltDownlink, TxWindow, build, on_downlink_sent};
use mac::drop_reason::DropReason;
use mac::ids::{DevAddr, DevEui, GatewayEui, SessionId};
use mac::join_frame::DlSettings;
use mac::keys::{FNwkSIntKey, Key, NetworkKeys, NwkSEncKey, SNwkSIntKey};
use mac::phy::{Frame, parse_uplink};
use mac::region::{CfList, DataRate};
use mac::session::{AbpParams, Activation, OtaaParams, Profile, Session};
use mac::units::{Hz, Mono, Timestamp};
use mac::uplink::{DeviceAnswer, Note, QueueHint, RadioContext, Reply, Step, apply, apply_repeat};
use mac::verify::{Candidate, Outcome, Proof, SentWith, verify, verify_replay};

use crate::device::{APP_S_KEY, Device, Habits, Received, SentUplink};

pub(crate) struct World {
    pub profile: Profile,
    pub session: Session,
    pub device: Device,
    pub allow_fcnt_reset: bool,
    pub now_ms: u64,
    /// Of the device at full power.
    pub snr_db: f32,
    pub gateways: u64,
    pub ended_at_gps_us: Option<i64>,
    pub reply: Reply,
    pub air: Air,
    pub queue: VecDeque<Item>,
    pub delivered: Vec<(u32, Vec<u8>)>,
    pub drops: Vec<DropReason>,
    pub notes: Vec<Note>,
    pub device_answers: Vec<DeviceAnswer>,
    /// Every downlink that left: counter kind and counter, and its bytes.
    pub sent: BTreeMap<(bool, u32), Vec<u8>>,
    pub excesses_told: usize,
    dedup: Dedup<Heard>,
}

/// What the air does with a downlink, and which window the network takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Air {
    LosesDownlinks,
    ThroughRx1,
    ThroughRx2,
}

#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub f_port: u8,
    pub bytes: Vec<u8>,
    pub confirmed: bool,
}

/// What one transmission of the device came to.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    pub step: Option<Step>,
    pub built: Option<BuiltDownlink>,
    pub heard: Option<Received>,
}

#[derive(Clone)]
struct Heard {
    gateway: u64,
    tmst_us: u32,
    uplink: SentUplink,
    proof: Proof,
}

impl Reception for Heard {
    fn gateway_eui(&self) -> GatewayEui {
        GatewayEui::new(self.gateway)
    }
    fn tmst_us(&self) -> u32 {
        self.tmst_us
    }
    fn is_stronger_than(&self, _: &Self) -> bool {
        false
    }
}

impl World {
    /// A personalised device that has just been switched on.
    pub(crate) fn abp(profile: Profile) -> Self {
        let params = AbpParams {
            id: SessionId::new(7),
            dev_eui: DevEui::new(1),
            dev_addr: DevAddr::new(0x2601_0203),
            version: profile.mac_version,
            keys: keys(&profile),
            fcnt_up: None,
            fcnt_down: 0,
        };
        let session = Session::new_abp(&profile, params, Timestamp::from_us(START_US));
        Self::of(profile, session)
    }

    /// What the network keeps of a Join-Accept with this CFList.
    pub(crate) fn offered(profile: &Profile, cf_list: Option<[u8; 16]>) -> Session {
        let settings = profile.join_settings();
        let dl_settings = DlSettings {
            opt_neg: profile.mac_version.is_1_1(),
            rx1_dr_offset: settings.rx1_dr_offset,
            rx2_dr: settings.rx2_dr.value(),
        };
        let params = OtaaParams {
            id: SessionId::new(7),
            dev_eui: DevEui::new(1),
            dev_addr: DevAddr::new(0x2601_0203),
            version: profile.mac_version,
            keys: keys(profile),
            dl_settings,
            rx_delay_s: settings.rx_delay_s,
            cf_list,
        };
        Session::new_otaa(profile, params, Timestamp::from_us(START_US))
    }

    /// A device that has joined: it took what the Join-Accept says, byte by byte.
    pub(crate) fn otaa(profile: Profile) -> Self {
        let settings = profile.join_settings();
        let session = Self::offered(&profile, settings.cf_list);
        let mut world = Self::of(profile, session);
        let device = &mut world.device;
        device.rx1_delay_s = settings.rx_delay_s;
        device.rx1_dr_offset = settings.rx1_dr_offset;
        device.rx2_dr = settings.rx2_dr.value();
        device.wants_rekey = device.version.is_1_1();
        match settings.cf_list.and_then(CfList::from_bytes) {
            Some(CfList::Frequencies(frequencies)) => {
                for (index, freq) in (device.region.first_extra_index()..).zip(frequencies) {
                    if let Some(freq) = freq.hz(100) {
                        device.extra.insert(index, freq);
                        device.mask.insert(index);
                    }
                }
            }
            Some(CfList::Masks(mask)) => device.mask = mask,
            None => {}
        }
        world
    }

    fn of(profile: Profile, session: Session) -> Self {
        profile.check().unwrap();
        let region = profile.region();
        let (_, downlink_dwell) = region.dwell_defaults(profile.revision);
        let (rx2_freq, rx2_dr) = region.rx2_default();
        let device = Device {
            region,
            rev: profile.revision,
            version: profile.mac_version,
            keys: session.keys.clone(),
            dev_addr: session.dev_addr,
            fcnt_up: 0,
            last_n: None,
            last_a: None,
            adr: true,
            dr: region.data_rate_min(profile.revision, region.dwell_defaults(profile.revision).0).value(),
            tx_power: 0,
            nb_trans: 1,
            mask: region.default_mask(),
            extra: BTreeMap::new(),
            rx1_delay_s: 1,
            rx1_dr_offset: 0,
            rx2_dr: rx2_dr.value(),
            rx2_freq,
            downlink_dwell,
            says: Vec::new(),
            sticky: Vec::new(),
            wants_rekey: false,
            wants_reset: session.activation == Activation::Abp && profile.mac_version.is_1_1(),
            adr_ack_cnt: 0,
            habits: Habits::default(),
            ack_due: None,
            received: Vec::new(),
            last: None,
        };
        Self {
            profile,
            session,
            device,
            allow_fcnt_reset: false,
            now_ms: 0,
            snr_db: -5.0,
            gateways: 1,
            ended_at_gps_us: None,
            reply: Reply::Possible,
            air: Air::ThroughRx1,
            queue: VecDeque::new(),
            delivered: Vec::new(),
            drops: Vec::new(),
            notes: Vec::new(),
            device_answers: Vec::new(),
            sent: BTreeMap::new(),
            excesses_told: 0,
            dedup: Dedup::new(DedupLimits::default()),
        }
    }

    /// The device reports, and ten minutes pass.
    pub(crate) fn report(&mut self, bytes: &[u8]) -> Exchange {
        self.uplink(Some((2, bytes)), false)
    }

    pub(crate) fn report_confirmed(&mut self, bytes: &[u8]) -> Exchange {
        self.uplink(Some((2, bytes)), true)
    }

    pub(crate) fn uplink(&mut self, app: Option<(u8, &[u8])>, confirmed: bool) -> Exchange {
        self.now_ms += 600_000;
        let sent = self.device.uplink(app, confirmed);
        self.transmit(&sent)
    }

    /// The network has nothing to ask any more: what a story begins with is over.
    pub(crate) fn settle(&mut self) {
        for _ in 0..12 {
            if self.report(b"settling").built.is_none() {
                return;
            }
        }
        panic!("the network never stops talking");
    }

    /// Carries a frame to every gateway, lets the window close, and carries the answer back.
    pub(crate) fn transmit(&mut self, uplink: &SentUplink) -> Exchange {
        for gateway in 1..=self.gateways {
            self.copy(uplink, gateway);
        }
        self.close()
    }

    /// A copy arrives over a gateway; what becomes of it before its window closes.
    pub(crate) fn copy(&mut self, uplink: &SentUplink, gateway: u64) -> Option<Handled> {
        let proof = match self.verified(uplink) {
            Ok(proof) => proof,
            Err(reason) => {
                self.drops.push(reason);
                return None;
            }
        };
        let verified = proof.open(&uplink.phy).unwrap();
        let counter = match self.session.recheck(&verified) {
            Ok(counter) => counter,
            Err(reason) => {
                self.drops.push(reason);
                return None;
            }
        };
        let id = FrameId::Data { session: self.session.id, fcnt: verified.fcnt(), content: verified.content() };
        let tmst_us = u32::try_from((self.now_ms * 1_000) & 0xffff_ffff).unwrap();
        let heard = Heard { gateway, tmst_us, uplink: uplink.clone(), proof };
        let late_ms = self.session.rx2_delay_ms();
        let handled = self.dedup.handle(id, counter, heard, late_ms, self.mono());
        match handled {
            Handled::Opened => {
                assert_eq!(counter, Counter::Fresh);
                self.session.open_uplink(&self.profile, &verified, self.wall());
            }
            Handled::OpenedRepeat => self.session.count_repeat(),
            Handled::RepeatRefused => {
                self.drops.push(DropReason::NbTransExceeded);
                self.excesses_told += usize::from(self.session.tell_excess());
            }
            Handled::Absorbed | Handled::Full | Handled::Joined | Handled::Late => {}
        }
        Some(handled)
    }

    fn verified(&self, uplink: &SentUplink) -> Result<Proof, DropReason> {
        let Frame::DataUp(frame) = parse_uplink(&uplink.phy)? else {
            return Err(DropReason::Malformed);
        };
        let candidate = Candidate {
            session: self.session.id,
            version: self.session.version,
            f_nwk_s_int: &self.session.keys.f_nwk_s_int,
            s_nwk_s_int: Some(&self.session.keys.s_nwk_s_int),
            conf_fcnt: self.session.conf_fcnt(),
            last: self.session.fcnt_up,
            allow_fcnt_reset: self.allow_fcnt_reset,
        };
        let extra = self.session.extra_channels(&self.profile);
        let sent_with = SentWith {
            dr: uplink.dr,
            channel: self.profile.region().uplink_channel(uplink.freq, uplink.dr, &extra),
        };
        match verify(&frame, &candidate, sent_with) {
            Outcome::Fresh(proof) | Outcome::Repeat(proof) | Outcome::Reset(proof) => Ok(proof),
            Outcome::Exhausted => Err(DropReason::FcntExhausted),
            Outcome::TooFar(_) => Err(DropReason::FcntTooFar),
            Outcome::Replayed(_) => Err(DropReason::FcntReplayed),
            Outcome::NoMatch => match verify_replay(&frame, &candidate, sent_with) {
                Outcome::Replayed(_) => Err(DropReason::FcntReplayed),
                _ => Err(DropReason::MicMismatch),
            },
        }
    }

    /// The window closes: the session decides, and the answer travels.
    pub(crate) fn close(&mut self) -> Exchange {
        self.now_ms += 200;
        let mut exchange = Exchange::default();
        for closed in self.dedup.handle_timeout(self.mono()) {
            exchange = self.decide(&closed);
        }
        exchange
    }

    fn decide(&mut self, closed: &Closed<Heard>) -> Exchange {
        let Heard { uplink, proof, .. } = &closed.receptions[0];
        let verified = proof.open(&uplink.phy).unwrap();
        let fcnt = proof.fcnt();
        let radio = self.radio(uplink, closed.receptions.len());
        let queue =
            self.queue.front().map(|item| QueueHint { next_len: u32::try_from(item.bytes.len()).unwrap() });
        let now = self.wall();
        let step = if closed.repeat {
            apply_repeat(&mut self.session, &self.profile, &verified, &radio, now)
        } else {
            apply(&mut self.session, &self.profile, &verified, &radio, queue, now)
        };
        self.notes.extend(&step.notes);
        self.device_answers.extend(step.device_answer);
        if let Some(app) = &step.app_payload {
            let mut bytes = uplink.phy[app.bytes.clone()].to_vec();
            let dev_addr = self.session.dev_addr;
            crypto::crypt_frm_payload(&APP_S_KEY, Direction::Up, dev_addr, fcnt.value(), &mut bytes);
            self.delivered.push((fcnt.value(), bytes));
        }
        self.survives_a_restart();
        let (built, heard) = self.answer(&step);
        Exchange { step: Some(step), built, heard }
    }

    fn radio(&self, uplink: &SentUplink, gateway_count: usize) -> RadioContext {
        let extra = self.session.extra_channels(&self.profile);
        RadioContext {
            freq: uplink.freq,
            dr: uplink.dr,
            channel: self.profile.region().uplink_channel(uplink.freq, uplink.dr, &extra),
            // Two decibels less with each step of power.
            snr_db: Some(self.snr_db - 2.0 * f32::from(self.device.tx_power)),
            gateway_count,
            ended_at_gps_us: self.ended_at_gps_us,
            reply: self.reply,
        }
    }

    fn answer(&mut self, step: &Step) -> (Option<BuiltDownlink>, Option<Received>) {
        let Some(plan) = &step.downlink else {
            return (None, None);
        };
        let mut app = None;
        if let (Some(room), Some(item)) = (plan.ask_payload, self.queue.front()) {
            let fits = |room: Option<u8>| room.is_some_and(|room| item.bytes.len() <= usize::from(room));
            if fits(room.rx1) || fits(room.rx2) {
                let item = self.queue.pop_front().unwrap();
                let mut frm_payload = item.bytes;
                let fcnt = room.fcnt_down.value();
                let dev_addr = self.session.dev_addr;
                crypto::crypt_frm_payload(&APP_S_KEY, Direction::Down, dev_addr, fcnt, &mut frm_payload);
                app = Some(AppPayload { f_port: item.f_port, frm_payload, confirmed: item.confirmed });
            }
        }
        let built = build(plan, &self.session.keys, app, !self.queue.is_empty()).unwrap();
        let Some(built) = built else {
            return (None, None);
        };
        let is_app = plan.version_1_1 && plan.a_fcnt_down == Some(built.fcnt_down) && built.phy.len() > 12 && {
            let Some(mac::phy::DownFrame::Data(frame)) = mac::phy::parse_downlink(&built.phy) else { panic!() };
            frame.f_port.is_some_and(|f_port| f_port != 0)
        };
        assert_eq!((built.phy[0] & 0x1c, built.phy[5] & 0x40), (0, 0), "reserved bits of MHDR and FCtrl");
        let before = self.sent.insert((is_app, built.fcnt_down.value()), built.phy.clone());
        assert!(before.is_none(), "one counter, one frame");
        on_downlink_sent(&mut self.session, plan, &built);
        let window = match self.air {
            Air::LosesDownlinks => None,
            Air::ThroughRx1 if built.fits_rx1 => plan.rx1,
            Air::ThroughRx1 | Air::ThroughRx2 => plan.rx2,
        };
        let heard = window.map(|TxWindow { freq, dr, delay_s, max_m, .. }| {
            assert!(built.phy.len() <= usize::from(max_m) + 5, "too long for its window");
            self.device
                .receive(&built.phy, freq, dr, delay_s)
                .expect("the device listens where the network sends")
        });
        (Some(built), heard)
    }

    /// Whatever happened, the packed state is enough to go on.
    fn survives_a_restart(&self) {
        let stored = Session::unpack(
            self.session.id,
            self.session.dev_eui,
            self.session.keys.clone(),
            &self.session.pack(),
            self.session.fcnt_up,
            self.session.n_fcnt_down,
            self.session.a_fcnt_down,
        );
        assert_eq!(stored.unwrap().mac, self.session.mac);
    }

    /// Restarts the network: what is in memory only is gone.
    pub(crate) fn restart(&mut self) {
        self.session = Session::unpack(
            self.session.id,
            self.session.dev_eui,
            self.session.keys.clone(),
            &self.session.pack(),
            self.session.fcnt_up,
            self.session.n_fcnt_down,
            self.session.a_fcnt_down,
        )
        .unwrap();
        self.dedup = Dedup::new(DedupLimits::default());
    }

    pub(crate) fn enqueue(&mut self, bytes: &[u8], confirmed: bool) {
        self.queue.push_back(Item { f_port: 10, bytes: bytes.to_vec(), confirmed });
    }

    /// Identifiers of the commands in every downlink the device heard so far.
    pub(crate) fn commands_heard(&self) -> Vec<Vec<u8>> {
        self.device
            .received
            .iter()
            .map(|heard| heard.commands.iter().map(|command| command.cid()).collect())
            .collect()
    }

    pub(crate) fn counters_sent(&self) -> BTreeSet<(bool, u32)> {
        self.sent.keys().copied().collect()
    }

    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp::from_us(START_US).plus_ms(i64::try_from(self.now_ms).unwrap())
    }

    fn mono(&self) -> Mono {
        Mono::from_us(self.now_ms * 1_000)
    }
}

pub(crate) fn dr(index: u8) -> DataRate {
    DataRate::new(index)
}

pub(crate) fn hz(freq_hz: u32) -> Hz {
    Hz::new(freq_hz)
}

fn keys(profile: &Profile) -> NetworkKeys {
    if profile.mac_version.is_1_1() {
        NetworkKeys {
            f_nwk_s_int: FNwkSIntKey::new([1; 16]),
            s_nwk_s_int: SNwkSIntKey::new([2; 16]),
            nwk_s_enc: NwkSEncKey::new([3; 16]),
        }
    } else {
        NetworkKeys::from_nwk_s_key(&Key::new([7; 16]))
    }
}

const START_US: i64 = 1_700_000_000_000_000;
