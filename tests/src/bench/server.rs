//! The server under test, as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use loam_tests::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::machine::{self, Memory};

/// A running `loam serve`; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    data_dir: PathBuf,
    /// Where gateways send to.
    pub(crate) udp: SocketAddr,
    /// Where the API answers.
    pub(crate) api: SocketAddr,
    /// From the call to its being ready.
    pub(crate) started_in: Duration,
}

impl Server {
    /// Starts the server on `data_dir` and waits until it says where it listens, at most for `deadline`.
    pub(crate) fn start(loam: &Path, data_dir: &Path, deadline: Duration) -> Result<Self> {
        let endpoints = data_dir.join("endpoints.json");
        match std::fs::remove_file(&endpoints) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", endpoints.display()));
            }
            Ok(()) | Err(_) => {}
        }
        let mut command = command(loam, data_dir)?;
        let begun = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {}", loam.display()))?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self {
            child,
            data_dir: data_dir.to_owned(),
            udp: nowhere,
            api: nowhere,
            started_in: Duration::ZERO,
        };
        loop {
            if let Some((api, udp)) = read_endpoints(&endpoints) {
                server.started_in = begun.elapsed();
                (server.api, server.udp) = (api, udp);
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("loam ended with {status} before it was ready:\n{}", server.log_end());
            }
            if begun.elapsed() > deadline {
                bail!("loam was not ready within {deadline:?}:\n{}", server.log_end());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asks the process to end and waits for it; after [`STOP_DEADLINE`] it is killed, which is an error.
    pub(crate) fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let begun = Instant::now();
        while begun.elapsed() < STOP_DEADLINE {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("loam ended with {status} after SIGTERM:\n{}", self.log_end()),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        bail!("loam did not end within {STOP_DEADLINE:?} of SIGTERM and was killed")
    }

    /// The admin key of the first start.
    pub(crate) fn key(&self) -> Result<String> {
        let path = self.data_dir.join("admin.key");
        let key = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(key.trim().to_owned())
    }

    /// Clients of the API; call it inside a runtime.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::new(self.api, &self.key()?))
    }

    pub(crate) fn cpu_us(&self) -> Result<u64> {
        machine::process_cpu_us(self.child.id())
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        machine::memory(self.child.id())
    }

    /// The last lines of its log.
    pub(crate) fn log_end(&self) -> String {
        let text = std::fs::read_to_string(log_path(&self.data_dir)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(loam: &Path, data_dir: &Path) -> Result<Command> {
    let path = log_path(data_dir);
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new(loam);
    command
        .arg("serve")
        .arg("--data-dir")
        .arg(data_dir)
        .env("LOAM_API__BIND", "127.0.0.1:0")
        .env("LOAM_GATEWAYS__UDP_BIND", "127.0.0.1:0")
        .env("LOAM_SERVER__LOG_LEVEL", "warn")
        .current_dir(data_dir.parent().context("the data directory has a parent")?)
        .stdin(Stdio::null())
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log));
    Ok(command)
}

fn log_path(data_dir: &Path) -> PathBuf {
    data_dir.with_extension("log")
}

fn read_endpoints(path: &Path) -> Option<(SocketAddr, SocketAddr)> {
    let text = std::fs::read_to_string(path).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    let api = value.get("api")?.as_str()?.parse().ok()?;
    let udp = value.get("udp")?.as_str()?.parse().ok()?;
    Some((api, udp))
}

/// What a start with few devices may take.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(20);
const LOG_LINES: usize = 20;
