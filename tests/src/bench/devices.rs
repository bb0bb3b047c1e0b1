//! Devices of the benchmark: their identities and keys follow from a number, so that nobody has to remember them.

use anyhow::Result;
use mac::crypto::{self, Direction};
use mac::ids::{DevAddr, FCntUp};
use mac::keys::{Key, NetworkKeys};
use mac::phy::UplinkFrame;

use super::fleet::Frames;

/// Personalised devices (ABP, LoRaWAN 1.0.3, EU868) in a row of DevEUIs, all sending at the same pace.
#[derive(Clone, Debug)]
pub(crate) struct Devices {
    first_eui: u64,
    pub(crate) count: u32,
    first_addr: u32,
    shares_addr: bool,
    next_fcnt: u32,
}

/// Session keys of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionKeys {
    pub(crate) nwk_s_key: [u8; 16],
    pub(crate) app_s_key: [u8; 16],
}

/// Which uplinks belong to a set of frames, and where each stands in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    first_eui: u64,
    devices: u32,
    first_fcnt: u32,
    pub(crate) frames: usize,
}

impl Devices {
    /// Devices with a DevAddr each.
    pub(crate) const fn distinct(first_eui: u64, count: u32) -> Self {
        Self { first_eui, count, first_addr: FIRST_ADDR, shares_addr: false, next_fcnt: 0 }
    }

    /// Devices that all have one DevAddr.
    pub(crate) const fn on_one_addr(first_eui: u64, count: u32) -> Self {
        Self { first_eui, count, first_addr: SHARED_ADDR, shares_addr: true, next_fcnt: 0 }
    }

    pub(crate) const fn dev_eui(&self, index: u32) -> u64 {
        self.first_eui + index as u64
    }

    pub(crate) const fn dev_addr(&self, index: u32) -> u32 {
        if self.shares_addr { self.first_addr } else { self.first_addr + index }
    }

    /// The device of a DevAddr, where each has its own.
    pub(crate) fn index_of_addr(&self, dev_addr: u32) -> Option<u32> {
        dev_addr.checked_sub(self.first_addr).filter(|index| *index < self.count)
    }

    pub(crate) fn keys(&self, index: u32) -> SessionKeys {
        let dev_eui = self.dev_eui(index);
        SessionKeys { nwk_s_key: derived(dev_eui, 1), app_s_key: derived(dev_eui, 2) }
    }

    /// The next `count` uplinks, one device after the other.
    pub(crate) fn frames(&mut self, count: usize) -> Result<(Frames, Plan)> {
        let first_fcnt = self.next_fcnt;
        let keys: Vec<_> = (0..self.count).map(|index| self.keys(index)).collect();
        let mut frames = Frames::with_capacity(count);
        let order =
            (first_fcnt..).flat_map(|fcnt| keys.iter().zip(0..).map(move |(keys, index)| (fcnt, keys, index)));
        for (number, (fcnt, keys, index)) in (0..count).zip(order) {
            let phy = uplink(self.dev_addr(index), keys, fcnt)?;
            // What matters of the counter is that it differs between the frames of a device.
            frames.push(u32::try_from(number)?.wrapping_mul(TMST_STEP_US), &phy);
            self.next_fcnt = fcnt + 1;
        }
        Ok((frames, Plan { first_eui: self.first_eui, devices: self.count, first_fcnt, frames: count }))
    }
}

impl Plan {
    /// The place of an uplink among the frames; `None` when it is not one of them.
    pub(crate) fn index(&self, dev_eui: &str, fcnt: u32) -> Option<usize> {
        let device = u64::from_str_radix(dev_eui, 16).ok()?.checked_sub(self.first_eui)?;
        let device = u32::try_from(device).ok().filter(|device| *device < self.devices)?;
        let round = fcnt.checked_sub(self.first_fcnt)?;
        let index = u64::from(round) * u64::from(self.devices) + u64::from(device);
        usize::try_from(index).ok().filter(|index| *index < self.frames)
    }
}

/// One unconfirmed uplink with the payload of [`super::prepare::CODEC`].
fn uplink(dev_addr: u32, keys: &SessionKeys, fcnt: u32) -> Result<Vec<u8>> {
    let dev_addr = DevAddr::new(dev_addr);
    let mut frm_payload = payload(fcnt);
    crypto::crypt_frm_payload(&keys.app_s_key, Direction::Up, dev_addr, fcnt, &mut frm_payload);
    let frame = UplinkFrame {
        confirmed: false,
        dev_addr,
        // Without ADR nothing has to be answered, so that the figure is of uplinks alone.
        adr: false,
        adr_ack_req: false,
        ack: false,
        class_b: false,
        fcnt: FCntUp::new(fcnt),
        fopts: Vec::new(),
        f_port: Some(2),
        frm_payload,
    };
    Ok(frame.seal(&NetworkKeys::from_nwk_s_key(&Key::new(keys.nwk_s_key)), None)?)
}

/// Soil moisture, temperature and conductivity at three depths, battery: 20 bytes.
fn payload(fcnt: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PAYLOAD_LEN);
    bytes.extend(3_600_u16.to_be_bytes());
    for depth in 0..3_u32 {
        let [.., high, low] = (fcnt.wrapping_mul(7) + depth * 100).to_be_bytes();
        bytes.extend([high, low, 0x00, 0xd7, 0x01, low]);
    }
    bytes
}

/// Key bytes that look random, from a number and what they are for.
pub(crate) fn derived(dev_eui: u64, purpose: u8) -> [u8; 16] {
    let mut block = [purpose; 16];
    for (to, from) in block.iter_mut().zip(dev_eui.to_be_bytes()) {
        *to = from;
    }
    crypto::aes_encrypt(b"loam-bench keys!", block)
}

/// NetID 000000, for private networks.
const FIRST_ADDR: u32 = 0x0010_0000;
const SHARED_ADDR: u32 = 0x01ff_0001;
const TMST_STEP_US: u32 = 61;
const PAYLOAD_LEN: usize = 20;
