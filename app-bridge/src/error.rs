//! What can go wrong on our side.

use proto::port::PortError;
use store::StoreError;
use tonic::Status;

/// Why the app-bridge could not do what it was asked. What a caller did wrong is a gRPC status of its own.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// Another role did not do its part.
    #[error("another role did not answer as it should")]
    Port(#[from] PortError),
    /// The store refused.
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    /// A file cannot be written.
    #[error("{path} cannot be written")]
    #[allow(missing_docs, reason = "the file and what the system said")]
    File { path: std::path::PathBuf, source: std::io::Error },
}

impl From<BridgeError> for Status {
    fn from(error: BridgeError) -> Self {
        match error {
            BridgeError::Port(error) => error.into(),
            BridgeError::Store(error) => store_status(error),
            BridgeError::File { .. } => Self::internal(error.to_string()),
        }
    }
}

/// A fault of the store as callers see it: try again when it may pass, else a fault of ours, logged here.
pub(crate) fn store_status(error: StoreError) -> Status {
    if error.is_disk_full() {
        return Status::unavailable("no space is left for the database; make room on the disk, then try again");
    }
    if error.is_disk_trouble() {
        // The store says it in the log once, and in its readiness.
        let problem = error.with_source();
        return Status::unavailable(format!(
            "the disk does not do its part: {problem}; see to it, then try again"
        ));
    }
    if matches!(error, StoreError::Closed) {
        return Status::unavailable("the server is stopping; try again");
    }
    tracing::error!(error = &error as &dyn std::error::Error, "the store cannot be used");
    Status::internal(error.to_string())
}

impl From<BridgeError> for PortError {
    fn from(error: BridgeError) -> Self {
        match error {
            BridgeError::Port(error) => error,
            BridgeError::Store(error) => store_status(error).into(),
            BridgeError::File { .. } => Self::Internal(error.to_string()),
        }
    }
}
