//! A virtual end-device of class A: OTAA or ABP, LoRaWAN 1.0.x or 1.1.
//!
//! It keeps its own counters, windows and settings and answers MAC commands as the specification tells a device to. From
//! `mac` it takes frames, ciphers and regional tables, none of the network's decisions.

mod commands;

use mac::crypto::{Direction, UplinkMicContext11, crypt_frm_payload, derive_10, derive_11, js_int_key};
use mac::ids::{DevAddr, DevEui, DevNonce, FCntDown, FCntUp, JoinEui};
use mac::join_frame::{AcceptMic, JoinAccept, JoinReqType, JoinRequest};
use mac::keys::{AppKey, AppSKey, NetworkKeys, NwkKey};
use mac::phy::{DataDown, DownFrame, UplinkFrame, parse_downlink};
use mac::region::{Channel, ChannelMask, DataRate, JOIN_ACCEPT_DELAY1_S, Modulation, RegionId, region};
use mac::units::Hz;
use mac::version::RegionalRevision;

use commands::{REKEY_IND, whole_commands};

/// Root keys of a device that joins.
#[derive(Clone, Debug)]
pub struct RootKeys {
    /// The AppKey.
    pub app_key: [u8; 16],
    /// The NwkKey; makes it a 1.1 device.
    pub nwk_key: Option<[u8; 16]>,
}

/// A frame on its way to the gateways.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// The frame.
    pub phy_payload: Vec<u8>,
    /// Frequency in Hz.
    pub freq_hz: u32,
    /// Data rate as forwarders write it.
    pub data_rate: String,
    /// Its counter; 0 for a Join-Request.
    pub fcnt: u32,
    windows: [Option<Window>; 2],
}

impl Uplink {
    /// RX1 and RX2 of this frame.
    pub fn windows(&self) -> impl Iterator<Item = &Window> {
        self.windows.iter().flatten()
    }

    /// The window a transmission hits, if any: right delay after `tmst_us`, frequency and data rate.
    pub fn window_hit(&self, tmst_us: u32, sent_tmst_us: u32, freq_hz: u32, data_rate: &str) -> Option<u8> {
        let delay_us = sent_tmst_us.wrapping_sub(tmst_us);
        let hit = |w: &&Window| w.delay_us == delay_us && w.freq_hz == freq_hz && w.data_rate == data_rate;
        self.windows().find(hit).map(|w| w.number)
    }
}

/// When and how a device listens after an uplink.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Window {
    /// 1 or 2.
    pub number: u8,
    /// Microseconds from the end of the uplink.
    pub delay_us: u32,
    /// Frequency in Hz.
    pub freq_hz: u32,
    /// Data rate as forwarders write it.
    pub data_rate: String,
}

/// What a device made of a downlink.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Heard {
    /// Its counter.
    pub fcnt: u32,
    /// Port and decrypted bytes of the application's payload.
    pub payload: Option<(u8, Vec<u8>)>,
    /// The network acknowledged the last confirmed uplink.
    pub ack: bool,
    /// The network wants an acknowledgement.
    pub confirmed: bool,
    /// More waits.
    pub f_pending: bool,
    /// MAC commands in clear.
    pub commands: Vec<u8>,
}

/// Why a device ignored a frame.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Ignored {
    /// Not a downlink at all, or not for this device.
    #[error("not a frame for this device")]
    NotMine,
    /// The MIC does not hold.
    #[error("the MIC does not hold")]
    BadMic,
    /// The counter did not rise: the network reused one.
    #[error("FCntDown {got} is not above {last}")]
    CounterReused {
        /// The counter of the frame.
        got: u32,
        /// The last one.
        last: u32,
    },
    /// JoinNonce did not rise.
    #[error("JoinNonce {got} is not above {last}")]
    JoinNonceReused {
        /// The nonce of the frame.
        got: u32,
        /// The last one.
        last: u32,
    },
    /// A Join-Accept nobody waits for, or data without session.
    #[error("nobody waits for it")]
    Unexpected,
}

