//! What a value may be, and which values fit together.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use tracing_subscriber::EnvFilter;

use super::{Config, GIB, KIB, MIB, Origins, Role};

/// Everything that is wrong with the configuration, a line each.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct ConfigProblems(Vec<String>);

impl ConfigProblems {
    pub(super) fn one(origins: &Origins, key: &str, message: &str) -> Self {
        Self(vec![format!("{}: {message}", origins.named(key))])
    }

    pub(super) fn add(&mut self, problem: String) {
        self.0.push(problem);
    }

    pub(super) fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigProblems {}

impl Config {
    /// Checks each value for itself.
    pub(super) fn check_values(&self, origins: &Origins) -> Result<(), ConfigProblems> {
        let mut problems = ConfigProblems::default();
        let mut range = |key: &str, value: u64, allowed: RangeInclusive<u64>, unit: &str| {
            if !allowed.contains(&value) {
                problems.add(format!(
                    "{}: {value} is out of range, {} to {} {unit} are allowed",
                    origins.named(key),
                    allowed.start(),
                    allowed.end()
                ));
            }
        };
        let gateways = &self.gateways;
        range("gateways.receive_buffer_bytes", gateways.receive_buffer_bytes, 64 * KIB..=GIB, "bytes");
        range("gateways.receiver_threads", gateways.receiver_threads.into(), 1..=64, "threads");
        range("network.dedup_window_ms", self.network.dedup_window_ms.into(), 20..=1_000, "ms");
        range("network.owner_threads", self.network.owner_threads.into(), 0..=64, "threads");
        let store = &self.store;
        range("store.retention_days", store.retention_days.into(), 1..=3_650, "days");
        range("store.retention_max_bytes", store.retention_max_bytes, 16 * MIB..=16 * 1024 * GIB, "bytes");
        range("store.group_commit_max_delay_ms", store.group_commit_max_delay_ms.into(), 0..=100, "ms");
        range("store.group_commit_max_steps", store.group_commit_max_steps.into(), 1..=10_000, "steps");
        range("store.checkpoint_period_s", store.checkpoint_period_s.into(), 1..=3_600, "seconds");
        let codec = &self.codec;
        range("codec.threads", codec.threads.into(), 1..=64, "threads");
        range("codec.time_limit_ms", codec.time_limit_ms.into(), 1..=10_000, "ms");
        range("codec.memory_limit_bytes", codec.memory_limit_bytes, MIB..=GIB, "bytes");
        range("codec.stack_limit_bytes", codec.stack_limit_bytes, 64 * KIB..=16 * MIB, "bytes");

        let mut problem = |key: &str, message: &str| {
            problems.add(format!("{}: {message}", origins.named(key)));
        };
        let roles = &self.server.roles;
        if roles.is_empty() {
            problem("server.roles", "no role is named; leave the key out to play all of them");
        }
        if roles.iter().enumerate().any(|(i, role)| roles.iter().take(i).any(|other| other == role)) {
            problem("server.roles", "a role is named twice");
        }
        let paths = [
            ("server.data_dir", Some(&self.server.data_dir)),
            ("api.tls_cert", self.api.tls_cert.as_ref()),
            ("api.tls_key", self.api.tls_key.as_ref()),
            ("internal.token_file", self.internal.token_file.as_ref()),
        ];
        for (key, path) in paths {
            if path.is_some_and(|path| path.as_os_str().is_empty()) {
                problem(key, "the path is empty");
            }
        }
        if let Err(message) = check_log_level(&self.server.log_level) {
            problem("server.log_level", &message);
        }
        let label = &self.join.kek_label;
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if label.is_empty() || label.len() > 64 || !label.bytes().all(word) {
            problem("join.kek_label", "1 to 64 letters, digits, dashes, dots and underscores are allowed");
        }
        let urls = [
            ("internal.network_url", &self.internal.network_url),
            ("internal.join_url", &self.internal.join_url),
            ("internal.bridge_url", &self.internal.bridge_url),
        ];
        for (key, url) in urls {
            if let Some(url) = url
                && let Err(message) = check_url(url)
            {
                problem(key, &message);
            }
        }
        problems.into_result()
    }

