//! The database as a kill left it: whole, and holding everything that had left the server before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use prost::Message as _;
use proto::internal::{Delta, JournalBody, Record, record::Kind};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use crate::account::{Counter, Evidence, SessionKey};

/// Everything the journal has said, read in instalments.
#[derive(Debug, Default)]
pub(crate) struct Books {
    last_batch: i64,
    last_epoch: i64,
    pub(crate) next_seq: i64,
    uplinks: BTreeSet<(SessionKey, u32)>,
    joins: BTreeSet<(u64, u16)>,
    /// Sessions of a device by their address.
    ids: BTreeMap<SessionKey, BTreeSet<u64>>,
    /// What the journal makes of each session: FCntUp + 1, and the two counters of downlinks.
    sessions: BTreeMap<(u64, u64), Folded>,
    /// The highest counters of downlinks a session ever had, also of one that is gone.
    reserved: BTreeMap<(u64, u64), (u32, u32)>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Folded {
    fcnt_up_plus_1: u64,
    n_fcnt_down: u32,
    a_fcnt_down: u32,
}

/// How the server ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Left {
    /// With its checkpoint up to date.
    InOrder,
    /// In the middle of anything.
    Suddenly,
}

impl Books {
    /// Looks at a copy of the database of a server that has ended, and holds the evidence against it. Returns what is wrong.
    pub(crate) async fn examine(&mut self, data_dir: &Path, evidence: &[Evidence], left: Left) -> Vec<String> {
        let copy = Copy::of(data_dir);
        let mut connection = copy.open().await;
        let mut faults = Vec::new();
        for pragma in ["PRAGMA integrity_check", "PRAGMA foreign_key_check"] {
            let rows = sqlx::query(pragma).fetch_all(&mut connection).await.expect("a check");
            let texts = rows.iter().map(|row| row.try_get::<String, _>(0).unwrap_or_default());
            faults.extend(texts.filter(|text| text != "ok").map(|text| format!("{pragma}: {text}")));
        }
        self.read_journal(&mut connection, &mut faults).await;
        self.hold_against_sessions(&mut connection, left, &mut faults).await;
        for piece in evidence {
            if let Some(fault) = self.refutes(&mut connection, piece).await {
                faults.push(fault);
            }
        }
        connection.close().await.expect("a copy closes");
        faults
    }

    /// Every uplink the journal ever held.
    pub(crate) fn uplinks(&self) -> &BTreeSet<(SessionKey, u32)> {
        &self.uplinks
    }

    async fn read_journal(&mut self, connection: &mut SqliteConnection, faults: &mut Vec<String>) {
        let query = "SELECT batch, first_seq, count, epoch, body FROM journal WHERE batch > ?1 ORDER BY batch";
        let rows = sqlx::query(query).bind(self.last_batch).fetch_all(connection).await.expect("the journal");
        for row in rows {
            let (batch, first_seq, count): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
            let epoch: i64 = row.get(3);
            if self.last_batch > 0 && (batch != self.last_batch + 1 || first_seq != self.next_seq) {
                faults
                    .push(format!("row {batch} of the journal begins with {first_seq}, not {}", self.next_seq));
            }
            if epoch < self.last_epoch {
                faults.push(format!("row {batch} is of epoch {epoch}, the one before of {}", self.last_epoch));
            }
            (self.last_batch, self.last_epoch, self.next_seq) = (batch, epoch, first_seq + count);
            let body = JournalBody::decode(row.get::<&[u8], _>(4)).expect("a body is a message");
            if i64::try_from(body.records.len()) != Ok(count) {
                faults.push(format!("row {batch} says {count} events and holds {}", body.records.len()));
            }
            for record in &body.records {
                faults.extend(self.enter(record));
            }
            for delta in body.deltas {
                self.fold(delta);
            }
        }
    }

