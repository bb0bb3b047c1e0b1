//! A class A device: what it sends, what it hears, what it does with what it is asked.

use std::collections::BTreeMap;

use mac::command::{
    DownlinkCommand, DownlinkCommands, LinkAdrAns, LinkAdrReq, NewChannelAns, RekeyInd, ResetInd,
    RxParamSetupAns, UplinkCommand,
};
use mac::crypto::{self, Direction, FOptsCounter, UplinkMicContext11};
use mac::fcnt::guess_fcnt_down;
use mac::ids::{DevAddr, FCntDown, FCntUp};
use mac::keys::NetworkKeys;
use mac::phy::{DownFrame, UplinkFrame, parse_downlink};
use mac::region::{Channel, ChannelMask, DataRate, Region, apply_link_adr_block};
use mac::units::Hz;
use mac::version::{MacVersion, RegionalRevision};

pub(crate) const APP_S_KEY: [u8; 16] = [0xa5; 16];

#[derive(Clone)]
pub(crate) struct Device {
    pub region: &'static Region,
    pub rev: RegionalRevision,
    pub version: MacVersion,
    pub keys: NetworkKeys,
    pub dev_addr: DevAddr,
    /// The counter of the next uplink.
    pub fcnt_up: u32,
    pub last_n: Option<FCntDown>,
    pub last_a: Option<FCntDown>,
    pub adr: bool,
    pub dr: u8,
    pub tx_power: u8,
    pub nb_trans: u8,
    pub mask: ChannelMask,
    pub extra: BTreeMap<u8, Hz>,
    pub rx1_delay_s: u8,
    pub rx1_dr_offset: u8,
    pub rx2_dr: u8,
    pub rx2_freq: Hz,
    pub downlink_dwell: bool,
    /// Goes into the next uplink once.
    pub says: Vec<UplinkCommand>,
    /// Goes into every uplink until a downlink comes.
    pub sticky: Vec<UplinkCommand>,
    pub wants_rekey: bool,
    pub wants_reset: bool,
    pub adr_ack_cnt: u32,
    pub habits: Habits,
    pub ack_due: Option<u16>,
    pub received: Vec<Received>,
    pub last: Option<SentUplink>,
}

/// How this device differs from a model pupil.
#[derive(Clone, Default)]
pub(crate) struct Habits {
    /// Refuses data rates above.
    pub dr_max: Option<u8>,
    /// Refuses power indices above.
    pub tx_power_max: Option<u8>,
    pub refuses_masks: bool,
    pub refuses_rx_param: bool,
    pub refuses_channels: bool,
    /// Identifiers of requests it neither obeys nor answers.
    pub deaf_to: Vec<u8>,
    /// Answers a block of LinkADRReq once, whatever its version tells it.
    pub answers_blocks_once: bool,
    /// Does not acknowledge confirmed downlinks.
    pub never_acks: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub ack: bool,
    pub f_pending: bool,
    pub f_port: Option<u8>,
    pub payload: Vec<u8>,
    pub commands: Vec<DownlinkCommand>,
    pub in_fopts: usize,
}

#[derive(Clone)]
pub(crate) struct SentUplink {
    pub phy: Vec<u8>,
    pub freq: Hz,
    pub dr: DataRate,
    pub channel: u8,
    pub fcnt: u32,
}

impl Device {
    pub(crate) fn channels(&self) -> Vec<Channel> {
        let extra = self.extra.iter().map(|(&index, &freq)| Channel {
            index,
            freq,
            dr_min: DataRate::new(0),
            dr_max: DataRate::new(5),
        });
        self.region.default_channels().iter().copied().chain(extra).collect()
    }

    /// The next uplink. ADR back-off as TS001-1.0.4 §4.3.1.1 has it.
    pub(crate) fn uplink(&mut self, app: Option<(u8, &[u8])>, confirmed: bool) -> SentUplink {
        let mut adr_ack_req = false;
        if self.adr {
            self.adr_ack_cnt += 1;
            self.back_off();
            adr_ack_req = self.adr_ack_cnt > 64 && !self.is_at_the_bottom();
        }
        let channel = self.pick_channel();
        let mut commands = Vec::new();
        if self.wants_rekey {
            commands.push(UplinkCommand::RekeyInd(RekeyInd { minor: 1 }));
        }
        if self.wants_reset {
            commands.push(UplinkCommand::ResetInd(ResetInd { minor: 1 }));
        }
        commands.append(&mut self.says);
        commands.extend(self.sticky.iter().copied());
        let mut bytes = Vec::new();
        for command in &commands {
            command.encode(&mut bytes);
        }
        self.seal(app, confirmed, adr_ack_req, channel, bytes)
    }

