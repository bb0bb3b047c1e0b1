//! Who may call: API keys of the form `loam_<id>_<secret>`.
//!
//! The store has the SHA-256 of each key; the secret is 256 random bits, so a slow hash would add nothing. Everything needs
//! a key but the services named in [`OPEN_PREFIXES`]: a method that is forgotten is a method that is closed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use store::{ApiKeyRow, BridgeTables};
use subtle::ConstantTimeEq;
use tonic::Status;
use zeroize::Zeroizing;

use crate::error::BridgeError;
use crate::metrics::Metrics;

/// What answers without a key: whether the server is up, and what its API looks like.
const OPEN_PREFIXES: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// The id of the key that is made on first start.
pub(crate) const ADMIN_KEY_ID: &str = "admin";

type Hash = [u8; 32];

/// The API keys, known by their hashes.
pub(crate) struct Auth {
    hashes: RwLock<HashMap<String, Hash>>,
    metrics: Arc<Metrics>,
}

/// Who called; a request that passed has one in its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Actor(pub(crate) Arc<str>);

impl Auth {
    pub(crate) async fn load(tables: &BridgeTables, metrics: Arc<Metrics>) -> Result<Self, BridgeError> {
        let hashes = tables.api_keys().await?.into_iter().map(|key| (key.name, key.hash)).collect();
        Ok(Self { hashes: RwLock::new(hashes), metrics })
    }

    /// Makes the admin key when there is none, or when its file is gone, and writes it to `path`, readable by its owner.
    pub(crate) async fn ensure_admin_key(
        &self,
        tables: &BridgeTables,
        path: &Path,
        now_us: i64,
    ) -> Result<(), BridgeError> {
        let failed = |source| BridgeError::File { path: path.to_owned(), source };
        match tokio::fs::read_to_string(path).await {
            Ok(token) => {
                if self.actor_of(Zeroizing::new(token).trim()).is_some() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(seam::random());
        let token = Zeroizing::new(format!(
            "loam_{ADMIN_KEY_ID}_{}",
            Zeroizing::new(hex::encode(secret.as_slice())).as_str()
        ));
        // The file first: a key that nobody has is worth nothing, a file whose key is not known yet is made again.
        write_private(path, token.as_bytes()).map_err(failed)?;
        seam::crash_point("bridge.admin_key.file_written");
        let hash = hash_of(&token);
        tables.put_api_key(ApiKeyRow { name: ADMIN_KEY_ID.to_owned(), hash, created_at_us: now_us }).await?;
        self.hashes.write().insert(ADMIN_KEY_ID.to_owned(), hash);
        tracing::info!(path = %path.display(), "an admin API key was made");
        Ok(())
    }

    /// Whose key it is.
    fn actor_of(&self, token: &str) -> Option<Actor> {
        let (id, _) = token.strip_prefix("loam_")?.split_once('_')?;
        let hash = hash_of(token);
        let hashes = self.hashes.read();
        let (id, known) = hashes.get_key_value(id)?;
        bool::from(known.ct_eq(&hash)).then(|| Actor(Arc::from(id.as_str())))
    }

    fn check(&self, request: &Request) -> Result<Option<Actor>, Status> {
        if OPEN_PREFIXES.iter().any(|prefix| request.uri().path().starts_with(prefix)) {
            return Ok(None);
        }
        let header = request.headers().get(http::header::AUTHORIZATION).ok_or_else(|| {
            Status::unauthenticated(
                "an API key is needed: send `authorization: Bearer loam_…`; the server's data directory has the admin's",
            )
        })?;
        let token = header
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let Some((_, token)) = token else {
            return Err(Status::unauthenticated(
                "the authorization header is not of the form `Bearer loam_<id>_<secret>`",
            ));
        };
        match self.actor_of(token.trim()) {
            Some(actor) => Ok(Some(actor)),
            None => Err(Status::unauthenticated(
                "the API key is not known here; it may be another server's or have been replaced",
            )),
        }
    }
}

/// Lets calls with a valid key through.
pub(crate) async fn require_key(State(auth): State<Arc<Auth>>, mut request: Request, next: Next) -> Response {
    match auth.check(&request) {
        Ok(actor) => {
            if let Some(actor) = actor {
                request.extensions_mut().insert(actor);
            }
            next.run(request).await
        }
        Err(status) => {
            auth.metrics.calls_unauthenticated.inc();
            status.into_http::<axum::body::Body>().into_response()
        }
    }
}

fn hash_of(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

/// Writes a file nobody else can read, whole or not at all.
fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let beside = path.with_extension("new");
    // A leftover with other permissions must not lend them to the key.
    match std::fs::remove_file(&beside) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = options.open(&beside)?;
    file.write_all(content)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}
