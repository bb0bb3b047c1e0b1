//! The durable form of a session's state: one byte of version, then fields in a fixed order, little endian.

use std::ops::RangeInclusive;

use super::{Activation, DeviceClass, DeviceStatus, MacState, RX_DELAY_S_MAX, Recent, Session};
use crate::adr::AdrHistory;
use crate::ids::{DevAddr, DevEui, FCntDown, FCntUp, SessionId};
use crate::keys::NetworkKeys;
use crate::region::{CHANNEL_MASK_WORDS, ChannelMask, DataRate, RECEIVE_DELAY1_S};
use crate::request::{Asked, AskedChannels, AskedLinkAdr, AskedRxParam, AskedTxParam, Refusals};
use crate::units::Hz;
use crate::version::MacVersion;

/// A stored state cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StateError {
    /// It ends too early, or a field has a value that none can have.
    #[error("stored session state is damaged at byte {at}")]
    #[allow(missing_docs, reason = "`at` counts from 0")]
    Damaged { at: usize },
    /// A later version of the program wrote it.
    #[error("stored session state is of format {found}; this version reads {FORMAT}")]
    #[allow(missing_docs, reason = "`found` is the first byte")]
    UnknownFormat { found: u8 },
}

impl Session {
    /// The state as bytes: everything durable but keys, counters and ids.
    pub fn pack(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CAPACITY);
        out.push(FORMAT);
        out.extend(self.dev_addr.value().to_le_bytes());
        out.push(match self.activation {
            Activation::Abp => 0,
            Activation::Otaa => 1,
        });
        out.extend(u8::try_from(self.version.number()));
        pack_mac(&self.mac, &mut out);
        out
    }

    /// The session as it was stored. What is kept in memory only begins anew.
    pub fn unpack(
        id: SessionId,
        dev_eui: DevEui,
        keys: NetworkKeys,
        state: &[u8],
        fcnt_up: Option<FCntUp>,
        n_fcnt_down: u32,
        a_fcnt_down: u32,
    ) -> Result<Self, StateError> {
        let mut reader = Reader { bytes: state, at: 0 };
        match reader.u8()? {
            FORMAT => {}
            found => return Err(StateError::UnknownFormat { found }),
        }
        let dev_addr = DevAddr::new(reader.u32()?);
        let activation = match reader.u8()? {
            0 => Activation::Abp,
            1 => Activation::Otaa,
            _ => return Err(reader.damaged()),
        };
        let version = MacVersion::from_number(i32::from(reader.u8()?)).ok_or_else(|| reader.damaged())?;
        let mac = unpack_mac(&mut reader)?;
        if reader.at != state.len() {
            return Err(reader.damaged());
        }
        Ok(Self {
            id,
            dev_eui,
            dev_addr,
            activation,
            version,
            keys,
            fcnt_up,
            n_fcnt_down,
            a_fcnt_down,
            mac,
            adr: AdrHistory::default(),
            last_dr: None,
            last_seen: None,
            recent: Recent::default(),
        })
    }
}

fn pack_mac(mac: &MacState, out: &mut Vec<u8>) {
    let asked = mac.asked.as_deref();
    let flags = [
        mac.uplink_dwell,
        mac.downlink_dwell,
        mac.class == DeviceClass::C,
        mac.pending,
        mac.confirmed_open,
        mac.confirmed_down.is_some(),
        mac.status.is_some(),
        asked.is_some(),
    ];
    out.push(bits(flags));
    out.extend([
        mac.rx1_delay_s,
        mac.rx1_dr_offset,
        mac.rx2_dr.value(),
        optional(mac.dr.map(DataRate::value)),
        mac.tx_power,
        mac.nb_trans,
        optional(mac.eirp_index),
    ]);
    out.extend(mac.rx2_freq.value().to_le_bytes());
    pack_mask(mac.channels, out);
    for freq in mac.extra {
        out.extend(freq.value().to_le_bytes());
    }
    if let Some(fcnt) = mac.confirmed_down {
        out.extend(fcnt.value().to_le_bytes());
    }
    if let Some(status) = mac.status {
        out.extend([status.battery, status.margin_db.cast_unsigned()]);
    }
    out.extend(mac.status_at_s.to_le_bytes());
    out.extend(mac.started_at_s.to_le_bytes());
    out.extend(mac.profile_tag.to_le_bytes());
    pack_refusals(&mac.refusals, out);
    if let Some(asked) = asked {
        pack_asked(asked, out);
    }
}