    fn enter(&mut self, record: &Record) -> Option<String> {
        let dev_eui = record.dev_eui;
        match &record.kind {
            Some(Kind::Uplink(uplink)) => {
                let session = (dev_eui, uplink.dev_addr);
                self.ids.entry(session).or_default().insert(uplink.session_id);
                let is_new = self.uplinks.insert((session, uplink.fcnt_up));
                (!is_new).then(|| format!("the journal has FCntUp {} of {session:x?} twice", uplink.fcnt_up))
            }
            Some(Kind::Join(join)) => {
                self.ids.entry((dev_eui, join.dev_addr)).or_default().insert(join.session_id);
                let nonce = u16::try_from(join.dev_nonce).expect("16 bits");
                let is_new = self.joins.insert((dev_eui, nonce));
                (!is_new).then(|| format!("the journal has DevNonce {nonce} of {dev_eui:x} twice"))
            }
            _ => None,
        }
    }

    /// As the store merges: absent fields keep their value, a session begins with its keys, one that is gone stays gone.
    fn fold(&mut self, delta: Delta) {
        let key = (delta.dev_eui, delta.session_id);
        if delta.removed {
            self.sessions.retain(|(dev_eui, id), _| *dev_eui != key.0 || (key.1 != 0 && *id != key.1));
            return;
        }
        let (n, a) = self.reserved.entry(key).or_default();
        *n = delta.n_fcnt_down.map_or(*n, |fcnt| fcnt.max(*n));
        *a = delta.a_fcnt_down.map_or(*a, |fcnt| fcnt.max(*a));
        if delta.sealed_keys.is_none() && !self.sessions.contains_key(&key) {
            return;
        }
        let session = self.sessions.entry(key).or_default();
        session.fcnt_up_plus_1 = delta.fcnt_up_plus_1.unwrap_or(session.fcnt_up_plus_1);
        session.n_fcnt_down = delta.n_fcnt_down.unwrap_or(session.n_fcnt_down);
        session.a_fcnt_down = delta.a_fcnt_down.unwrap_or(session.a_fcnt_down);
    }

    /// The table of sessions is never ahead of the journal, and the same when the server ended in order.
    async fn hold_against_sessions(
        &self,
        connection: &mut SqliteConnection,
        left: Left,
        faults: &mut Vec<String>,
    ) {
        let query = "SELECT dev_eui, session_id, fcnt_up_plus_1, n_fcnt_down, a_fcnt_down FROM session";
        let rows = sqlx::query(query).fetch_all(connection).await.expect("the sessions");
        let mut stored = BTreeMap::new();
        for row in rows {
            let number = |column: usize| row.get::<Option<i64>, _>(column).unwrap_or(0);
            let counter = |column| u32::try_from(number(column)).expect("32 bits");
            let session = Folded {
                fcnt_up_plus_1: u64::try_from(number(2)).expect("not negative"),
                n_fcnt_down: counter(3),
                a_fcnt_down: counter(4),
            };
            stored.insert((id(row.get(0)), id(row.get(1))), session);
        }
        if left == Left::InOrder && stored != self.sessions {
            let differ = stored.iter().filter(|(key, session)| self.sessions.get(key) != Some(session));
            faults.push(format!(
                "the table of sessions ({}) is not what the journal makes ({}): {:x?}",
                stored.len(),
                self.sessions.len(),
                differ.collect::<Vec<_>>()
            ));
        }
        for (key, session) in stored {
            // A session that is gone may still be stored.
            let Some(folded) = self.sessions.get(&key) else { continue };
            let ahead = session.fcnt_up_plus_1 > folded.fcnt_up_plus_1
                || session.n_fcnt_down > folded.n_fcnt_down
                || session.a_fcnt_down > folded.a_fcnt_down;
            if ahead {
                faults.push(format!(
                    "session {key:x?} is stored as {session:?}, ahead of the journal's {folded:?}"
                ));
            }
        }
    }

