//! What the app-bridge counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Counters and gauges, each with the help text it is registered with.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Calls refused for want of a valid API key.
    pub(crate) calls_unauthenticated: Counter,
    pub(crate) codec_errors: Counter,
    /// How far each consumer is behind the head; names are bounded by the number of consumers.
    pub(crate) consumer_lag: Family<Vec<(String, String)>, Gauge>,
    pub(crate) decode_seconds: Histogram,
    /// Items that reached a state, by its name.
    pub(crate) downlink_states: Family<Vec<(String, String)>, Counter>,
    pub(crate) events_decoded: Counter,
    pub(crate) events_delivered: Counter,
    pub(crate) follower_lag: Gauge,
    pub(crate) keys_missing: Counter,
    pub(crate) payload_seconds: Histogram,
    pub(crate) streams: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            calls_unauthenticated: Counter::default(),
            codec_errors: Counter::default(),
            consumer_lag: Family::default(),
            decode_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 14)),
            downlink_states: Family::default(),
            events_decoded: Counter::default(),
            events_delivered: Counter::default(),
            follower_lag: Gauge::default(),
            keys_missing: Counter::default(),
            payload_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 14)),
            streams: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Adds all of them to a registry, under `loam_bridge_…`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("loam_bridge");
        registry.register(
            "calls_unauthenticated",
            "Calls refused for want of a valid API key",
            self.calls_unauthenticated.clone(),
        );
        registry.register(
            "codec_errors",
            "Uplinks whose codec failed; their bytes were delivered",
            self.codec_errors.clone(),
        );
        registry.register(
            "consumer_lag",
            "Events between a consumer's position and the head",
            self.consumer_lag.clone(),
        );
        registry.register(
            "decode_seconds",
            "Time to decrypt, decode and encode a page of events",
            self.decode_seconds.clone(),
        );
        registry.register(
            "downlink_states",
            "Downlink items that reached a state",
            self.downlink_states.clone(),
        );
        registry.register("events_decoded", "Events made ready for streams", self.events_decoded.clone());
        registry.register("events_delivered", "Events handed to streams", self.events_delivered.clone());
        registry.register(
            "follower_lag",
            "Events the downlink queue and the session keys are behind the head",
            self.follower_lag.clone(),
        );
        registry.register(
            "keys_missing",
            "Uplinks delivered raw for want of the session's key",
            self.keys_missing.clone(),
        );
        registry.register(
            "payload_seconds",
            "Time to answer a window that asks for a payload",
            self.payload_seconds.clone(),
        );
        registry.register("streams", "Open event streams", self.streams.clone());
    }
}
