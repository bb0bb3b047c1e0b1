//! Sessions as they are loaded, and how changes of them merge.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use proto::internal::Delta;

/// The durable copy of one session.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SessionRow {
    /// The device.
    pub dev_eui: u64,
    /// The session; never 0.
    pub session_id: u64,
    /// The network session keys, sealed.
    pub sealed_keys: Vec<u8>,
    /// The packed cold state; empty when none was written.
    pub state: Vec<u8>,
    /// The last accepted FCntUp + 1; 0: none yet.
    pub fcnt_up_plus_1: u64,
    /// The next FCntDown (1.1: NFCntDown) that was not handed out.
    pub n_fcnt_down: u32,
    /// The next AFCntDown that was not handed out.
    pub a_fcnt_down: u32,
}

/// The deltas of a journal row; the records are skipped unread.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeltasOnly {
    #[prost(message, repeated, tag = "2")]
    pub(crate) deltas: Vec<Delta>,
}

/// Changes of sessions, merged so that each session is written once.
///
/// A session begins with the delta that brings its keys. A delta for a session that was removed before is ignored: the network server
/// may have made it before it knew.
#[derive(Debug, Default)]
pub(crate) struct Merge {
    /// Devices that lost all sessions they had before those in `changes`.
    pub(crate) cleared: BTreeSet<u64>,
    pub(crate) changes: BTreeMap<(u64, u64), Change>,
}

/// What happens to one session. With neither `update` nor `begin` it is gone.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// What is stored for the session does not count any more.
    pub(crate) fresh: bool,
    /// For a row that is stored; nothing where there is none, which is how a late change of a removed session ends.
    pub(crate) update: Option<Fields>,
    /// Begins the session, on top of `update` where a row is stored. Boxed because it is rare.
    pub(crate) begin: Option<Box<Fields>>,
}

impl Change {
    /// Whether the outcome depends on a row being stored. Such a change must not be applied twice.
    pub(crate) fn is_conditional(&self) -> bool {
        self.update.is_some() && self.begin.is_some()
    }
}

/// Absent fields keep their value.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) sealed_keys: Option<Vec<u8>>,
    pub(crate) state: Option<Vec<u8>>,
    pub(crate) fcnt_up_plus_1: Option<u64>,
    pub(crate) n_fcnt_down: Option<u32>,
    pub(crate) a_fcnt_down: Option<u32>,
}

impl Merge {
    pub(crate) fn len(&self) -> usize {
        self.cleared.len().saturating_add(self.changes.len())
    }

    /// Adds the next delta in the order of the journal.
    pub(crate) fn add(&mut self, delta: Delta) {
        let key = (delta.dev_eui, delta.session_id);
        if delta.removed && delta.session_id == 0 {
            self.cleared.insert(delta.dev_eui);
            let old: Vec<_> = self.changes.range((key.0, 0)..=(key.0, u64::MAX)).map(|(key, _)| *key).collect();
            for key in old {
                self.changes.remove(&key);
            }
            return;
        }
        if delta.removed {
            self.changes.insert(key, Change { fresh: true, ..Change::default() });
            return;
        }
        let begins = delta.sealed_keys.is_some();
        let fields = Fields::from(delta);
        let fresh = self.cleared.contains(&key.0);
        let Some(change) = self.changes.get_mut(&key) else {
            let change = match (begins, fresh) {
                (true, fresh) => Change { fresh, update: None, begin: Some(Box::new(fields)) },
                (false, false) => Change { update: Some(fields), ..Change::default() },
                (false, true) => return,
            };
            self.changes.insert(key, change);
            return;
        };
        match (&mut change.begin, &mut change.update) {
            (Some(begun), _) => begun.update(fields),
            (begin, _) if begins => *begin = Some(Box::new(fields)),
            (None, Some(known)) => known.update(fields),
            // Removed before.
            (None, None) => {}
        }
    }

    /// Takes what changes a stored row; `None` when the session is gone.
    pub(crate) fn apply(&mut self, mut row: SessionRow) -> Option<SessionRow> {
        let Some(change) = self.changes.remove(&(row.dev_eui, row.session_id)) else {
            return (!self.cleared.contains(&row.dev_eui)).then_some(row);
        };
        if change.fresh {
            row = SessionRow { dev_eui: row.dev_eui, session_id: row.session_id, ..SessionRow::default() };
            change.begin.as_ref()?;
        }
        if let Some(update) = change.update {
            update.write_to(&mut row);
        }
        if let Some(begin) = change.begin {
            begin.write_to(&mut row);
        }
        Some(row)
    }

    /// The sessions no stored row was there for.
    pub(crate) fn into_rest(self) -> impl Iterator<Item = SessionRow> {
        self.changes.into_iter().filter_map(|((dev_eui, session_id), change)| {
            let begin = change.begin?;
            let mut row = SessionRow { dev_eui, session_id, ..SessionRow::default() };
            begin.write_to(&mut row);
            Some(row)
        })
    }
}

impl From<Delta> for Fields {
    fn from(delta: Delta) -> Self {
        Self {
            sealed_keys: delta.sealed_keys,
            state: delta.state,
            fcnt_up_plus_1: delta.fcnt_up_plus_1,
            n_fcnt_down: delta.n_fcnt_down,
            a_fcnt_down: delta.a_fcnt_down,
        }
    }
}

impl Fields {
    fn update(&mut self, newer: Self) {
        self.sealed_keys = newer.sealed_keys.or_else(|| self.sealed_keys.take());
        self.state = newer.state.or_else(|| self.state.take());
        self.fcnt_up_plus_1 = newer.fcnt_up_plus_1.or(self.fcnt_up_plus_1);
        self.n_fcnt_down = newer.n_fcnt_down.or(self.n_fcnt_down);
        self.a_fcnt_down = newer.a_fcnt_down.or(self.a_fcnt_down);
    }

    pub(crate) fn write_to(self, row: &mut SessionRow) {
        if let Some(sealed_keys) = self.sealed_keys {
            row.sealed_keys = sealed_keys;
        }
        if let Some(state) = self.state {
            row.state = state;
        }
        row.fcnt_up_plus_1 = self.fcnt_up_plus_1.unwrap_or(row.fcnt_up_plus_1);
        row.n_fcnt_down = self.n_fcnt_down.unwrap_or(row.n_fcnt_down);
        row.a_fcnt_down = self.a_fcnt_down.unwrap_or(row.a_fcnt_down);
    }
}