    /// Says why a piece of evidence and the database cannot both be right.
    async fn refutes(&self, connection: &mut SqliteConnection, evidence: &Evidence) -> Option<String> {
        match evidence {
            Evidence::Answered { session, fcnt } | Evidence::Delivered { session, fcnt } => {
                let held = self.uplinks.contains(&(*session, *fcnt));
                (!held).then(|| format!("lost: {evidence:x?}"))
            }
            Evidence::DownCounter { session, counter, fcnt } => {
                let reserved = self.ids.get(session).into_iter().flatten().any(|id| {
                    let (n, a) = self.reserved.get(&(session.0, *id)).copied().unwrap_or_default();
                    *fcnt < if *counter == Counter::Application { a } else { n }
                });
                (!reserved).then(|| format!("not reserved: {evidence:x?}"))
            }
            Evidence::Accept { dev_eui, dev_nonce, join_nonce } => {
                let query = "SELECT (SELECT count(*) FROM join_nonce_used WHERE dev_eui = ?1 AND dev_nonce = ?2), \
                     coalesce((SELECT join_nonce FROM join_device WHERE dev_eui = ?1), \
                     (SELECT join_nonce FROM join_nonce_floor WHERE dev_eui = ?1), 0), \
                     EXISTS (SELECT 1 FROM join_device WHERE dev_eui = ?1)";
                let row = sqlx::query(query).bind(key(*dev_eui)).bind(i64::from(*dev_nonce));
                let row = row.fetch_one(connection).await.expect("the nonces");
                // The DevNonces of a device go with it.
                let used = row.get::<i64, _>(0) == 1 || !row.get::<bool, _>(2);
                let held = used
                    && row.get::<i64, _>(1) >= i64::from(*join_nonce)
                    && self.joins.contains(&(*dev_eui, *dev_nonce));
                (!held).then(|| format!("lost: {evidence:x?}"))
            }
            Evidence::Enqueued { id } => {
                let query = sqlx::query("SELECT 1 FROM downlink WHERE id = ?1").bind(id);
                let row = query.fetch_optional(connection).await.expect("the queue");
                row.is_none().then(|| format!("lost: {evidence:x?}"))
            }
            Evidence::Position { consumer, position } => {
                let query = sqlx::query("SELECT position FROM consumer WHERE name = ?1").bind(consumer);
                let row = query.fetch_optional(connection).await.expect("the consumers");
                let stored = row.map(|row| row.get::<i64, _>(0));
                let held = stored.is_some_and(|stored| u64::try_from(stored).is_ok_and(|p| p >= *position));
                (!held).then(|| format!("lost: {evidence:x?}, stored is {stored:?}"))
            }
        }
    }
}

/// Makes old what these consumers have acknowledged, as eight days would. The server must have ended.
pub(crate) async fn age(data_dir: &Path, consumers: [&str; 2]) {
    let mut connection = connect(&data_dir.join("loam.db")).await;
    sqlx::query(
        "UPDATE journal SET at_us_min = at_us_min - ?1, at_us_max = at_us_max - ?1 \
         WHERE first_seq + count <= (SELECT min(position) FROM consumer WHERE name IN (?2, ?3))",
    )
    .bind(8 * DAY_US)
    .bind(consumers[0])
    .bind(consumers[1])
    .execute(&mut connection)
    .await
    .expect("rows of the journal");
    connection.close().await.expect("it closes");
}

/// A copy of the files, since looking changes them.
struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    fn of(data_dir: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["loam.db", "loam.db-wal"] {
            let from = data_dir.join(name);
            if from.exists() {
                std::fs::copy(&from, dir.path().join(name)).expect("room for a copy");
            }
        }
        Self { dir }
    }

    async fn open(&self) -> SqliteConnection {
        connect(&self.dir.path().join("loam.db")).await
    }
}

async fn connect(path: &PathBuf) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(path)
        .disable_statement_logging()
        .connect()
        .await
        .expect("SQLite opens what a kill left")
}

/// 64-bit identifiers are stored with the top bit flipped.
fn key(id: u64) -> i64 {
    (id ^ TOP_BIT).cast_signed()
}

fn id(key: i64) -> u64 {
    key.cast_unsigned() ^ TOP_BIT
}

const TOP_BIT: u64 = 1 << 63;
const DAY_US: i64 = 86_400_000_000;
