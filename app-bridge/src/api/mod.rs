//! The public API, service by service.

pub(crate) mod application;
pub(crate) mod codec;
pub(crate) mod device;
pub(crate) mod downlink;
pub(crate) mod event;
pub(crate) mod gateway;
pub(crate) mod profile;
pub(crate) mod provision;
pub(crate) mod system;
pub(crate) mod watch_codec;

use std::future::Future;
use std::sync::Arc;

use store::{AuditRow, BridgeTables};
use tokio_util::task::TaskTracker;
use tonic::{Request, Status};

use crate::auth::Actor;
use crate::clock::now_us;
use crate::error::BridgeError;

/// The largest request taken, bytes.
pub(crate) const MESSAGE_LEN_MAX: usize = 4 * 1024 * 1024;

/// Who does something, for the audit trail.
pub(crate) struct Audit {
    actor: Arc<str>,
}

impl Audit {
    /// The caller of a request.
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        let actor = request
            .extensions()
            .get::<Actor>()
            .map_or_else(|| Arc::from("unknown"), |actor| Arc::clone(&actor.0));
        Self { actor }
    }

    /// Notes an action that was done. `detail` never holds a secret.
    pub(crate) async fn write(
        &self,
        tables: &BridgeTables,
        action: &str,
        subject: &str,
        detail: &str,
    ) -> Result<(), Status> {
        let row = AuditRow {
            id: 0,
            at_us: now_us(),
            actor: self.actor.to_string(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            detail: detail.to_owned(),
        };
        tables.append_audit(row).await.map_err(BridgeError::from)?;
        Ok(())
    }
}

/// Does something to its end, even when the caller goes away meanwhile: its call would be dropped at the next await, with
/// one role told and the next one not.
async fn to_its_end<T: Send + 'static>(
    tasks: &TaskTracker,
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    tasks
        .spawn(work)
        .await
        .unwrap_or_else(|_| Err(Status::internal("the call ended with a fault of the server")))
}

/// The answer to a creation of what is there already.
fn exists(what: &str, id: &str) -> Status {
    Status::already_exists(format!("{what} {id} exists already"))
}

fn unknown(what: &str, id: &str) -> Status {
    Status::not_found(format!("{what} {id} does not exist"))
}

fn in_use(what: &str, id: &str, devices: u64) -> Status {
    Status::failed_precondition(format!("{what} {id} has {devices} devices; delete or move them first"))
}

/// Cuts a list that was read one item too long to its page; returns whether there is more.
fn cut_page<T>(items: &mut Vec<T>, size: u32) -> bool {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let more = items.len() > size;
    items.truncate(size);
    more
}
