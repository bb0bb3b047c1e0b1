//! What happens beside the journal: the session checkpoint, the retention, and what an engine adds.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::Instant;

use crate::checkpoint::{self, Haste, Progress};
use crate::db::{Db, WeakDb, on_engine};
use crate::retention::AgeClock;
use crate::{StoreError, StoreOptions, retention, sqlite};

/// Runs until the store is gone. It holds the store weakly: housekeeping alone keeps nothing open.
pub(crate) async fn run(store: WeakDb, options: StoreOptions) {
    let of_engine = async {
        match &store {
            WeakDb::Memory(_) => {}
            WeakDb::Sqlite(store) => sqlite::housekeeping(store).await,
        }
    };
    // Side by side: a long checkpoint of the sessions must not hold up the rest.
    tokio::join!(follow(&store, &options), probe(&store), of_engine);
}

/// Says a failure once, until it is over; breaks when the store is closed.
#[derive(Default)]
pub(crate) struct Troubles {
    told: bool,
}

impl Troubles {
    pub(crate) fn note(&mut self, outcome: Result<(), StoreError>) -> ControlFlow<()> {
        match outcome {
            Err(StoreError::Closed) => return ControlFlow::Break(()),
            // A full disk says it through the readiness as well.
            Err(error) if !self.told => {
                tracing::warn!(error = %error.with_source(), "housekeeping of the store is behind; it tries again");
                self.told = true;
            }
            Err(_) => {}
            Ok(()) => self.told = false,
        }
        ControlFlow::Continue(())
    }
}

async fn follow(store: &WeakDb, options: &StoreOptions) {
    let mut troubles = Troubles::default();
    let age_max = Duration::from_secs(options.retention_max_age_s);
    let mut clock = AgeClock::new(age_max, seam::wall_us(), Instant::now());
    loop {
        tokio::time::sleep(Duration::from_secs(options.checkpoint_period_s)).await;
        let now_us = clock.now_us(seam::wall_us(), Instant::now());
        let round = async {
            let db = upgraded(store).await?;
            while checkpoint::pass(&db, Haste::Gentle).await? == Progress::More {}
            while retention::pass(&db, options, now_us).await? > 0 {}
            Ok(())
        };
        if troubles.note(round.await).is_break() {
            return;
        }
    }
}

/// While nothing is acknowledged nothing is submitted, so somebody has to try whether writing works again.
async fn probe(store: &WeakDb) {
    let mut troubles = Troubles::default();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let round = async {
            let db = upgraded(store).await?;
            if on_engine!(&db, db => db.shared()).readiness.borrow().is_ready() {
                return Ok(());
            }
            on_engine!(&db, db => db.probe().await)
        };
        if troubles.note(round.await).is_break() {
            return;
        }
    }
}

async fn upgraded(store: &WeakDb) -> Result<Db, StoreError> {
    let db = store.upgrade().ok_or(StoreError::Closed)?;
    db.alive().await;
    Ok(db)
}

/// Brings the session table up to the journal.
pub(crate) async fn checkpoint_all(db: &Db) -> Result<(), StoreError> {
    while checkpoint::pass(db, Haste::AtOnce).await? == Progress::More {}
    Ok(())
}
