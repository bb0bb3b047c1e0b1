//! Puts a frame on air: which gateway, which window, and what became of it.
//!
//! The bytes are made once. RX2 or another gateway gets the identical bytes, and only after an explicit refusal while
//! that window can still be reached; after silence nothing is sent in the same pair of windows.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mac::airtime::airtime_us;
use mac::drop_reason::DropReason;
use mac::duty::{DutyLedger, Reservation};
use mac::ids::GatewayEui;
use mac::region::{CodingRate, Modulation, Region};
use mac::units::{Hz, Mono};
use parking_lot::Mutex;
use seam::{Bug, planted};
use tokio::sync::oneshot;

use crate::budget::{GATEWAY_LEAD_MIN_MS, GATEWAY_LEAD_MS, TX_ACK_MS};
use crate::clock::Clock;
use crate::gateway::{GatewayUplink, Gateways, Polarization, TxOutcome, TxRequest, TxTime, UdpServer};
use crate::metrics::Metrics;

/// One receive window of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) delay_s: u8,
    pub(crate) freq: Hz,
    pub(crate) modulation: Modulation,
}

/// A frame and where it may go.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) phy: Vec<u8>,
    pub(crate) region: &'static Region,
    /// Windows it fits, the earlier one first.
    pub(crate) windows: Vec<Window>,
    /// The copies of the uplink it answers, the best first.
    pub(crate) copies: &'a [GatewayUplink],
}

/// What became of a frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Sent {
    /// A gateway took it.
    Acknowledged { gateway: GatewayEui, warning: Option<String> },
    /// It did not go on air.
    Failed { gateway: Option<GatewayEui>, reason: DropReason, detail: String },
    /// It left; nobody told what became of it.
    Unknown { gateway: GatewayEui, detail: &'static str },
}

/// See the file's head.
pub(crate) struct Transmitter {
    pub(crate) udp: Arc<UdpServer>,
    pub(crate) gateways: Arc<Gateways>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    duty: Mutex<HashMap<GatewayEui, DutyLedger>>,
}

impl Transmitter {
    pub(crate) fn new(
        udp: Arc<UdpServer>,
        gateways: Arc<Gateways>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { udp, gateways, clock, metrics, duty: Mutex::default() }
    }

    /// Sends the frame through the best way that is left.
    pub(crate) async fn transmit(&self, frame: &Frame<'_>) -> Sent {
        let detail = "no window could be reached".to_owned();
        let mut tries = 0_u32;
        let mut last = Sent::Failed { gateway: None, reason: DropReason::DownlinkWindowMissed, detail };
        for copy in frame.copies {
            for window in &frame.windows {
                if !self.in_reach(copy, window, GATEWAY_LEAD_MIN_MS) {
                    continue;
                }
                let sent = self.try_way(frame, copy, window, tries).await;
                tries = tries.saturating_add(1);
                let goes_on = planted(Bug::NextWindowAfterSilence) && matches!(sent, Sent::Unknown { .. });
                if !goes_on && !matches!(sent, Sent::Failed { .. }) {
                    return sent;
                }
                last = sent;
            }
        }
        last
    }

    /// Whether any gateway can still be reached for the window, with time to ask for a payload first.
    pub(crate) fn reaches(&self, copies: &[GatewayUplink], window: &Window) -> bool {
        copies.iter().any(|copy| self.in_reach(copy, window, GATEWAY_LEAD_MS))
    }

    /// Whether a frame handed over now is there so long before its time.
    fn in_reach(&self, copy: &GatewayUplink, window: &Window, lead_ms: u64) -> bool {
        let round_trip_ms = self.gateways.link(copy.gateway).and_then(|link| link.round_trip_ms).unwrap_or(0.0);
        // Half of it was spent on the way here, the other half is needed on the way back.
        let on_the_way = Duration::try_from_secs_f32(round_trip_ms / 1_000.0).unwrap_or_default();
        let opens = copy.received.plus_ms(u64::from(window.delay_s) * 1_000);
        let lead = on_the_way.saturating_add(Duration::from_millis(lead_ms));
        let lead_us = u64::try_from(lead.as_micros()).unwrap_or(u64::MAX);
        self.now().plus_us(lead_us) <= opens
    }

