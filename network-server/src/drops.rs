//! Refused frames: one counter for each reason, and the last ones with what an operator can do about them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mac::drop_reason::DropReason;
use mac::ids::{DevAddr, DevEui, GatewayEui, JoinEui};
use mac::units::Timestamp;
use parking_lot::Mutex;
use proto::v1::list_drops_response::Drop as DropMessage;

use crate::budget::DROPS_REMEMBERED_MAX;
use crate::gateway::GatewayUplink;
use crate::records::data_rate_text;

/// One refused frame or datagram.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// When the server refused it.
    pub at: Timestamp,
    /// Why.
    pub reason: DropReason,
    /// What was found, with values; may be empty.
    pub detail: String,
    /// The gateway that brought it, where one is named.
    pub gateway: Option<GatewayEui>,
    /// The device it belongs to, where that is known.
    pub dev_eui: Option<DevEui>,
    /// The JoinEUI of a Join-Request.
    pub join_eui: Option<JoinEui>,
    /// The DevAddr of a data frame.
    pub dev_addr: Option<DevAddr>,
    /// The frame counter, as far as it is known.
    pub fcnt: Option<u32>,
    /// The frame, at most 255 bytes.
    pub phy: Option<Arc<[u8]>>,
    /// Frequency in Hz; 0: unknown.
    pub freq_hz: u32,
    /// The data rate as the gateway wrote it; empty: unknown.
    pub data_rate: String,
    /// What to do, where more is known than [`DropReason::hint`] says.
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal about which nothing but the reason is known.
    pub fn new(at: Timestamp, reason: DropReason) -> Self {
        Self {
            at,
            reason,
            detail: String::new(),
            gateway: None,
            dev_eui: None,
            join_eui: None,
            dev_addr: None,
            fcnt: None,
            phy: None,
            freq_hz: 0,
            data_rate: String::new(),
            hint: None,
        }
    }

    fn hint_text(&self) -> String {
        if let Some(hint) = &self.hint {
            return hint.clone();
        }
        match (self.reason, self.gateway, self.dev_eui, self.join_eui) {
            (DropReason::GatewayUnknown, Some(gateway), _, _) => {
                format!(
                    "register it: loam gateway create {gateway} --region EU868 (or the region it listens in)"
                )
            }
            (DropReason::DeviceUnknown, _, Some(dev_eui), Some(join_eui)) => format!(
                "register it: loam device create {dev_eui} --join-eui {join_eui} --application APP --profile PROFILE --app-key -"
            ),
            (reason, _, _, _) => reason.hint().to_owned(),
        }
    }
}

/// What a copy tells about itself.
pub(crate) fn refusal_of(copy: &GatewayUplink, reason: DropReason) -> Refusal {
    let mut refusal = Refusal::new(copy.received_at, reason);
    refusal.gateway = Some(copy.gateway);
    refusal.phy = Some(Arc::clone(&copy.phy));
    refusal.freq_hz = copy.freq.value();
    refusal.data_rate = data_rate_text(copy.modulation);
    refusal
}

/// Counts refusals and remembers the last ones. Never on the commit path.
#[derive(Debug)]
pub struct DropLog {
    counters: Vec<AtomicU64>,
    /// Frames of known devices; a flood of foreign frames cannot push them out.
    known: Mutex<VecDeque<Refusal>>,
    others: Mutex<VecDeque<Refusal>>,
}

impl Default for DropLog {
    fn default() -> Self {
        Self {
            counters: DropReason::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            known: Mutex::default(),
            others: Mutex::default(),
        }
    }
}

impl DropLog {
    /// Counts the refusal and remembers it, forgetting the oldest of its kind when there are
    /// [`DROPS_REMEMBERED_MAX`].
    pub fn refuse(&self, refusal: Refusal) {
        self.count(refusal.reason);
        tracing::debug!(
            drop_reason = refusal.reason.code(),
            dev_eui = refusal.dev_eui.map(tracing::field::display),
            gateway_eui = refusal.gateway.map(tracing::field::display),
            "frame refused"
        );
        let anybody = matches!(refusal.reason, DropReason::DeviceUnknown | DropReason::MicMismatch);
        let ring = if refusal.dev_eui.is_some() && !anybody { &self.known } else { &self.others };
        let mut ring = ring.lock();
        if ring.len() == DROPS_REMEMBERED_MAX {
            ring.pop_front();
        }
        ring.push_back(refusal);
    }

