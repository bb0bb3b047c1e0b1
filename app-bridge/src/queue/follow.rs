//! What the event log means for the queue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::internal::{self as pb, record};
use proto::v1::DownlinkState;
use store::{DownlinkUpdate, Followed};
use tokio::sync::OwnedMutexGuard;

use super::decide::{self, Transition};
use super::{Queue, UnderWay, updated};

/// What a page of the log means for the items under way: to be made durable, then settled.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Followed>,
    /// The items of the devices concerned, as they will be.
    items: BTreeMap<u64, Vec<UnderWay>>,
    /// Devices for which something waits again.
    waiting_again: BTreeSet<u64>,
    announce: bool,
    states: Vec<DownlinkState>,
}

impl Queue {
    /// Devices whose items a page of the log may change, and the sessions to compare where an uplink came with another one
    /// than an item left with.
    pub(crate) fn concerned(&self, records: &[(u64, Arc<pb::Record>)]) -> Concerned {
        let under_way = self.under_way.lock();
        let mut concerned = Concerned::default();
        if under_way.is_empty() {
            return concerned;
        }
        for (_, record) in records {
            let Some(items) = under_way.get(&record.dev_eui) else {
                continue;
            };
            match &record.kind {
                Some(record::Kind::Downlink(downlink))
                    if items.iter().any(|item| decide::names(&item.item, downlink)) =>
                {
                    concerned.dev_euis.insert(record.dev_eui);
                }
                Some(record::Kind::Uplink(uplink)) => {
                    let others = items
                        .iter()
                        .filter_map(|item| item.item.lease)
                        .filter(|(id, _)| *id != uplink.session_id);
                    for (session_id, _) in others {
                        concerned.dev_euis.insert(record.dev_eui);
                        concerned.sessions.extend([session_id, uplink.session_id]);
                    }
                }
                _ => {}
            }
        }
        concerned
    }

    /// Locks the devices of a plan; hold it until the plan is settled.
    pub(crate) async fn hold(&self, concerned: &Concerned) -> Vec<OwnedMutexGuard<()>> {
        self.lock_all(concerned.dev_euis.iter().copied()).await
    }

    /// Decides what a page means. `started_at_us` knows when the sessions of [`Concerned`] began.
    pub(crate) fn plan(
        &self,
        concerned: &Concerned,
        records: &[(u64, Arc<pb::Record>)],
        started_at_us: &BTreeMap<u64, i64>,
        now_us: i64,
    ) -> Plan {
        let mut plan = Plan::default();
        {
            let under_way = self.under_way.lock();
            for dev_eui in &concerned.dev_euis {
                if let Some(items) = under_way.get(dev_eui) {
                    plan.items.insert(*dev_eui, items.clone());
                }
            }
        }
        for (_, record) in records {
            match &record.kind {
                Some(record::Kind::Downlink(downlink)) => plan.apply(record, |item| {
                    let concerned = decide::names(&item.item, downlink);
                    concerned.then(|| decide::on_record(&item.item, downlink, now_us)).flatten()
                }),
                Some(record::Kind::Uplink(uplink)) => {
                    plan.apply(record, |item| {
                        let (session_id, _) = item.item.lease?;
                        let newer = session_id != uplink.session_id
                            && started_at_us.get(&uplink.session_id)? > started_at_us.get(&session_id)?;
                        newer.then(|| decide::on_session_replaced(&item.item, now_us))
                    });
                }
                _ => {}
            }
        }
        plan
    }

    /// Takes over what a plan says, after it was made durable.
    pub(crate) fn settle(self: &Arc<Self>, plan: Plan, guards: Vec<OwnedMutexGuard<()>>) {
        {
            let mut under_way = self.under_way.lock();
            for (dev_eui, items) in plan.items {
                if items.is_empty() {
                    under_way.remove(&dev_eui);
                } else {
                    under_way.insert(dev_eui, items);
                }
            }
        }
        for state in plan.states {
            self.count_state(state);
        }
        drop(guards);
        if plan.announce {
            self.announce_again.store(true, std::sync::atomic::Ordering::Relaxed);
            self.sweep_soon.notify_one();
        }
        self.hint_beside(plan.waiting_again);
    }
}

/// What of the queue a page of the log may touch.
#[derive(Default)]
pub(crate) struct Concerned {
    dev_euis: BTreeSet<u64>,
    pub(crate) sessions: BTreeSet<u64>,
}

impl Plan {
    /// Applies a decision to the items of a record's device.
    fn apply(&mut self, record: &pb::Record, decide: impl Fn(&UnderWay) -> Option<Transition>) {
        let Some(items) = self.items.get_mut(&record.dev_eui) else {
            return;
        };
        let mut kept = Vec::with_capacity(items.len());
        for under_way in std::mem::take(items) {
            let Some(transition) = decide(&under_way) else {
                kept.push(under_way);
                continue;
            };
            let update = DownlinkUpdate {
                id: under_way.item.id.clone(),
                state: transition.state as i32,
                never_left: transition.never_left,
                reason: transition.reason,
                at_us: record.at_us,
                finished: transition.terminal,
                announced: !transition.announce,
                only_lease: under_way.item.lease,
            };
            if transition.announce {
                self.announce = true;
            } else {
                self.states.push(transition.state);
            }
            if transition.state == DownlinkState::Queued {
                self.waiting_again.insert(record.dev_eui);
            } else if !transition.terminal {
                kept.push(UnderWay::new(updated(under_way.item, &update)));
            }
            self.changes.push(Followed::Downlink(update));
        }
        *items = kept;
    }
}