#[derive(Clone, Debug)]
struct Session {
    dev_addr: DevAddr,
    keys: NetworkKeys,
    app_s_key: AppSKey,
    is_1_1: bool,
    otaa: bool,
    fcnt_up: u32,
    n_fcnt_down: Option<u32>,
    a_fcnt_down: Option<u32>,
    rekey_confirmed: bool,
    rx1_delay_s: u8,
    rx1_dr_offset: u8,
    rx2: (Hz, DataRate),
    extra: Vec<Channel>,
    mask: ChannelMask,
    downlink_dwell: bool,
    /// Answers for the next uplink.
    answers: Vec<u8>,
    /// ACK owed, with the confirmed downlink's counter.
    ack: Option<u32>,
    /// Counter of the last confirmed uplink, for the MIC of its acknowledgement.
    confirmed_up: Option<u32>,
}

/// See the file's head.
#[derive(Clone, Debug)]
pub struct VirtualDevice {
    dev_eui: DevEui,
    join_eui: JoinEui,
    region: RegionId,
    revision: RegionalRevision,
    root: Option<RootKeys>,
    next_dev_nonce: u16,
    last_join_nonce: Option<u32>,
    waiting: Option<DevNonce>,
    session: Option<Session>,
    /// Data rate of its uplinks.
    pub data_rate: DataRate,
    /// The device lets the network steer it.
    pub adr: bool,
    /// Repetitions the network asked for.
    pub nb_trans: u8,
    /// MAC commands it sends with its next uplink, for example `[0x02]` for LinkCheckReq.
    pub requests: Vec<u8>,
    /// Sub-band of a fixed plan it joins on, 0 to 7.
    pub sub_band: u8,
}

impl VirtualDevice {
    /// A device that joins over the air.
    pub fn otaa(dev_eui: DevEui, join_eui: JoinEui, region: RegionId, root: RootKeys) -> Self {
        Self::new(dev_eui, join_eui, region, Some(root))
    }

    /// A personalised 1.0.x device.
    pub fn abp(
        dev_eui: DevEui,
        dev_addr: DevAddr,
        region: RegionId,
        nwk_s_key: [u8; 16],
        app_s_key: [u8; 16],
    ) -> Self {
        let mut device = Self::new(dev_eui, JoinEui::new(0), region, None);
        let keys = NetworkKeys::from_nwk_s_key(&mac::keys::Key::new(nwk_s_key));
        let session = device.fresh_session(dev_addr, keys, AppSKey::new(app_s_key), false);
        device.session = Some(Session { otaa: false, rekey_confirmed: true, ..session });
        device
    }

    fn new(dev_eui: DevEui, join_eui: JoinEui, region: RegionId, root: Option<RootKeys>) -> Self {
        Self {
            dev_eui,
            join_eui,
            region,
            revision: RegionalRevision::Rp001_1_0_3A,
            root,
            next_dev_nonce: 1,
            last_join_nonce: None,
            waiting: None,
            session: None,
            data_rate: DataRate::new(if matches!(region, RegionId::Us915) { 3 } else { 5 }),
            adr: false,
            nb_trans: 1,
            requests: Vec::new(),
            sub_band: 0,
        }
    }

    /// Its DevEUI.
    pub fn dev_eui(&self) -> DevEui {
        self.dev_eui
    }

    /// The address of its session.
    pub fn dev_addr(&self) -> Option<DevAddr> {
        self.session.as_ref().map(|s| s.dev_addr)
    }

    /// The counter its next uplink will have; 0 without session.
    pub fn next_fcnt_up(&self) -> u32 {
        self.session.as_ref().map_or(0, |s| s.fcnt_up)
    }

    /// Sets the counter of the next uplink.
    pub fn set_next_fcnt_up(&mut self, fcnt: u32) {
        if let Some(session) = &mut self.session {
            session.fcnt_up = fcnt;
        }
    }

    /// Sets the last counter of a downlink it has heard.
    pub fn set_last_fcnt_down(&mut self, fcnt: u32) {
        if let Some(session) = &mut self.session {
            session.n_fcnt_down = Some(fcnt);
        }
    }

    /// The DevNonce its next Join-Request will have.
    pub fn set_next_dev_nonce(&mut self, nonce: u16) {
        self.next_dev_nonce = nonce;
    }

