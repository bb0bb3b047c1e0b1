//! Counters and histograms of the network server, for `/metrics` and `GetInfo`. Never on the commit path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::drops::DropLog;
use crate::gateway::UdpServer;

/// What the network server counts.
#[derive(Debug)]
pub struct Metrics {
    /// Uplinks accepted: verified, deduplicated and committed.
    pub uplinks: AtomicU64,
    /// Verified copies of frames, first ones included.
    pub copies: AtomicU64,
    /// Copies that came after their window.
    pub late_copies: AtomicU64,
    /// Retransmissions of an uplink that was already accepted.
    pub retransmissions: AtomicU64,
    /// Join-Accepts sent.
    pub joins: AtomicU64,
    /// Downlinks handed to a gateway.
    pub downlinks_sent: AtomicU64,
    /// Downlinks whose gateway said TX_ACK.
    pub downlinks_acknowledged: AtomicU64,
    /// Seconds from the socket to the verified frame.
    pub verify_seconds: Histogram,
    /// Seconds from the end of a window to its commit.
    pub commit_seconds: Histogram,
    /// Seconds the app-bridge took for a payload.
    pub payload_seconds: Histogram,
    /// Seconds from the first copy to the downlink's hand-over to its gateway.
    pub turnaround_seconds: Histogram,
    /// Seconds the join server took.
    pub join_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        // 50 µs to about 13 s.
        let histogram = || Histogram::new(exponential_buckets(0.000_05, 2.0, 19));
        Self {
            uplinks: AtomicU64::new(0),
            copies: AtomicU64::new(0),
            late_copies: AtomicU64::new(0),
            retransmissions: AtomicU64::new(0),
            joins: AtomicU64::new(0),
            downlinks_sent: AtomicU64::new(0),
            downlinks_acknowledged: AtomicU64::new(0),
            verify_seconds: histogram(),
            commit_seconds: histogram(),
            payload_seconds: histogram(),
            turnaround_seconds: histogram(),
            join_seconds: histogram(),
        }
    }
}

impl Metrics {
    /// Adds one to a counter of this struct.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes everything visible in `registry`.
    pub fn register(
        self: &Arc<Self>,
        drops: &Arc<DropLog>,
        sizes: Arc<Sizes>,
        udp: Arc<UdpServer>,
        registry: &mut Registry,
    ) {
        let stages = [
            ("loam_verify", "from the socket to the verified frame", &self.verify_seconds),
            ("loam_commit", "from the end of the deduplication window to the commit", &self.commit_seconds),
            ("loam_payload", "waiting for the application's payload", &self.payload_seconds),
            (
                "loam_turnaround",
                "from the first copy to the hand-over of the downlink",
                &self.turnaround_seconds,
            ),
            ("loam_join", "waiting for the join server", &self.join_seconds),
        ];
        for (name, help, histogram) in stages {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
        registry.register_collector(Box::new(NetworkCollector {
            metrics: Arc::clone(self),
            drops: Arc::clone(drops),
            sizes,
            udp,
        }));
    }
}

/// Numbers that are levels, not counts.
#[derive(Debug, Default)]
pub struct Sizes {
    /// Devices registered.
    pub devices: AtomicU64,
    /// Sessions live or pending.
    pub sessions: AtomicU64,
    /// Frames between the sockets and the owners.
    pub ingress_frames: AtomicU64,
}

struct NetworkCollector {
    metrics: Arc<Metrics>,
    drops: Arc<DropLog>,
    sizes: Arc<Sizes>,
    udp: Arc<UdpServer>,
}

impl std::fmt::Debug for NetworkCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NetworkCollector")
    }
}

impl Collector for NetworkCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let m = &self.metrics;
        let counters = [
            ("loam_uplinks", "uplinks accepted", &m.uplinks),
            ("loam_copies", "verified copies of uplinks", &m.copies),
            ("loam_late_copies", "copies that came after their window", &m.late_copies),
            ("loam_retransmissions", "uplinks sent again by their device", &m.retransmissions),
            ("loam_joins", "joins accepted", &m.joins),
            ("loam_downlinks_sent", "downlinks handed to a gateway", &m.downlinks_sent),
            ("loam_downlinks_acknowledged", "downlinks a gateway took", &m.downlinks_acknowledged),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value.load(Ordering::Relaxed));
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        let udp = self.udp.counters();
        let sockets = [
            ("loam_udp_datagrams", "datagrams taken from the sockets", udp.datagrams),
            ("loam_udp_acknowledgements", "PUSH_ACK and PULL_ACK sent", udp.acknowledgements_sent),
            ("loam_udp_push_ack_withheld", "PUSH_ACK not sent: not ready or full", udp.push_ack_withheld),
            (
                "loam_udp_acknowledgements_failed",
                "acknowledgements the kernel did not take",
                udp.acknowledgements_failed,
            ),
            ("loam_udp_pull_resp", "PULL_RESP sent", udp.pull_resp_sent),
        ];
        for (name, help, value) in sockets {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let gauges = [
            ("loam_devices", "devices registered", &self.sizes.devices),
            ("loam_sessions", "sessions, live and pending", &self.sizes.sessions),
            ("loam_ingress_frames", "frames between sockets and owners", &self.sizes.ingress_frames),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        let mut family = encoder.encode_descriptor(
            "loam_drops",
            "frames refused, by reason",
            None,
            prometheus_client::metrics::MetricType::Counter,
        )?;
        for (reason, count) in self.drops.counts() {
            let labels = [("reason", reason.code())];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