    async fn try_way(&self, frame: &Frame<'_>, copy: &GatewayUplink, window: &Window, tries: u32) -> Sent {
        let gateway = copy.gateway;
        let failed = |reason, detail: String| Sent::Failed { gateway: Some(gateway), reason, detail };
        let Some(limits) = frame.region.downlink_limits(window.freq) else {
            let detail = format!("{} is not for downlinks in {}", window.freq, frame.region.id());
            return failed(DropReason::TxRefused, detail);
        };
        let airtime = airtime_us(window.modulation, CodingRate::Cr4_5, frame.phy.len(), false);
        let airtime = airtime.and_then(|us| u32::try_from(us).ok()).unwrap_or(u32::MAX);
        let reservation = match self.reserve(gateway, limits, airtime) {
            Ok(reservation) => reservation,
            Err(detail) => return failed(DropReason::DutyCycleExhausted, detail),
        };
        let request = TxRequest {
            gateway,
            when: TxTime::Tmst(opens_at_us(copy.tmst_us, window.delay_s)),
            freq: window.freq,
            modulation: window.modulation,
            eirp_dbm: limits.max_eirp.value(),
            antenna: copy.antenna,
            board: copy.board,
            polarization: Polarization::Inverted,
            phy: bytes_for(frame, tries),
        };
        let outcome = self.ask(&request).await;
        if !matches!(outcome, TxOutcome::NoPath | TxOutcome::SendFailed { .. }) {
            Metrics::add(&self.metrics.downlinks_sent);
        }
        match outcome {
            TxOutcome::Acknowledged { warning } => {
                Metrics::add(&self.metrics.downlinks_acknowledged);
                Sent::Acknowledged { gateway, warning }
            }
            TxOutcome::NoAnswer => Sent::Unknown { gateway, detail: "no TX_ACK from the gateway within 2 s" },
            TxOutcome::SentUnconfirmed => Sent::Unknown {
                gateway,
                detail: "the forwarder speaks protocol version 1, which has no TX_ACK",
            },
            TxOutcome::NoPath => {
                self.give_back(gateway, reservation);
                let detail = "the gateway has no downlink path: it sent no PULL_DATA".to_owned();
                failed(DropReason::NoDownlinkPath, detail)
            }
            TxOutcome::Refused { text, .. } => {
                self.give_back(gateway, reservation);
                failed(DropReason::TxRefused, format!("the gateway refused it: {text}"))
            }
            TxOutcome::SendFailed { detail } => {
                self.give_back(gateway, reservation);
                failed(DropReason::TxRefused, detail)
            }
        }
    }

    async fn ask(&self, request: &TxRequest) -> TxOutcome {
        let (sender, receiver) = oneshot::channel();
        self.udp.send(
            request,
            Box::new(move |outcome| {
                // Whoever asked may have given up.
                let _ = sender.send(outcome);
            }),
        );
        // The sockets' own timer comes first; this one is for a server that is stopping.
        let answer = tokio::time::timeout(Duration::from_millis(2 * TX_ACK_MS), receiver).await;
        answer.ok().and_then(Result::ok).unwrap_or(TxOutcome::NoAnswer)
    }

    fn reserve(
        &self,
        gateway: GatewayEui,
        limits: &mac::region::SubBand,
        airtime: u32,
    ) -> Result<Reservation, String> {
        let mut duty = self.duty.lock();
        let ledger = duty.entry(gateway).or_default();
        ledger
            .try_reserve(limits, airtime, self.now())
            .map_err(|exceeded| format!("duty cycle of the gateway: {exceeded}"))
    }

    fn give_back(&self, gateway: GatewayEui, reservation: Reservation) {
        if let Some(ledger) = self.duty.lock().get_mut(&gateway) {
            ledger.give_back(reservation);
        }
    }

    fn now(&self) -> Mono {
        self.clock.mono()
    }
}

/// When a window opens on the counter of the gateway that heard the uplink, which runs modulo 2^32 µs.
fn opens_at_us(tmst_us: u32, delay_s: u8) -> u32 {
    let delay_us = u32::from(delay_s) * 1_000_000;
    if planted(Bug::TmstDoesNotWrap) {
        return tmst_us.saturating_add(delay_us);
    }
    if planted(Bug::RxDelayOff) {
        return tmst_us.wrapping_add(delay_us).wrapping_add(1_000_000);
    }
    tmst_us.wrapping_add(delay_us)
}

/// The bytes for a window: the same for each.
fn bytes_for(frame: &Frame<'_>, tries: u32) -> Vec<u8> {
    let mut phy = frame.phy.clone();
    if planted(Bug::OtherFrameAfterRefusal)
        && tries > 0
        && let Some(last) = phy.last_mut()
    {
        *last ^= 1;
    }
    phy
}

/// The copies on the first one's channel, for which the windows are planned. A repetition hops to another one, and its copies may
/// come together with late ones of the first transmission.
pub(crate) fn on_one_channel(mut copies: Vec<GatewayUplink>) -> Vec<GatewayUplink> {
    if let Some((freq, modulation)) = copies.first().map(|first| (first.freq, first.modulation)) {
        copies.retain(|copy| copy.freq == freq && copy.modulation == modulation);
    }
    copies
}

/// The copies of an uplink, the best way back first: gateways with a downlink path, then by signal.
pub(crate) fn best_first(copies: &mut [GatewayUplink], gateways: &Gateways) {
    copies.sort_by(by_signal);
    copies.sort_by_cached_key(|copy| !gateways.link(copy.gateway).is_some_and(|link| link.has_path));
}

/// The stronger reception first: signal-to-noise ratio, then RSSI.
pub(crate) fn by_signal(one: &GatewayUplink, other: &GatewayUplink) -> Ordering {
    let snr = |uplink: &GatewayUplink| uplink.snr_db.unwrap_or(f32::MIN);
    snr(other).total_cmp(&snr(one)).then_with(|| other.rssi_dbm.total_cmp(&one.rssi_dbm))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// TIMING: a counter that rolls over between uplink and window costs no microsecond.
        #[test]
        fn a_window_opens_its_delay_after_the_uplink_wherever_the_counter_stands(
            tmst_us in prop_oneof![any::<u32>(), u32::MAX - 20_000_000..=u32::MAX], delay_s in 1_u8..=16,
        ) {
            let opens_us = opens_at_us(tmst_us, delay_s);
            let apart_us = (u64::from(opens_us) + (1 << 32) - u64::from(tmst_us)) % (1 << 32);
            prop_assert_eq!(apart_us, u64::from(delay_s) * 1_000_000);
        }
    }
}