    /// A Join-Request on the channel `pick` chooses. The running session goes on until an accept comes.
    ///
    /// # Panics
    /// For a personalised device: it has nothing to join with.
    pub fn join_request(&mut self, pick: u32) -> Uplink {
        let root = self.root.as_ref().expect("only a device with root keys joins");
        let key = root.nwk_key.unwrap_or(root.app_key);
        let nonce = DevNonce::new(self.next_dev_nonce);
        self.next_dev_nonce = self.next_dev_nonce.wrapping_add(1);
        self.waiting = Some(nonce);
        let phy_payload = JoinRequest::seal(self.join_eui, self.dev_eui, nonce, &key);
        let channel = self.channel(pick, &[], self.join_mask());
        let delay_us = u32::from(JOIN_ACCEPT_DELAY1_S) * 1_000_000;
        let plan = region(self.region);
        let (_, dwell) = plan.dwell_defaults(self.revision);
        let windows = self.windows_of(channel, delay_us, 0, plan.rx2_default(), dwell);
        self.on_air(phy_payload, channel, 0, windows)
    }

    /// Takes a Join-Accept.
    ///
    /// # Errors
    /// [`Ignored`], as a device would; the running session is untouched then.
    pub fn take_join_accept(&mut self, phy: &[u8]) -> Result<(), Ignored> {
        let nonce = self.waiting.ok_or(Ignored::Unexpected)?;
        let root = self.root.clone().ok_or(Ignored::Unexpected)?;
        let key = root.nwk_key.unwrap_or(root.app_key);
        let opened = JoinAccept::open(phy, &key).ok_or(Ignored::NotMine)?;
        let accept = opened.accept;
        let is_1_1 = root.nwk_key.is_some() && accept.dl_settings.opt_neg;
        let int_key = js_int_key(&NwkKey::new(key), self.dev_eui);
        let mic = if is_1_1 {
            AcceptMic::OptNeg {
                key: &int_key,
                request: JoinReqType::Join,
                join_eui: self.join_eui,
                dev_nonce: nonce,
            }
        } else {
            AcceptMic::Plain(&key)
        };
        if !opened.verify(&mic) {
            return Err(Ignored::BadMic);
        }
        let got = accept.join_nonce.value();
        if let Some(last) = self.last_join_nonce
            && got <= last
        {
            return Err(Ignored::JoinNonceReused { got, last });
        }
        self.last_join_nonce = Some(got);
        self.waiting = None;
        let (keys, app_s_key) = if is_1_1 {
            derive_11(&NwkKey::new(key), &AppKey::new(root.app_key), accept.join_nonce, self.join_eui, nonce)
        } else {
            derive_10(&key, accept.join_nonce, accept.net_id, nonce)
        };
        let mut session = self.fresh_session(accept.dev_addr, keys, app_s_key, is_1_1);
        session.rx1_delay_s = accept.rx_delay_s.max(1);
        session.rx1_dr_offset = accept.dl_settings.rx1_dr_offset;
        session.rx2.1 = DataRate::new(accept.dl_settings.rx2_dr);
        if let Some(cf_list) = accept.cf_list {
            self.apply_cf_list(&mut session, &cf_list);
        }
        self.session = Some(session);
        Ok(())
    }

    /// The next uplink, on the channel `pick` chooses.
    ///
    /// # Panics
    /// Without session.
    pub fn uplink(&mut self, pick: u32, payload: Option<(u8, &[u8])>, confirmed: bool) -> Uplink {
        let mut session = self.session.take().expect("a device has a session before it sends data");
        let channel = self.channel(pick, &session.extra, session.mask);
        let fcnt = session.fcnt_up;
        let mut fopts = std::mem::take(&mut self.requests);
        if session.is_1_1 && session.otaa && !session.rekey_confirmed {
            fopts.extend([REKEY_IND, 1]);
        }
        fopts.append(&mut session.answers);
        fopts.truncate(whole_commands(&fopts));
        let (f_port, mut frm_payload) =
            payload.map_or((None, Vec::new()), |(port, bytes)| (Some(port), bytes.to_vec()));
        crypt_frm_payload(session.app_s_key.expose(), Direction::Up, session.dev_addr, fcnt, &mut frm_payload);
        let ack = session.ack.take();
        let context = session.is_1_1.then(|| UplinkMicContext11 {
            conf_fcnt: ack.map_or(0, low_half),
            tx_dr: self.data_rate.value(),
            tx_ch: channel.index,
        });
        let frame = UplinkFrame {
            confirmed,
            dev_addr: session.dev_addr,
            adr: self.adr,
            adr_ack_req: false,
            ack: ack.is_some(),
            class_b: false,
            fcnt: FCntUp::new(fcnt),
            fopts,
            f_port,
            frm_payload,
        };
        let phy_payload = frame.seal(&session.keys, context).expect("simulated payloads fit a frame");
        session.confirmed_up = confirmed.then_some(fcnt);
        session.fcnt_up = fcnt.wrapping_add(1);
        let delay_us = u32::from(session.rx1_delay_s) * 1_000_000;
        let windows =
            self.windows_of(channel, delay_us, session.rx1_dr_offset, session.rx2, session.downlink_dwell);
        self.session = Some(session);
        self.on_air(phy_payload, channel, fcnt, windows)
    }