    /// An uplink whose commands are these bytes, whatever they mean.
    pub(crate) fn seal(
        &mut self,
        app: Option<(u8, &[u8])>,
        confirmed: bool,
        adr_ack_req: bool,
        channel: Channel,
        commands: Vec<u8>,
    ) -> SentUplink {
        let fcnt = FCntUp::new(self.fcnt_up);
        let (mut fopts, mut f_port, mut payload) = (commands, None, Vec::new());
        match app {
            Some((port, bytes)) => {
                f_port = Some(port);
                payload = bytes.to_vec();
            }
            None if fopts.len() > 15 => {
                f_port = Some(0);
                payload = std::mem::take(&mut fopts);
            }
            None => {}
        }
        let key = if f_port == Some(0) { self.keys.nwk_s_enc.expose() } else { &APP_S_KEY };
        crypto::crypt_frm_payload(key, Direction::Up, self.dev_addr, fcnt.value(), &mut payload);
        let ack = self.ack_due.take();
        let frame = UplinkFrame {
            confirmed,
            dev_addr: self.dev_addr,
            adr: self.adr,
            adr_ack_req,
            ack: ack.is_some(),
            class_b: false,
            fcnt,
            fopts,
            f_port,
            frm_payload: payload,
        };
        let context = self.version.is_1_1().then(|| UplinkMicContext11 {
            conf_fcnt: ack.unwrap_or(0),
            tx_dr: self.dr,
            tx_ch: channel.index,
        });
        let sent = SentUplink {
            phy: frame.seal(&self.keys, context).unwrap(),
            freq: channel.freq,
            dr: DataRate::new(self.dr),
            channel: channel.index,
            fcnt: self.fcnt_up,
        };
        self.fcnt_up += 1;
        self.last = Some(sent.clone());
        sent
    }

    pub(crate) fn pick_channel(&self) -> Channel {
        let fits = |channel: &&Channel| {
            self.mask.contains(channel.index)
                && (channel.dr_min.value()..=channel.dr_max.value()).contains(&self.dr)
        };
        *self.channels().iter().find(fits).expect("the device has a channel for its data rate")
    }

    /// Listens in a window; `None`: it was not listening there, or the frame is not for it.
    pub(crate) fn receive(&mut self, phy: &[u8], freq: Hz, dr: DataRate, delay_s: u8) -> Option<Received> {
        let uplink = self.last.clone()?;
        let rx1 = self.region.rx1(
            uplink.freq,
            Some(uplink.channel),
            uplink.dr,
            self.rx1_dr_offset,
            self.downlink_dwell,
            self.rev,
        );
        let in_rx1 = rx1 == Some((freq, dr)) && delay_s == self.rx1_delay_s;
        let in_rx2 = (freq, dr.value()) == (self.rx2_freq, self.rx2_dr) && delay_s == self.rx1_delay_s + 1;
        if !in_rx1 && !in_rx2 {
            return None;
        }
        let Some(DownFrame::Data(frame)) = parse_downlink(phy) else {
            return None;
        };
        let is_app = frame.counter() == FOptsCounter::Application && self.version.is_1_1();
        let last = if is_app { self.last_a } else { self.last_n };
        let fcnt = guess_fcnt_down(frame.fcnt, last)?;
        #[allow(clippy::cast_possible_truncation, reason = "the low half")]
        let conf_fcnt = if self.version.is_1_1() && frame.ack { uplink.fcnt as u16 } else { 0 };
        if last == Some(fcnt) || !frame.verify(&self.keys.s_nwk_s_int, conf_fcnt, fcnt) {
            return None;
        }
        *(if is_app { &mut self.last_a } else { &mut self.last_n }) = Some(fcnt);
        self.adr_ack_cnt = 0;
        self.sticky.clear();

        let fopts = if self.version.is_1_1() {
            frame.open_fopts(&self.keys.nwk_s_enc, fcnt)
        } else {
            frame.fopts.to_vec()
        };
        let key = if frame.f_port == Some(0) { self.keys.nwk_s_enc.expose() } else { &APP_S_KEY };
        let mut payload = frame.open_payload(key, fcnt);
        let mut bytes = fopts.clone();
        if frame.f_port == Some(0) {
            bytes.append(&mut payload);
        }
        let commands: Vec<DownlinkCommand> = DownlinkCommands::new(&bytes)
            .map(|command| command.expect("the network sends whole commands"))
            .collect();
        self.obey(&commands);
        if frame.confirmed && !self.habits.never_acks {
            self.ack_due = Some(fcnt.wire().value());
        }
        let received = Received {
            ack: frame.ack,
            f_pending: frame.f_pending,
            f_port: frame.f_port,
            payload,
            commands,
            in_fopts: fopts.len(),
        };
        self.received.push(received.clone());
        Some(received)
    }

    fn obey(&mut self, commands: &[DownlinkCommand]) {
        let mut block: Vec<LinkAdrReq> = Vec::new();
        for command in commands {
            if self.habits.deaf_to.contains(&command.cid()) {
                continue;
            }
            if let DownlinkCommand::LinkAdrReq(request) = command {
                block.push(*request);
                continue;
            }
            if !block.is_empty() {
                let block = std::mem::take(&mut block);
                self.link_adr(&block);
            }
            self.obey_one(command);
        }
        if !block.is_empty() {
            self.link_adr(&block);
        }
    }