    /// Checks what depends on several keys, after flags had their say: certificates, exposure, and where other roles are.
    pub(crate) fn check(&self, origins: &Origins) -> Result<(), ConfigProblems> {
        let mut problems = ConfigProblems::default();
        let tls = match (&self.api.tls_cert, &self.api.tls_key) {
            (Some(_), Some(_)) => true,
            (None, None) => false,
            (Some(_), None) => {
                problems.add(format!(
                    "{}: a certificate needs its private key; set api.tls_key too",
                    origins.named("api.tls_cert")
                ));
                true
            }
            (None, Some(_)) => {
                problems.add(format!(
                    "{}: a private key needs its certificate; set api.tls_cert too",
                    origins.named("api.tls_key")
                ));
                true
            }
        };
        let mut refuse_clear_text = |key: &str, bind: SocketAddr| {
            if !bind.ip().is_loopback() && !tls && !self.api.insecure {
                problems.add(format!(
                    "{}: {bind} is reachable from other machines, and API keys would travel unencrypted; set api.tls_cert \
                     and api.tls_key, bind to 127.0.0.1, or accept it with --insecure (api.insecure = true)",
                    origins.named(key)
                ));
            }
        };
        refuse_clear_text("api.bind", self.api.bind);
        if let Some(bind) = self.internal.bind {
            refuse_clear_text("internal.bind", bind);
        }
        self.check_roles(&mut problems);
        problems.into_result()
    }

