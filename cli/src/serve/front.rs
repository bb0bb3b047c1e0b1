//! The HTTP front: gRPC, gRPC-Web and the operations pages on one port, in clear text or TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use store::Readiness;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::config::Api;

/// Connections at once; further ones wait in the kernel.
const CONNECTIONS_MAX: usize = 4_096;
/// A connection that says nothing while it opens is closed.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Streams still open this long after the end was announced are cut.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// A port that is taken and does not answer yet.
pub(crate) struct Bound {
    listener: TcpListener,
    local_addr: SocketAddr,
    tls: Option<TlsAcceptor>,
}

/// One listening port.
pub(crate) struct Front {
    local_addr: SocketAddr,
    ending: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Bound {
    /// Takes the public port.
    ///
    /// # Errors
    /// A port in use, a certificate that cannot be read, or clear text beyond this machine without `--insecure`.
    pub(crate) async fn public(api: &Api, insecure: bool) -> anyhow::Result<Self> {
        let tls = match (&api.tls_cert, &api.tls_key) {
            (Some(cert), Some(key)) => Some(tls(cert, key)?),
            (None, None) => None,
            _ => bail!("api.tls_cert and api.tls_key belong together: set both or none"),
        };
        if tls.is_none() {
            refuse_clear_text("api.bind", api.bind, insecure)?;
        }
        Self::take("api.bind", api.bind, tls).await
    }

    /// Takes the port of the other roles.
    ///
    /// # Errors
    /// As [`Bound::public`].
    pub(crate) async fn internal(bind: SocketAddr, insecure: bool) -> anyhow::Result<Self> {
        refuse_clear_text("internal.bind", bind, insecure)?;
        Self::take("internal.bind", bind, None).await
    }

    /// Answers from here on.
    pub(crate) fn serve(self, router: Router) -> Front {
        let (ending, ended) = watch::channel(false);
        let task = tokio::spawn(accept(self.listener, self.tls, router, ended));
        Front { local_addr: self.local_addr, ending, task }
    }

    async fn take(key: &str, bind: SocketAddr, tls: Option<TlsAcceptor>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(bind).await.map_err(|error| {
            if error.kind() == std::io::ErrorKind::AddrInUse {
                anyhow::anyhow!("tcp {bind} is in use: stop the other server, or choose another {key}")
            } else {
                anyhow::Error::new(error).context(format!("cannot listen on tcp {bind} ({key})"))
            }
        })?;
        let local_addr = listener.local_addr()?;
        Ok(Self { listener, local_addr, tls })
    }
}

impl Front {
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Announces the end: no new connections, open ones finish their calls.
    pub(crate) fn refuse_new(&self) {
        let _ = self.ending.send(true);
    }

    /// Waits until every connection has ended, for [`DRAIN_MAX`] at most.
    pub(crate) async fn ended(self) {
        self.refuse_new();
        if self.task.await.is_err() {
            tracing::error!("the HTTP front ended with a panic");
        }
    }
}

fn refuse_clear_text(key: &str, bind: SocketAddr, insecure: bool) -> anyhow::Result<()> {
    if bind.ip().is_loopback() || insecure {
        return Ok(());
    }
    bail!(
        "{key} {bind} can be reached from other machines, and keys would cross the network in clear text: \
         set api.tls_cert and api.tls_key, bind to 127.0.0.1, or take the risk with --insecure"
    )
}

fn tls(cert: &Path, key: &Path) -> anyhow::Result<TlsAcceptor> {
    let certs = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| anyhow::anyhow!("api.tls_cert {} cannot be used: {error}", cert.display()))?;
    let key_der = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| anyhow::anyhow!("api.tls_key {} cannot be used: {error}", key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certs, key_der)
        .with_context(|| {
            format!("api.tls_cert {} and api.tls_key {} do not fit", cert.display(), key.display())
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    mut ended: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (Ok(slot), accepted) = (tokio::select! {
            next = next => next,
            _ = ended.wait_for(|end| *end) => break,
        }) else {
            break;
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors: connections end, and then there are some again.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (tls, router, watcher) = (tls.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            serve(stream, tls, router, watcher).await;
            drop(slot);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_MAX, graceful.shutdown()).await.is_err() {
        tracing::info!("streams that did not end by themselves were cut");
    }
}

async fn serve(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let service = TowerToHyperService::new(router);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(20))
        .timer(hyper_util::rt::TokioTimer::new())
        .max_concurrent_streams(1_000);
    builder.http1().timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(HANDSHAKE_MAX);
    let ended = match tls {
        None => watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned()).await,
        Some(acceptor) => {
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await else {
                tracing::debug!("a TLS handshake did not succeed");
                return;
            };
            watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned()).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection ended early");
    }
}

#[derive(Clone)]
struct Pages {
    registry: Arc<Mutex<Registry>>,
    readiness: watch::Receiver<Readiness>,
}

/// `/healthz`: the process lives. `/readyz`: what comes in can be made durable. `/metrics`: Prometheus.
pub(crate) fn pages(registry: Registry, readiness: watch::Receiver<Readiness>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Pages { registry: Arc::new(Mutex::new(registry)), readiness })
}

#[allow(clippy::unused_async, reason = "handlers are async")]
async fn ready(State(pages): State<Pages>) -> impl IntoResponse {
    match &*pages.readiness.borrow() {
        Readiness::Ready => (StatusCode::OK, "ready\n".to_owned()),
        Readiness::NotReady { reason, .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n"))
        }
    }
}

#[allow(clippy::unused_async, reason = "handlers are async")]
async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    let mut text = String::new();
    let registry = pages.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_text_beyond_this_machine_needs_a_word() {
        let beyond = "0.0.0.0:8080".parse().expect("an address");
        assert!(refuse_clear_text("api.bind", beyond, false).is_err());
        assert!(refuse_clear_text("api.bind", beyond, true).is_ok());
        let local = "127.0.0.1:8080".parse().expect("an address");
        assert!(refuse_clear_text("api.bind", local, false).is_ok());
    }
}