    /// Takes a data downlink and does what its MAC commands say.
    ///
    /// # Errors
    /// [`Ignored`], as a device would.
    pub fn take_downlink(&mut self, phy: &[u8]) -> Result<Heard, Ignored> {
        let Some(DownFrame::Data(frame)) = parse_downlink(phy) else { return Err(Ignored::NotMine) };
        let mut session = self.session.take().ok_or(Ignored::Unexpected)?;
        let heard = self.open(&mut session, &frame);
        if let Ok(heard) = &heard {
            self.obey(&mut session, &heard.commands);
        }
        self.session = Some(session);
        heard
    }

    /// FCntDown of a frame of this device's session that answers the uplink with this counter, heard before or not.
    pub fn counter_of(&self, phy: &[u8], answered: Option<u32>) -> Option<u32> {
        let Some(DownFrame::Data(frame)) = parse_downlink(phy) else { return None };
        let mut session = self.session.clone()?;
        session.confirmed_up = answered;
        match self.open(&mut session, &frame) {
            Ok(heard) => Some(heard.fcnt),
            Err(Ignored::CounterReused { got, .. }) => Some(got),
            Err(_) => None,
        }
    }

    fn open(&self, session: &mut Session, frame: &DataDown<'_>) -> Result<Heard, Ignored> {
        if frame.dev_addr != session.dev_addr {
            return Err(Ignored::NotMine);
        }
        let app_counter = session.is_1_1 && frame.f_port.is_some_and(|port| port > 0);
        let last = if app_counter { session.a_fcnt_down } else { session.n_fcnt_down };
        let fcnt = next_counter(frame.fcnt.value(), last);
        let conf_fcnt = match (session.is_1_1 && frame.ack, session.confirmed_up) {
            (true, Some(confirmed)) => low_half(confirmed),
            _ => 0,
        };
        if !frame.verify(&session.keys.s_nwk_s_int, conf_fcnt, FCntDown::new(fcnt)) {
            // An old counter is guessed one epoch ahead, where the MIC cannot hold.
            let same_epoch = last.map(|l| (l & !0xffff) | u32::from(frame.fcnt.value()));
            return match (same_epoch, last) {
                (Some(got), Some(last))
                    if frame.verify(&session.keys.s_nwk_s_int, conf_fcnt, FCntDown::new(got)) =>
                {
                    Err(Ignored::CounterReused { got, last })
                }
                _ => Err(Ignored::BadMic),
            };
        }
        if let Some(last) = last
            && fcnt <= last
        {
            return Err(Ignored::CounterReused { got: fcnt, last });
        }
        if app_counter {
            session.a_fcnt_down = Some(fcnt);
        } else {
            session.n_fcnt_down = Some(fcnt);
        }
        let fcnt_down = FCntDown::new(fcnt);
        let mut commands = if session.is_1_1 {
            frame.open_fopts(&session.keys.nwk_s_enc, fcnt_down)
        } else {
            frame.fopts.to_vec()
        };
        let mut payload = None;
        match frame.f_port {
            Some(0) => commands = frame.open_payload(session.keys.nwk_s_enc.expose(), fcnt_down),
            Some(port) => payload = Some((port, frame.open_payload(session.app_s_key.expose(), fcnt_down))),
            None => {}
        }
        if frame.confirmed {
            session.ack = Some(fcnt);
        }
        Ok(Heard {
            fcnt,
            payload,
            ack: frame.ack,
            confirmed: frame.confirmed,
            f_pending: frame.f_pending,
            commands,
        })
    }

    fn fresh_session(&self, dev_addr: DevAddr, keys: NetworkKeys, app_s_key: AppSKey, is_1_1: bool) -> Session {
        Session {
            dev_addr,
            keys,
            app_s_key,
            is_1_1,
            otaa: true,
            fcnt_up: 0,
            n_fcnt_down: None,
            a_fcnt_down: None,
            rekey_confirmed: !is_1_1,
            rx1_delay_s: 1,
            rx1_dr_offset: 0,
            rx2: region(self.region).rx2_default(),
            extra: Vec::new(),
            mask: self.join_mask(),
            downlink_dwell: region(self.region).dwell_defaults(self.revision).1,
            answers: Vec::new(),
            ack: None,
            confirmed_up: None,
        }
    }

