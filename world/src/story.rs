//! Single stories: a quiet world in which only what the test says happens.

use mac::region::RegionId;

use crate::schedule::{Action, ConsumerSpec, DeviceSpec, GatewaySpec, Kind, Setting};
use crate::{Outcome, Words, World};

/// Devices, gateways and consumers are numbered from 0.
impl World {
    /// A farm with two gateways, these devices, one consumer, and no faults.
    pub fn farm(seed: u64, devices: &[Kind]) -> Self {
        Self::farm_where(seed, devices, |_| ())
    }

    /// A farm that differs in what `change` says.
    pub fn farm_where(seed: u64, devices: &[Kind], change: impl FnOnce(&mut Setting)) -> Self {
        let gateway = GatewaySpec { tmst_us: 0, sends_again: false, keeps: true };
        let device = |(number, kind): (u32, &Kind)| DeviceSpec {
            kind: *kind,
            region: RegionId::Eu868,
            rx_delay_s: 1,
            codec: false,
            fcnt_up: 0,
            fcnt_down: 0,
            dev_addr: 0x0100_0000 + number,
        };
        let mut setting = Setting {
            gateways: vec![gateway; 2],
            devices: (0..).zip(devices).map(device).collect(),
            consumers: vec![ConsumerSpec { pause_ms: 0, acknowledges_each: 1, leaves_after: 0 }],
            lost: 0,
            twice: 0,
            slow: 0,
            way_ms: 20,
            unheard: 0,
            refused: 0,
            commit_ms: 2,
            retention_s: 7 * 24 * 3_600,
        };
        change(&mut setting);
        Self::new(seed, setting, Words::Kept)
    }

    /// Does something now, and lets what follows of it at once follow.
    pub fn act(&mut self, action: Action) {
        let number = self.now_ms();
        self.plan(0, number, action);
        self.run_ms(1);
    }

    /// A device joins.
    pub fn join(&mut self, device: usize) {
        self.act(Action::Join { device, heard: BOTH });
        self.run_ms(7_000);
    }

    /// A device sends bytes, both gateways hear it, and time passes until both windows are over.
    pub fn uplink(&mut self, device: usize, bytes: &[u8]) {
        self.send(device, bytes, false);
    }

    /// The same with a frame that wants an acknowledgement.
    pub fn confirmed_uplink(&mut self, device: usize, bytes: &[u8]) {
        self.send(device, bytes, true);
    }

    fn send(&mut self, device: usize, bytes: &[u8], confirmed: bool) {
        let number = self.now_ms();
        self.look(|inside| inside.uplink(device, confirmed, bytes, BOTH, 1, number));
        self.run_ms(3_000);
    }

    /// Somebody orders a downlink of so many bytes.
    pub fn order(&mut self, device: usize, len: u8, confirmed: bool) {
        self.act(Action::Enqueue { device, confirmed, len, lives_ms: 0, priority: 0, key: 0 });
        self.run_ms(500);
    }

    /// What the consumer got of a device, in order.
    pub fn received(&self, device: usize) -> Vec<Vec<u8>> {
        self.look(|inside| inside.account.uplinks_of(0, device))
    }

    /// The payloads a device heard, in order.
    pub fn heard(&self, device: usize) -> Vec<Vec<u8>> {
        self.look(|inside| {
            let mine = inside.heard_payloads.iter().filter(|(number, _)| *number == device);
            mine.map(|(_, bytes)| bytes.clone()).collect()
        })
    }

    /// Ends the story: everything drains and every promise was kept.
    ///
    /// # Panics
    /// With the story when a promise was broken.
    pub fn finish_well(self) -> Outcome {
        let outcome = self.finish();
        assert!(outcome.violations.is_empty(), "{:#?}\n{}", outcome.violations, outcome.story);
        outcome
    }
}

/// Both gateways hear it.
const BOTH: u8 = 0b11;
