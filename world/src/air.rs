//! Gateways and devices as they stand in the world.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mac::ids::{DevAddr, DevEui, GatewayEui, JoinEui};
use mac::region::RegionId;
use simulator::device::{RootKeys, Uplink, VirtualDevice};
use simulator::forwarder::Reception;

use crate::schedule::{DeviceSpec, GatewaySpec, Kind};

/// A packet forwarder.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) eui: GatewayEui,
    pub(crate) address: SocketAddr,
    pub(crate) spec: GatewaySpec,
    /// Where its counter stood at the time `since_us`.
    tmst_us: u32,
    since_us: u64,
    /// Rises with each reboot: what an earlier one was to send is gone.
    pub(crate) boots: u64,
    /// Its backhaul is away until then, milliseconds.
    pub(crate) away_until_ms: u64,
    pub(crate) kept: Vec<Vec<u8>>,
    next_token: u16,
    /// PUSH_DATA that were not acknowledged, by token: the datagram and how often it was sent.
    pub(crate) unacknowledged: BTreeMap<u16, (Vec<u8>, u32)>,
    /// Servers it sends to, by their number.
    pub(crate) servers: Vec<usize>,
    /// Orders it has seen, by token and content, with its answer: one that comes twice is one order.
    pub(crate) orders: BTreeMap<(u16, u64), Option<&'static str>>,
}

impl Gateway {
    pub(crate) fn new(index: usize, spec: GatewaySpec) -> Self {
        let number = u8::try_from(index).expect("few gateways");
        Self {
            eui: GatewayEui::new(0x0016_c001_ff10_0000 + u64::from(number)),
            address: SocketAddr::from(([10, 0, 0, number + 1], 40_000)),
            spec,
            tmst_us: spec.tmst_us,
            since_us: 0,
            boots: 0,
            away_until_ms: 0,
            kept: Vec::new(),
            next_token: 1,
            unacknowledged: BTreeMap::new(),
            servers: vec![0],
            orders: BTreeMap::new(),
        }
    }

    /// Its counter, microseconds modulo 2^32.
    #[allow(clippy::cast_possible_truncation, reason = "the counter is modulo 2^32 by definition")]
    pub(crate) fn counter(&self, now_us: u64) -> u32 {
        self.tmst_us.wrapping_add(now_us.saturating_sub(self.since_us) as u32)
    }

    pub(crate) fn reboot(&mut self, now_us: u64) {
        self.boots += 1;
        self.tmst_us = 0;
        self.since_us = now_us;
        self.kept.clear();
        self.unacknowledged.clear();
        self.orders.clear();
    }

    pub(crate) fn token(&mut self) -> u16 {
        self.next_token = self.next_token.wrapping_add(1).max(1);
        self.next_token
    }
}

/// A device and what it waits for.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) spec: DeviceSpec,
    pub(crate) dev_eui: DevEui,
    pub(crate) sim: VirtualDevice,
    /// Itself with the sessions it had before, to recognise frames for them.
    pub(crate) past: Vec<(u64, VirtualDevice)>,
    /// Which session it has, counted from 1; 0: none.
    pub(crate) session: u64,
    /// The last frame it sent and what it waits for.
    pub(crate) listening: Option<Listening>,
    /// It has begun its DevNonces anew.
    pub(crate) nonces_reset: bool,
    /// The highest DevNonce it has used.
    pub(crate) dev_nonce_max: u16,
    /// Its receive settings were changed by MAC commands: windows are compared loosely from then on.
    pub(crate) resettled: bool,
}

/// A device that sent and listens.
#[derive(Clone, Debug)]
pub(crate) struct Listening {
    pub(crate) uplink: Uplink,
    /// The transmission, in the account's numbers.
    pub(crate) transmission: usize,
    pub(crate) is_join: bool,
    /// It has taken a downlink: its second window stays closed, and nothing is repeated.
    pub(crate) served: bool,
}

impl Device {
    pub(crate) fn new(index: usize, spec: DeviceSpec) -> Self {
        let number = index as u64;
        let dev_eui = DevEui::new(0x70b3_d57e_d006_0000 + number);
        let join_eui = join_eui();
        let sim = match spec.kind {
            Kind::Abp => {
                let mut sim = VirtualDevice::abp(
                    dev_eui,
                    DevAddr::new(spec.dev_addr),
                    spec.region,
                    nwk_s_key(dev_eui),
                    app_s_key(dev_eui),
                );
                sim.set_next_fcnt_up(spec.fcnt_up);
                if let Some(last) = spec.fcnt_down.checked_sub(1) {
                    sim.set_last_fcnt_down(last);
                }
                sim
            }
            Kind::Otaa103 | Kind::Otaa104 | Kind::Otaa11 => {
                let nwk_key = (spec.kind == Kind::Otaa11).then(|| nwk_key(dev_eui));
                VirtualDevice::otaa(
                    dev_eui,
                    join_eui,
                    spec.region,
                    RootKeys { app_key: app_key(dev_eui), nwk_key },
                )
            }
        };
        Self {
            spec,
            dev_eui,
            sim,
            past: Vec::new(),
            session: u64::from(spec.kind == Kind::Abp),
            listening: None,
            nonces_reset: false,
            dev_nonce_max: 0,
            resettled: false,
        }
    }

    pub(crate) fn joins(&self) -> bool {
        self.spec.kind != Kind::Abp
    }

    /// The key a Join-Accept for it is opened with.
    pub(crate) fn join_key(&self) -> [u8; 16] {
        if self.spec.kind == Kind::Otaa11 { nwk_key(self.dev_eui) } else { app_key(self.dev_eui) }
    }

    /// Whether its payloads fit its slowest data rate; longer ones are sent as what fits.
    pub(crate) fn payload_max(&self) -> usize {
        if self.spec.region == RegionId::Us915 { 48 } else { 200 }
    }
}

/// A frame as a gateway reports it.
pub(crate) fn reception(uplink: &Uplink, tmst_us: u32, gateway: usize) -> Reception {
    let number = i32::try_from(gateway).expect("few gateways");
    Reception {
        phy_payload: uplink.phy_payload.clone(),
        freq_hz: uplink.freq_hz,
        data_rate: uplink.data_rate.clone(),
        rssi_dbm: -80 - number,
        // The first gateway hears everything best.
        snr_db: if number == 0 { 9.0 } else { 5.5 },
        tmst_us,
    }
}

pub(crate) fn join_eui() -> JoinEui {
    JoinEui::new(0x70b3_d57e_d000_0001)
}

pub(crate) fn app_key(dev_eui: DevEui) -> [u8; 16] {
    key(dev_eui, 0x3c)
}

pub(crate) fn nwk_key(dev_eui: DevEui) -> [u8; 16] {
    key(dev_eui, 0x5a)
}

pub(crate) fn nwk_s_key(dev_eui: DevEui) -> [u8; 16] {
    key(dev_eui, 0x71)
}

pub(crate) fn app_s_key(dev_eui: DevEui) -> [u8; 16] {
    key(dev_eui, 0x93)
}

fn key(dev_eui: DevEui, salt: u8) -> [u8; 16] {
    let mut key = [salt; 16];
    key[8..].copy_from_slice(&dev_eui.value().to_be_bytes());
    key[7] = 0x21;
    key
}
