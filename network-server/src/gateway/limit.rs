//! Bounds on what strangers may cost.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use mac::units::Mono;

/// How many datagrams are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RateLimit {
    /// Datagrams a second in the long run.
    pub per_second: u32,
    /// Datagrams at once after a pause.
    pub burst: u32,
}

/// A token bucket, kept as the time at which it is full again; the caller says the time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    full_at_ns: u64,
}

impl Bucket {
    /// Takes one token; false when there is none.
    pub(crate) fn take(&mut self, limit: RateLimit, now: Mono) -> bool {
        let now_ns = now.us().saturating_mul(1_000);
        let token_ns = NS_PER_S.checked_div(u64::from(limit.per_second)).unwrap_or(NS_PER_S);
        let full_at_ns = self.full_at_ns.max(now_ns);
        let missing_ns_max = token_ns.saturating_mul(u64::from(limit.burst.saturating_sub(1)));
        let fits = full_at_ns.saturating_sub(now_ns) <= missing_ns_max;
        if fits {
            self.full_at_ns = full_at_ns.saturating_add(token_ns);
        }
        fits
    }
}

/// Token buckets for sources that belong to no registered gateway, at constant memory and work.
///
/// A source is an address (IPv6: the first 64 bits), hashed with a random key to one of a fixed number of buckets.
/// Strangers may share one; registered gateways never touch them.
#[derive(Debug)]
pub(crate) struct SourceLimiter {
    buckets: Box<[Bucket]>,
    hasher: RandomState,
    limit: RateLimit,
}

impl SourceLimiter {
    pub(crate) fn new(limit: RateLimit) -> Self {
        Self { buckets: vec![Bucket::default(); BUCKETS].into(), hasher: RandomState::new(), limit }
    }

    pub(crate) fn take(&mut self, source: IpAddr, now: Mono) -> bool {
        let key = match source.to_canonical() {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        let index = usize::try_from(self.hasher.hash_one(key) % BUCKETS_U64).unwrap_or(0);
        let limit = self.limit;
        self.buckets.get_mut(index).is_some_and(|bucket| bucket.take(limit, now))
    }
}

const NS_PER_S: u64 = 1_000_000_000;
const BUCKETS: usize = 4_096;
const BUCKETS_U64: u64 = BUCKETS as u64;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { per_second: 10, burst: 3 };

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::default();
        let mut taken = |ms: u64| bucket.take(LIMIT, Mono::from_us(ms * 1_000));
        assert_eq!([0, 0, 0, 0].map(&mut taken), [true, true, true, false]);
        assert_eq!([99, 100, 100, 200].map(&mut taken), [false, true, false, true]);
        assert_eq!([10_000, 10_000, 10_000, 10_000].map(&mut taken), [true, true, true, false]);
        // A clock read a little earlier on another thread gives nothing and takes nothing back.
        assert!(!taken(9_000));
        assert!(taken(10_100));
    }

    #[test]
    fn a_bucket_asked_every_microsecond_gives_its_rate_too() {
        let mut bucket = Bucket::default();
        let taken = (0..2_000_000).filter(|us| bucket.take(LIMIT, Mono::from_us(*us))).count();
        assert_eq!(taken, 22);
    }

    #[test]
    fn one_source_does_not_use_up_the_tokens_of_another() {
        let mut limiter = SourceLimiter::new(LIMIT);
        let loud = IpAddr::from([192, 0, 2, 1]);
        let taken = (0..1_000).filter(|_| limiter.take(loud, Mono::default())).count();
        assert_eq!(taken, 3);
        // Hashing may put one other source into the same bucket, not all of them.
        let others =
            (2..=255).filter(|host| limiter.take(IpAddr::from([192, 0, 2, *host]), Mono::default())).count();
        assert!(others > 240, "{others}");
    }

    #[test]
    fn an_ipv6_source_is_its_network_and_a_mapped_one_its_ipv4_address() {
        let mut limiter = SourceLimiter::new(RateLimit { per_second: 1, burst: 1 });
        let mut take = |address: &str| limiter.take(address.parse().expect("an address"), Mono::default());
        assert!(take("2001:db8:0:1::1"));
        assert!(!take("2001:db8:0:1:ffff::2"));
        assert!(take("192.0.2.77"));
        assert!(!take("::ffff:192.0.2.77"));
    }
}
