//! DevNonces and JoinNonces against a model of the rules of each version.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Few values, so that they come again, and those at both ends.
fn dev_nonces() -> impl Strategy<Value = Vec<u16>> {
    let dev_nonce = prop_oneof![4 => 0_u16..12, 1 => 65_530_u16..=65_535, 1 => any::<u16>()];
    prop::collection::vec(dev_nonce, 1..40)
}

/// What the join server may do with a request.
#[derive(Debug, Eq, PartialEq)]
enum Verdict {
    Fresh,
    Refused,
    /// The last answer once more.
    Repeated,
}

#[derive(Default)]
struct Model {
    used: BTreeSet<u16>,
    last: Option<u16>,
}

impl Model {
    fn judge(&mut self, version: MacVersion, dev_nonce: u16) -> Verdict {
        if self.last == Some(dev_nonce) {
            return Verdict::Repeated;
        }
        let rises = self.used.last().is_none_or(|highest| dev_nonce > *highest);
        let refused = if version.dev_nonce_is_counter() { !rises } else { self.used.contains(&dev_nonce) };
        if refused {
            return Verdict::Refused;
        }
        self.used.insert(dev_nonce);
        self.last = Some(dev_nonce);
        Verdict::Fresh
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// JOIN-001, JOIN-002, JOIN-005: in every version each DevNonce is accepted at most once and JoinNonce rises with each answer.
    #[test]
    fn no_sequence_of_requests_uses_a_nonce_twice(
        version in prop::sample::select(MacVersion::ALL.to_vec()), opt_neg in any::<bool>(), drawn in dev_nonces(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::with_device(version).await;
            let key = if version.is_1_1() { NWK_KEY } else { APP_KEY };
            let mut model = Model::default();
            let mut last_answer: Option<pb::JoinAnswer> = None;
            for dev_nonce in drawn {
                let mut request = asked(dev_nonce, &key);
                if version.is_1_1() && opt_neg {
                    request.dl_settings |= OPT_NEG;
                }
                // Whoever does not know the key changes nothing.
                assert!(world.join(asked(dev_nonce, &[0x0e; 16])).await.is_err());
                let verdict = model.judge(version, dev_nonce);
                match world.join(request).await {
                    Ok(answer) if answer.repeated_answer => {
                        assert_eq!(verdict, Verdict::Repeated);
                        let first = last_answer.clone().unwrap();
                        assert_eq!(answer, pb::JoinAnswer { repeated_answer: true, ..first });
                    }
                    Ok(answer) => {
                        assert_eq!(verdict, Verdict::Fresh);
                        let join_nonce = join_nonce_of(&answer, &key);
                        let before = last_answer.as_ref().map_or(0, |before| join_nonce_of(before, &key));
                        assert_eq!(join_nonce, before + 1);
                        assert!(last_answer.is_none_or(|before| before.session_id != answer.session_id));
                        last_answer = Some(answer);
                    }
                    Err(_) => assert_eq!(verdict, Verdict::Refused),
                }
                assert_eq!(world.nonces_used().await, u32::try_from(model.used.len()).unwrap());
            }
        });
    }
}