fn unpack_mac(reader: &mut Reader<'_>) -> Result<MacState, StateError> {
    let [uplink_dwell, downlink_dwell, class_c, pending, confirmed_open, has_confirmed, has_status, has_asked] =
        unpack_bits(reader.u8()?);
    Ok(MacState {
        rx1_delay_s: reader.within(DELAY_S)?,
        rx1_dr_offset: reader.within(OFFSET)?,
        rx2_dr: DataRate::new(reader.within(NIBBLE)?),
        dr: reader.optional(NIBBLE)?.map(DataRate::new),
        tx_power: reader.within(NIBBLE)?,
        nb_trans: reader.within(NB_TRANS)?,
        eirp_index: reader.optional(NIBBLE)?,
        rx2_freq: Hz::new(reader.u32()?),
        channels: reader.mask()?,
        extra: reader.frequencies()?,
        uplink_dwell,
        downlink_dwell,
        class: if class_c { DeviceClass::C } else { DeviceClass::A },
        pending,
        confirmed_open,
        confirmed_down: if has_confirmed { Some(FCntDown::new(reader.u32()?)) } else { None },
        status: if has_status {
            Some(DeviceStatus { battery: reader.u8()?, margin_db: reader.u8()?.cast_signed() })
        } else {
            None
        },
        status_at_s: reader.u32()?,
        started_at_s: reader.u32()?,
        profile_tag: reader.u16()?,
        refusals: unpack_refusals(reader)?,
        asked: if has_asked { Some(Box::new(unpack_asked(reader)?)) } else { None },
    })
}

fn pack_refusals(refusals: &Refusals, out: &mut Vec<u8>) {
    out.extend([
        optional(refusals.dr_max.map(DataRate::value)),
        optional(refusals.tx_power_max),
        refusals.data_rate,
        refusals.power,
        refusals.channel_mask,
        refusals.rx_param,
    ]);
    out.extend(refusals.new_channel);
}

fn unpack_refusals(reader: &mut Reader<'_>) -> Result<Refusals, StateError> {
    Ok(Refusals {
        dr_max: reader.optional(NIBBLE)?.map(DataRate::new),
        tx_power_max: reader.optional(NIBBLE)?,
        data_rate: reader.u8()?,
        power: reader.u8()?,
        channel_mask: reader.u8()?,
        rx_param: reader.u8()?,
        new_channel: reader.array()?,
    })
}

fn pack_asked(asked: &Asked, out: &mut Vec<u8>) {
    let flags = [
        asked.dev_status,
        asked.link_adr.is_some(),
        asked.new_channels.is_some(),
        asked.rx_param.is_some(),
        asked.rx_timing.is_some(),
        asked.tx_param.is_some(),
        asked.tx_param.is_some_and(|tx| tx.uplink_dwell),
        asked.tx_param.is_some_and(|tx| tx.downlink_dwell),
    ];
    out.push(bits(flags));
    if let Some(link_adr) = asked.link_adr {
        out.extend([
            optional(link_adr.dr.map(DataRate::value)),
            optional(link_adr.tx_power),
            link_adr.nb_trans,
        ]);
        pack_mask(link_adr.channels, out);
    }
    if let Some(new_channels) = asked.new_channels {
        out.push(new_channels.places);
        for freq in new_channels.frequencies {
            out.extend(freq.value().to_le_bytes());
        }
    }
    if let Some(rx) = asked.rx_param {
        out.extend([rx.rx1_dr_offset, rx.rx2_dr.value()]);
        out.extend(rx.rx2_freq.value().to_le_bytes());
    }
    out.extend(asked.rx_timing);
    out.extend(asked.tx_param.map(|tx| tx.eirp_index));
}