    fn obey_one(&mut self, command: &DownlinkCommand) {
        match command {
            DownlinkCommand::RxParamSetupReq(request) => {
                let ok = !self.habits.refuses_rx_param;
                if ok {
                    self.rx1_dr_offset = request.rx1_dr_offset;
                    self.rx2_dr = request.rx2_data_rate.value();
                    self.rx2_freq = request.rx2_freq.hz(100).unwrap();
                }
                let ans = RxParamSetupAns { channel_ack: ok, rx2_data_rate_ack: true, rx1_dr_offset_ack: true };
                self.sticky.push(UplinkCommand::RxParamSetupAns(ans));
            }
            DownlinkCommand::RxTimingSetupReq(request) => {
                self.rx1_delay_s = request.rx1_delay_s();
                self.sticky.push(UplinkCommand::RxTimingSetupAns);
            }
            DownlinkCommand::TxParamSetupReq(request) => {
                self.downlink_dwell = request.downlink_dwell;
                self.says.push(UplinkCommand::TxParamSetupAns);
            }
            DownlinkCommand::NewChannelReq(request) => {
                assert!(request.ch_index >= self.region.first_extra_index(), "default channels are read-only");
                let ok = !self.habits.refuses_channels;
                if ok {
                    match request.freq.hz(100) {
                        Some(freq) => {
                            self.extra.insert(request.ch_index, freq);
                            self.mask.insert(request.ch_index);
                        }
                        None => {
                            self.extra.remove(&request.ch_index);
                            self.mask.remove(request.ch_index);
                        }
                    }
                }
                let ans = NewChannelAns { frequency_ok: ok, data_rate_range_ok: true };
                self.says.push(UplinkCommand::NewChannelAns(ans));
            }
            DownlinkCommand::DevStatusReq => {
                let ans =
                    mac::command::DevStatusAns { battery: mac::command::Battery::Level(200), margin_db: -5 };
                self.says.push(UplinkCommand::DevStatusAns(ans));
            }
            DownlinkCommand::RekeyConf(_) => self.wants_rekey = false,
            DownlinkCommand::ResetConf(_) => self.wants_reset = false,
            _ => {}
        }
    }

    fn link_adr(&mut self, block: &[LinkAdrReq]) {
        let steps: Vec<(u8, u16)> =
            block.iter().map(|request| (request.ch_mask_cntl, request.ch_mask)).collect();
        let last = block.last().unwrap();
        let defined: ChannelMask = self.channels().iter().map(|channel| channel.index).collect();
        let mask = apply_link_adr_block(&self.mask, &steps, self.region, &defined).filter(|mask| {
            !mask.is_empty() && mask.intersection(defined) == *mask && !self.habits.refuses_masks
        });
        let keeps = self.version.keep_index_15();
        let dr = if keeps && last.data_rate.value() == 15 { self.dr } else { last.data_rate.value() };
        let power = if keeps && last.tx_power == 15 { self.tx_power } else { last.tx_power };
        let dr_ok = self.habits.dr_max.is_none_or(|max| dr <= max)
            && self.channels().iter().any(|channel| {
                mask.is_some_and(|mask| mask.contains(channel.index))
                    && (channel.dr_min.value()..=channel.dr_max.value()).contains(&dr)
            });
        let power_ok = power < self.region.tx_power_steps(self.rev)
            && self.habits.tx_power_max.is_none_or(|max| power <= max);
        let ans = LinkAdrAns { channel_mask_ack: mask.is_some(), data_rate_ack: dr_ok, power_ack: power_ok };
        if let (Some(mask), true) = (mask, ans.accepted()) {
            self.mask = mask;
            self.dr = dr;
            self.tx_power = power;
            self.nb_trans = last.nb_trans.max(1);
        }
        let once = self.version.is_1_1() || self.habits.answers_blocks_once;
        let count = if once { 1 } else { block.len() };
        self.says.extend(std::iter::repeat_n(UplinkCommand::LinkAdrAns(ans), count));
    }

    fn is_at_the_bottom(&self) -> bool {
        self.dr == 0 && self.tx_power == 0 && self.mask == self.all_channels()
    }

    fn all_channels(&self) -> ChannelMask {
        self.channels().iter().map(|channel| channel.index).collect()
    }

    fn back_off(&mut self) {
        let late = self.adr_ack_cnt.saturating_sub(64 + 32);
        if self.adr_ack_cnt < 64 + 32 || !late.is_multiple_of(32) {
            return;
        }
        if late == 0 && self.version >= MacVersion::V1_0_4 && self.tx_power != 0 {
            self.tx_power = 0;
        } else if self.dr > 0 {
            self.tx_power = 0;
            self.dr -= 1;
        } else {
            self.mask = self.all_channels();
            self.nb_trans = 1;
        }
    }
}