    /// Counts one without remembering it.
    pub fn count(&self, reason: DropReason) {
        self.count_many(reason, 1);
    }

    /// Counts several without remembering them.
    pub fn count_many(&self, reason: DropReason, count: u64) {
        if let Some(counter) = self.counters.get(reason.index()) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// How often each reason was met since the start, in the order of [`DropReason::ALL`].
    pub fn counts(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().copied().zip(self.counters.iter().map(|c| c.load(Ordering::Relaxed)))
    }

    /// The last refusals that match, newest first.
    pub fn last(
        &self,
        gateway: Option<GatewayEui>,
        dev_eui: Option<DevEui>,
        dev_addr_of_device: Option<DevAddr>,
        limit: usize,
    ) -> Vec<DropMessage> {
        let matches = |r: &&Refusal| {
            gateway.is_none_or(|g| r.gateway == Some(g))
                && dev_eui.is_none_or(|d| {
                    r.dev_eui == Some(d) || (r.dev_addr.is_some() && r.dev_addr == dev_addr_of_device)
                })
        };
        let mut found: Vec<Refusal> = Vec::new();
        for ring in [&self.known, &self.others] {
            found.extend(ring.lock().iter().rev().filter(matches).take(limit).cloned());
        }
        found.sort_by_key(|r| std::cmp::Reverse(r.at));
        found.truncate(limit);
        found.iter().map(to_message).collect()
    }
}

fn to_message(refusal: &Refusal) -> DropMessage {
    DropMessage {
        at_us: refusal.at.us(),
        reason: refusal.reason.code().to_owned(),
        detail: refusal.detail.clone(),
        hint: refusal.hint_text(),
        gateway_eui: refusal.gateway.map(|g| g.to_string()).unwrap_or_default(),
        dev_eui: refusal.dev_eui.map(|d| d.to_string()).unwrap_or_default(),
        dev_addr: refusal.dev_addr.map(|d| d.to_string()).unwrap_or_default(),
        fcnt: refusal.fcnt,
        phy_payload: refusal.phy.as_deref().unwrap_or_default().to_vec(),
        frequency_hz: refusal.freq_hz,
        data_rate: refusal.data_rate.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_foreign_frames_does_not_push_out_the_refusals_of_known_devices() {
        let drops = DropLog::default();
        let mut mine = Refusal::new(Timestamp::from_us(1), DropReason::FcntReplayed);
        mine.dev_eui = Some(DevEui::new(7));
        drops.refuse(mine);
        for i in 0..5_000 {
            drops.refuse(Refusal::new(Timestamp::from_us(i), DropReason::UnknownDevAddr));
        }
        let found = drops.last(None, Some(DevEui::new(7)), None, 10);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].reason, "fcnt_replayed");
        assert_eq!(drops.last(None, None, None, 10_000).len(), DROPS_REMEMBERED_MAX + 1);
        let unknown = drops.counts().find(|(r, _)| *r == DropReason::UnknownDevAddr);
        assert_eq!(unknown.map(|(_, n)| n), Some(5_000));
    }

    #[test]
    fn a_refused_join_of_an_unknown_device_names_the_command_that_registers_it() {
        let drops = DropLog::default();
        let mut join = Refusal::new(Timestamp::from_us(1), DropReason::DeviceUnknown);
        join.dev_eui = Some(DevEui::new(0x70b3_d57e_d000_0001));
        join.join_eui = Some(JoinEui::new(1));
        drops.refuse(join);
        let found = drops.last(None, None, None, 1);
        assert!(found[0].hint.contains("loam device create 70b3d57ed0000001 --join-eui 0000000000000001"));
    }
}
