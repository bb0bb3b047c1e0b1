//! The store's counters for `/metrics`.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use store::{COMMIT_LATENCY_BUCKETS_US, Store};

#[derive(Debug)]
struct StoreCollector(Store);

/// Makes the counters of the store visible.
pub(crate) fn register_store(store: Store, registry: &mut Registry) {
    registry.register_collector(Box::new(StoreCollector(store)));
}

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let m = self.0.metrics();
        let counters = [
            ("loam_store_commits", "journal rows committed", m.commits),
            ("loam_store_commit_failures", "commits the database refused", m.commit_failures),
            ("loam_store_submissions", "decisions in those rows", m.submissions),
            ("loam_store_records", "events in those rows", m.records),
            ("loam_store_bytes", "bytes of those rows", m.bytes),
            ("loam_store_commit_microseconds", "time spent in commits", m.commit_us),
            ("loam_store_table_commits", "transactions of table writes", m.table_commits),
            ("loam_store_table_writes", "table writes in those transactions", m.table_writes),
            ("loam_store_rows_removed", "journal rows removed by the retention", m.rows_removed),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let gauges = [
            ("loam_store_queued", "decisions that wait for the writer", m.queued_submissions),
            ("loam_store_journal_bytes", "bytes of journal kept", m.journal_bytes),
            ("loam_log_head", "sequence of the last event", self.0.log().head()),
            ("loam_log_earliest", "sequence of the first event kept", self.0.log().earliest()),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let mut family = encoder.encode_descriptor(
            "loam_store_commits_by_latency",
            "commits by the bucket of their latency, not cumulative",
            None,
            prometheus_client::metrics::MetricType::Counter,
        )?;
        for (index, count) in m.commit_latency.iter().enumerate() {
            let up_to = COMMIT_LATENCY_BUCKETS_US.get(index).map_or_else(|| "more".to_owned(), u64::to_string);
            let labels = [("up_to_us", up_to)];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