fn unpack_asked(reader: &mut Reader<'_>) -> Result<Asked, StateError> {
    let [dev_status, link_adr, new_channels, rx_param, rx_timing, tx_param, uplink_dwell, downlink_dwell] =
        unpack_bits(reader.u8()?);
    Ok(Asked {
        dev_status,
        link_adr: if link_adr {
            Some(AskedLinkAdr {
                dr: reader.optional(NIBBLE)?.map(DataRate::new),
                tx_power: reader.optional(NIBBLE)?,
                nb_trans: reader.within(NB_TRANS)?,
                channels: reader.mask()?,
            })
        } else {
            None
        },
        new_channels: if new_channels {
            Some(AskedChannels { places: reader.u8()?, frequencies: reader.frequencies()? })
        } else {
            None
        },
        rx_param: if rx_param {
            Some(AskedRxParam {
                rx1_dr_offset: reader.within(OFFSET)?,
                rx2_dr: DataRate::new(reader.within(NIBBLE)?),
                rx2_freq: Hz::new(reader.u32()?),
            })
        } else {
            None
        },
        rx_timing: if rx_timing { Some(reader.within(DELAY_S)?) } else { None },
        tx_param: if tx_param {
            Some(AskedTxParam { uplink_dwell, downlink_dwell, eirp_index: reader.within(NIBBLE)? })
        } else {
            None
        },
    })
}

/// A mask as the number of its words up to the last that is not empty, and these words.
fn pack_mask(mask: ChannelMask, out: &mut Vec<u8>) {
    let words = mask.words();
    let count = words.iter().rposition(|word| *word != 0).map_or(0, |last| last.saturating_add(1));
    out.extend(u8::try_from(count));
    for word in words.iter().take(count) {
        out.extend(word.to_le_bytes());
    }
}

const fn optional(value: Option<u8>) -> u8 {
    match value {
        Some(value) => value,
        None => NONE,
    }
}

fn bits(flags: [bool; 8]) -> u8 {
    flags.iter().rev().fold(0, |byte, flag| byte << 1 | u8::from(*flag))
}

fn unpack_bits(byte: u8) -> [bool; 8] {
    std::array::from_fn(|bit| byte >> bit & 1 == 1)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let field = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>());
        let field = *field.ok_or_else(|| self.damaged())?;
        self.at = self.at.saturating_add(N);
        Ok(field)
    }

    fn u8(&mut self) -> Result<u8, StateError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn u16(&mut self) -> Result<u16, StateError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, StateError> {
        self.array().map(u32::from_le_bytes)
    }

    /// A byte that no session has outside these bounds: nothing that follows from the state may have to doubt it.
    fn within(&mut self, bounds: RangeInclusive<u8>) -> Result<u8, StateError> {
        let at = self.at;
        self.u8()
            .and_then(|byte| if bounds.contains(&byte) { Ok(byte) } else { Err(StateError::Damaged { at }) })
    }

    fn optional(&mut self, bounds: RangeInclusive<u8>) -> Result<Option<u8>, StateError> {
        if self.bytes.get(self.at) == Some(&NONE) {
            self.at = self.at.saturating_add(1);
            return Ok(None);
        }
        self.within(bounds).map(Some)
    }

    fn mask(&mut self) -> Result<ChannelMask, StateError> {
        let count = usize::from(self.u8()?);
        if count > CHANNEL_MASK_WORDS {
            return Err(self.damaged());
        }
        let mut mask = ChannelMask::EMPTY;
        for index in 0..count {
            mask.set_word(index, self.u16()?);
        }
        Ok(mask)
    }

    fn frequencies<const N: usize>(&mut self) -> Result<[Hz; N], StateError> {
        let mut frequencies = [Hz::new(0); N];
        for freq in &mut frequencies {
            *freq = Hz::new(self.u32()?);
        }
        Ok(frequencies)
    }

    const fn damaged(&self) -> StateError {
        StateError::Damaged { at: self.at }
    }
}

const DELAY_S: RangeInclusive<u8> = RECEIVE_DELAY1_S..=RX_DELAY_S_MAX;
/// Three bits of DLSettings.
const OFFSET: RangeInclusive<u8> = 0..=7;
/// Data rates and powers travel in four bits.
const NIBBLE: RangeInclusive<u8> = 0..=15;
const NB_TRANS: RangeInclusive<u8> = 1..=15;
/// The first byte. Another layout gets another number; the old one stays readable.
const FORMAT: u8 = 1;
/// Stands for "none" in a field whose values are far below it.
const NONE: u8 = 0xff;
const CAPACITY: usize = 96;

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
