//! What a device does with the network's MAC commands, and what it answers.

use mac::command::FOPTS_LEN_MAX;
use mac::region::{Channel, ChannelMask, DataRate, apply_link_adr_block, region};

use super::{Session, VirtualDevice, frequency};

impl VirtualDevice {
    /// Obeys MAC commands and notes the answers for the next uplink (TS001-1.0.4 §5).
    pub(super) fn obey(&mut self, session: &mut Session, mut commands: &[u8]) {
        let mut adr_block = Vec::new();
        while let Some((&cid, rest)) = commands.split_first() {
            let Some(len) = downlink_len(cid) else { break };
            let Some((body, after)) = rest.split_at_checked(len) else { break };
            commands = after;
            match (cid, body) {
                (LINK_ADR, [dr_power, mask_low, mask_high, redundancy]) => {
                    let control = redundancy >> 4 & 0x07;
                    adr_block.push((control, u16::from_le_bytes([*mask_low, *mask_high])));
                    if after.first() == Some(&LINK_ADR) {
                        continue;
                    }
                    // Rate and repetitions of the last request count for the block.
                    let status = self.apply_adr_block(session, &adr_block, dr_power >> 4, redundancy & 0x0f);
                    // A block is one decision: a 1.0.x device says it for each request, a 1.1 device once.
                    let answers = if session.is_1_1 { 1 } else { adr_block.len() };
                    session.answers.extend([LINK_ADR, status].repeat(answers));
                    adr_block.clear();
                }
                (DUTY_CYCLE, _) => session.answers.push(DUTY_CYCLE),
                (RX_PARAM_SETUP, [dl_settings, f0, f1, f2]) => {
                    session.rx1_dr_offset = dl_settings >> 4 & 0x07;
                    session.rx2 = (frequency(*f0, *f1, *f2), DataRate::new(dl_settings & 0x0f));
                    session.answers.extend([RX_PARAM_SETUP, 0x07]);
                }
                (DEV_STATUS, _) => session.answers.extend([DEV_STATUS, 200, 7]),
                (NEW_CHANNEL, [index, f0, f1, f2, range]) => {
                    session.extra.retain(|c| c.index != *index);
                    let freq = frequency(*f0, *f1, *f2);
                    session.mask.remove(*index);
                    if freq.value() > 0 {
                        session.extra.push(Channel {
                            index: *index,
                            freq,
                            dr_min: DataRate::new(range & 0x0f),
                            dr_max: DataRate::new(range >> 4),
                        });
                        session.mask.insert(*index);
                    }
                    session.answers.extend([NEW_CHANNEL, 0x03]);
                }
                (RX_TIMING_SETUP, [delay]) => {
                    session.rx1_delay_s = (delay & 0x0f).max(1);
                    session.answers.push(RX_TIMING_SETUP);
                }
                (TX_PARAM_SETUP, [settings]) if region(self.region).supports_tx_param_setup(self.revision) => {
                    session.downlink_dwell = settings & 0x20 != 0;
                    session.answers.push(TX_PARAM_SETUP);
                }
                (DL_CHANNEL, _) => session.answers.extend([DL_CHANNEL, 0x03]),
                (REKEY_CONF, _) => session.rekey_confirmed = true,
                _ => {}
            }
        }
    }

    /// Does what a block of `LinkADRReq` says, whole or not at all, and gives the status for the answer: bit 0 the channels,
    /// bit 1 the data rate, bit 2 the power (TS001-1.0.4 §5.3).
    fn apply_adr_block(&mut self, session: &mut Session, steps: &[(u8, u16)], dr: u8, nb_trans: u8) -> u8 {
        let plan = region(self.region);
        let extra = session.extra.iter().map(|c| c.index);
        let defined: ChannelMask = plan.default_mask().channels().chain(extra).collect();
        let data_rate = if dr == KEEP { self.data_rate } else { DataRate::new(dr) };
        let mask = apply_link_adr_block(&session.mask, steps, plan, &defined)
            .filter(|mask| !mask.is_empty() && mask.intersection(defined) == *mask);
        let carries = |mask: ChannelMask| {
            let mut channels = plan.default_channels().iter().chain(&session.extra);
            channels.any(|c| mask.contains(c.index) && c.dr_min <= data_rate && data_rate <= c.dr_max)
        };
        match mask {
            Some(mask) if carries(mask) => {
                session.mask = mask;
                self.data_rate = data_rate;
                if nb_trans > 0 {
                    self.nb_trans = nb_trans;
                }
                0b111
            }
            Some(_) => 0b101,
            None => 0b110,
        }
    }
}

/// How many bytes of the commands FOpts can carry without cutting one.
pub(super) fn whole_commands(commands: &[u8]) -> usize {
    let mut len = 0;
    while let Some(cid) = commands.get(len) {
        let next = len + 1 + uplink_len(*cid);
        if next > FOPTS_LEN_MAX {
            break;
        }
        len = next;
    }
    len.min(commands.len())
}

/// Bytes behind the CID of a command this device sends (TS001-1.1 §5 table 5).
fn uplink_len(cid: u8) -> usize {
    match cid {
        0x01 | 0x03 | 0x05 | 0x07 | 0x0a | 0x0b | 0x0f | 0x20 => 1,
        0x06 => 2,
        _ => 0,
    }
}

/// Bytes behind the CID of a downlink command (TS001-1.1 §5 table 5); `None`: not known to this device.
fn downlink_len(cid: u8) -> Option<usize> {
    Some(match cid {
        0x01 | 0x04 | 0x08 | 0x09 | 0x0b | 0x0c | 0x0f | 0x20 => 1,
        0x02 | 0x0e => 2,
        0x03 | 0x05 | 0x0a => 4,
        0x06 => 0,
        0x07 | 0x0d => 5,
        _ => return None,
    })
}

/// "Leave it", as data rate or power.
const KEEP: u8 = 15;

const LINK_ADR: u8 = 0x03;
const DUTY_CYCLE: u8 = 0x04;
const RX_PARAM_SETUP: u8 = 0x05;
const DEV_STATUS: u8 = 0x06;
const NEW_CHANNEL: u8 = 0x07;
const RX_TIMING_SETUP: u8 = 0x08;
const TX_PARAM_SETUP: u8 = 0x09;
const DL_CHANNEL: u8 = 0x0a;
pub(super) const REKEY_IND: u8 = 0x0b;
const REKEY_CONF: u8 = 0x0b;