    /// Roles in several processes have to find each other.
    fn check_roles(&self, problems: &mut ConfigProblems) {
        if Role::ALL.iter().all(|role| self.has_role(*role)) {
            return;
        }
        let internal = &self.internal;
        let mut need = |key: &str, is_set: bool, why: &str| {
            if !is_set {
                problems.add(format!("{key} is not set: {why}"));
            }
        };
        need("internal.bind", internal.bind.is_some(), "the other roles have to reach this process");
        need(
            "internal.token_file",
            internal.token_file.is_some(),
            "the processes of one installation share a token",
        );
        let calls_network = self.has_role(Role::AppBridge) && !self.has_role(Role::NetworkServer);
        let calls_join = !self.has_role(Role::JoinServer);
        let calls_bridge = self.has_role(Role::NetworkServer) && !self.has_role(Role::AppBridge);
        if calls_network {
            need("internal.network_url", internal.network_url.is_some(), "the network server runs elsewhere");
        }
        if calls_join {
            need("internal.join_url", internal.join_url.is_some(), "the join server runs elsewhere");
        }
        if calls_bridge {
            need("internal.bridge_url", internal.bridge_url.is_some(), "the app-bridge runs elsewhere");
        }
    }
}

fn check_log_level(text: &str) -> Result<(), String> {
    let words = "error, warn, info, debug, trace or off";
    let is_level =
        |word: &str| ["error", "warn", "info", "debug", "trace", "off"].contains(&word.to_lowercase().as_str());
    for directive in text.split(',') {
        // A lone word that is no level would be taken for a module's name and silence everything.
        let well_formed = match directive.trim().rsplit_once('=') {
            None => is_level(directive.trim()),
            Some((module, level)) => !module.is_empty() && is_level(level),
        };
        if !well_formed || EnvFilter::try_new(directive).is_err() {
            return Err(format!(
                "{directive:?} is not understood; write {words}, or a filter such as \"info,store=debug\""
            ));
        }
    }
    Ok(())
}

fn check_url(url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let host = rest.map(|rest| rest.trim_end_matches('/'));
    match host {
        Some(host) if !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']) => Ok(()),
        _ => Err("not an address of a server; write it like http://10.0.0.2:8081, without user, path or query"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::{Path, PathBuf};

    use super::super::Origin;
    use super::*;

    fn load(toml: &str, environment: &[(&str, &str)]) -> Result<(Config, Origins), String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("loam.toml");
        std::fs::write(&path, toml).unwrap();
        load_path(&path, environment)
    }

    fn load_path(path: &Path, environment: &[(&str, &str)]) -> Result<(Config, Origins), String> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::load(Some(path), environment).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let (config, origins) = load("", &[]).unwrap();

        assert_eq!(config, Config::default());
        assert_eq!(origins, Origins::default());
        config.check(&origins).unwrap();
    }

    #[test]
    fn the_environment_goes_over_the_file_and_both_are_remembered() {
        let file = "[api]\nbind = \"127.0.0.1:9000\"\n[store]\nretention_days = 3\n";
        let environment = [
            ("LOAM_API__BIND", "127.0.0.1:9001"),
            ("LOAM_GATEWAYS__AUTO_REGISTER", "true"),
            ("LOAM_SERVER__ROLES", "join-server, network-server"),
            ("LOAM_NETWORK__NET_ID", "00000a"),
            ("LOAM_GATEWAYS__AUTO_REGISTER_REGION", "us915"),
            ("LOAM_SERVER", "http://elsewhere:1"),
            ("LOAM_API_KEY", "not configuration"),
            ("PATH", "/bin"),
        ];

        let (config, origins) = load(file, &environment).unwrap();

        assert_eq!(config.api.bind, "127.0.0.1:9001".parse().unwrap());
        assert_eq!(config.store.retention_days, 3);
        assert!(config.gateways.auto_register);
        assert_eq!(config.gateways.auto_register_region, Some(proto::v1::Region::Us915));
        assert_eq!(config.server.roles, [Role::JoinServer, Role::NetworkServer]);
        assert_eq!(config.network.net_id, 10);
        assert_eq!(origins.of("api.bind"), Origin::Environment("LOAM_API__BIND".to_owned()));
        assert!(matches!(origins.of("store.retention_days"), Origin::File(_)));
        assert_eq!(origins.of("codec.threads"), Origin::Default);
    }

    #[test]
    fn an_empty_variable_takes_an_optional_value_away() {
        let file = "[api]\ntls_cert = \"a.pem\"\n";
        let (config, _) = load(file, &[("LOAM_API__TLS_CERT", "")]).unwrap();
        assert_eq!(config.api.tls_cert, None);
    }

    #[test]
    fn unknown_keys_are_all_named_with_the_nearest_known_one() {
        let file = "retention_days = 1\n[api]\nbnid = \"x\"\n[gatewys]\nudp_bind = \"y\"\n[server]\nbind = 1\n";

        let error = load(file, &[("LOAM_STORE__RETENTION_DAY", "1")]).unwrap_err();

        for part in [
            "\"retention_days\" stands outside of a section; do you mean store.retention_days?",
            "no key api.bnid; do you mean api.bind?",
            "no section [gatewys]; do you mean [gateways]?",
            "no key server.bind; do you mean api.bind?",
            "LOAM_STORE__RETENTION_DAY: there is no key store.retention_day; do you mean LOAM_STORE__RETENTION_DAYS?",
        ] {
            assert!(error.contains(part), "{part}\n---\n{error}");
        }
    }

    #[test]
    fn a_variable_with_one_underscore_too_few_is_noticed() {
        let error = load("", &[("LOAM_API_BIND", "127.0.0.1:1")]).unwrap_err();
        assert!(error.contains("LOAM_API__BIND"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_all_named_with_range_and_origin() {
        let file = "[network]\ndedup_window_ms = 5000\n[codec]\nthreads = 0\n";

        let error = load(file, &[("LOAM_STORE__RETENTION_DAYS", "0")]).unwrap_err();

        assert!(error.contains("network.dedup_window_ms (from "), "{error}");
        assert!(error.contains("5000 is out of range, 20 to 1000 ms"), "{error}");
        assert!(error.contains("codec.threads"), "{error}");
        assert!(error.contains("store.retention_days (from LOAM_STORE__RETENTION_DAYS): 0"), "{error}");
    }

    #[test]
    fn values_of_the_wrong_kind_are_named_by_key() {
        for (file, key, part) in [
            ("[api]\nbind = \"localhost\"", "api.bind", "127.0.0.1:8080"),
            ("[api]\nbind = 8080", "api.bind", "string"),
            ("[network]\nnet_id = \"13\"", "network.net_id", "6 hexadecimal digits"),
            ("[network]\nnet_id = \"+00013\"", "network.net_id", "6 hexadecimal digits"),
            ("[network]\ndefault_region = \"EU686\"", "network.default_region", "EU868"),
            ("[server]\nroles = [\"gateway\"]", "server.roles", "network-server"),
            ("[server]\nroles = []", "server.roles", "no role"),
            ("[server]\nroles = [\"join-server\", \"join-server\"]", "server.roles", "twice"),
            ("[server]\nlog_level = \"infoo\"", "server.log_level", "not understood"),
            (
                "[server]\nlog_level = \"info,{store=debug\"",
                "server.log_level",
                "\"{store=debug\" is not understood",
            ),
            ("[server]\nlog_format = \"xml\"", "server.log_format", "json"),
            ("[store]\nretention_days = -1", "store.retention_days", "-1"),
            ("[internal]\njoin_url = \"user:secret@host\"", "internal.join_url", "http://10.0.0.2:8081"),
            ("[join]\nkek_label = \"\"", "join.kek_label", "1 to 64"),
            ("[server]\ndata_dir = \"\"", "server.data_dir", "the path is empty"),
            ("[api]\ntls_cert = \"\"", "api.tls_cert", "the path is empty"),
            ("[internal]\ntoken_file = \"\"", "internal.token_file", "the path is empty"),
        ] {
            let error = load(file, &[]).unwrap_err();
            assert!(error.contains(key) && error.contains(part), "{file}\n---\n{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let error = load("", &[("LOAM_CODEC__THREADS", "many")]).unwrap_err();
        assert!(error.contains("LOAM_CODEC__THREADS: \"many\" is not a whole number"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_toml_is_refused_with_its_line() {
        let error = load("[api]\nbind = \n", &[]).unwrap_err();
        assert!(error.contains("not valid TOML") && error.contains("line 2"), "{error}");
        let missing = load_path(Path::new("no/such/loam.toml"), &[]).unwrap_err();
        assert!(missing.contains("no/such/loam.toml"), "{missing}");
    }

    #[test]
    fn clear_text_beyond_loopback_is_refused_unless_it_is_accepted() {
        let origins = Origins::default();
        let mut config = Config::default();
        config.api.bind = "0.0.0.0:8080".parse().unwrap();
        config.internal.bind = Some("10.0.0.1:8081".parse().unwrap());

        let error = config.check(&origins).unwrap_err().to_string();
        assert!(error.contains("api.bind") && error.contains("internal.bind"), "{error}");
        assert!(error.contains("--insecure"), "{error}");

        config.api.insecure = true;
        config.check(&origins).unwrap();

        config.api.insecure = false;
        config.api.tls_cert = Some(PathBuf::from("cert.pem"));
        let error = config.check(&origins).unwrap_err().to_string();
        assert!(error.contains("api.tls_key") && !error.contains("--insecure"), "{error}");

        config.api.tls_key = Some(PathBuf::from("key.pem"));
        config.check(&origins).unwrap();
    }

    #[test]
    fn a_role_on_its_own_needs_the_addresses_of_those_it_calls() {
        let mut config = Config::default();
        config.server.roles = vec![Role::NetworkServer];

        let error = config.check(&Origins::default()).unwrap_err().to_string();

        for key in ["internal.bind", "internal.token_file", "internal.join_url", "internal.bridge_url"] {
            assert!(error.contains(key), "{key}: {error}");
        }
        assert!(!error.contains("internal.network_url"), "{error}");
    }

    #[test]
    fn the_documentation_lists_every_key_with_its_default_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let text = std::fs::read_to_string(path).unwrap();
        let mut documented: Vec<(String, String)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .map(|row| {
                let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
                (cells.next().unwrap(), cells.next().unwrap())
            })
            .collect();
        documented.sort();
        let mut expected: Vec<(String, String)> = Config::default()
            .entries()
            .into_iter()
            .map(|(key, value)| {
                let value = if value.is_null() { "not set".to_owned() } else { value.to_string() };
                (key, value)
            })
            .collect();
        expected.sort();
        assert_eq!(documented, expected);
    }
}