    fn apply_cf_list(&self, session: &mut Session, cf_list: &[u8; 16]) {
        let plan = region(self.region);
        if plan.is_fixed_plan() {
            // CFListType 1: the channels that are on, 16 bits a word (RP002-1.0.5 §2.5.3).
            let (words, _) = cf_list.as_chunks::<2>();
            for (index, word) in words.iter().take(FIXED_PLAN_WORDS).enumerate() {
                session.mask.set_word(index, u16::from_le_bytes(*word));
            }
            return;
        }
        let (frequencies, _) = cf_list.as_chunks::<3>();
        for (index, bytes) in (plan.first_extra_index()..).zip(frequencies) {
            let freq = frequency(bytes[0], bytes[1], bytes[2]);
            if freq.value() > 0 {
                session.extra.push(Channel { index, freq, dr_min: DataRate::new(0), dr_max: DataRate::new(5) });
                session.mask.insert(index);
            }
        }
    }

    fn join_mask(&self) -> ChannelMask {
        region(self.region).sub_band_mask(1 << self.sub_band)
    }

    /// The channel for an uplink: one that is on and fits the data rate.
    fn channel(&self, pick: u32, extra: &[Channel], mask: ChannelMask) -> Channel {
        let plan = region(self.region);
        let fits =
            |c: &&Channel| mask.contains(c.index) && c.dr_min <= self.data_rate && self.data_rate <= c.dr_max;
        let extra = if plan.is_fixed_plan() { &[] } else { extra };
        let usable: Vec<_> = plan.default_channels().iter().chain(extra).filter(fits).collect();
        let index = usize::try_from(pick).unwrap_or(0) % usable.len().max(1);
        *usable.get(index).copied().expect("a device always has a channel for its data rate")
    }

    fn windows_of(
        &self,
        channel: Channel,
        delay_us: u32,
        offset: u8,
        rx2: (Hz, DataRate),
        dwell: bool,
    ) -> [Option<Window>; 2] {
        let plan = region(self.region);
        let rx1 = plan.rx1(channel.freq, Some(channel.index), self.data_rate, offset, dwell, self.revision);
        let window = |number, delay_us, (freq, dr): (Hz, DataRate)| {
            let modulation = plan.modulation_down(dr, self.revision)?;
            Some(Window { number, delay_us, freq_hz: freq.value(), data_rate: data_rate_text(modulation) })
        };
        [rx1.and_then(|rx1| window(1, delay_us, rx1)), window(2, delay_us + 1_000_000, rx2)]
    }

    fn on_air(
        &self,
        phy_payload: Vec<u8>,
        channel: Channel,
        fcnt: u32,
        windows: [Option<Window>; 2],
    ) -> Uplink {
        let modulation = region(self.region).modulation_up(self.data_rate, self.revision);
        Uplink {
            phy_payload,
            freq_hz: channel.freq.value(),
            data_rate: modulation.map(data_rate_text).unwrap_or_default(),
            fcnt,
            windows,
        }
    }
}

/// The words of the packet forwarder's protocol.
fn data_rate_text(modulation: Modulation) -> String {
    match modulation {
        Modulation::Lora { sf, bw_hz } => format!("SF{sf}BW{}", bw_hz / 1_000),
        Modulation::Fsk { bit_rate_bps } => bit_rate_bps.to_string(),
        Modulation::LrFhss { ocw_hz, .. } => format!("M0CW{}", ocw_hz / 1_000),
    }
}

fn frequency(f0: u8, f1: u8, f2: u8) -> Hz {
    Hz::new(u32::from_le_bytes([f0, f1, f2, 0]) * 100)
}

#[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low_half(counter: u32) -> u16 {
    counter as u16
}

fn next_counter(wire: u16, last: Option<u32>) -> u32 {
    let Some(last) = last else { return u32::from(wire) };
    let same_epoch = (last & !0xffff) | u32::from(wire);
    if same_epoch > last { same_epoch } else { same_epoch.wrapping_add(0x1_0000) }
}

/// 72 channels.
const FIXED_PLAN_WORDS: usize = 5;
