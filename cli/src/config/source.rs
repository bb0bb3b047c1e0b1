//! Where configuration comes from: file and environment are laid over the defaults, and each value remembers its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::Value as Json;
use toml::{Table, Value};

use super::{Config, ConfigProblems};
use crate::words;

/// Where a value comes from.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Origin {
    /// Built in.
    #[default]
    Default,
    /// A flag of the command line.
    CommandLine(&'static str),
    /// An environment variable.
    Environment(String),
    /// The configuration file.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::CommandLine(flag) => f.write_str(flag),
            Self::Environment(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The origin of each key that is not a default.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where `section.key` comes from.
    pub(crate) fn of(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or_default()
    }

    /// Notes that a flag replaced a value.
    pub(crate) fn set(&mut self, key: &str, origin: Origin) {
        self.0.insert(key.to_owned(), origin);
    }

    /// `api.bind (from loam.toml)`, for messages.
    pub(crate) fn named(&self, key: &str) -> String {
        match self.0.get(key) {
            None => format!("{key} (the default)"),
            Some(origin) => format!("{key} (from {origin})"),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read: {source}", path.display())]
    File {
        /// As it was named.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{} is not valid TOML: {message}", path.display())]
    Syntax {
        /// As it was named.
        path: PathBuf,
        /// With line and column.
        message: String,
    },
    /// Keys or values are wrong.
    #[error(transparent)]
    Problems(#[from] ConfigProblems),
}

impl Config {
    /// Reads the file, lays the environment over it, and checks every key and value.
    ///
    /// Without `path`, `./loam.toml` is read if it exists; else the defaults hold. Variables are named `LOAM_SECTION__KEY`.
    /// What depends on several keys at once (TLS, roles) is left to [`Config::check`], because flags may still change it.
    pub(crate) fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Origins), ConfigError> {
        let Some(path) = path.map(Path::to_owned).or_else(file_in_this_directory) else {
            return Self::read(None, environment);
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::read(Some((path, &text)), environment),
            Err(source) => Err(ConfigError::File { path, source }),
        }
    }

    /// Lays the environment over a file's text, and checks every key and value.
    pub(crate) fn read(
        file: Option<(PathBuf, &str)>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Origins), ConfigError> {
        let known = known_keys();
        let mut problems = ConfigProblems::default();
        let mut origins = Origins::default();

        let mut table = Table::new();
        if let Some((path, text)) = file {
            table = parse(text, &path)?;
            refuse_unknown_keys(&table, &known, &path, &mut problems);
            for (section, keys) in &table {
                for key in keys.as_table().into_iter().flat_map(Table::keys) {
                    origins.set(&format!("{section}.{key}"), Origin::File(path.clone()));
                }
            }
        }
        for (name, text) in environment {
            lay_over(&mut table, &name, &text, &known, &mut origins, &mut problems);
        }
        problems.into_result()?;

        let config: Self = serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
            let key = error.path().to_string();
            let message = error.into_inner().to_string();
            // An element of a list is named by its list: `server.roles[0]`.
            let key_without_index = key.split('[').next().unwrap_or(&key);
            ConfigProblems::one(&origins, key_without_index, message.trim())
        })?;
        config.check_values(&origins)?;
        Ok((config, origins))
    }

    /// Every `section.key` with its value as JSON; null stands for a value that is not set.
    pub(crate) fn entries(&self) -> Vec<(String, Json)> {
        let Ok(Json::Object(sections)) = serde_json::to_value(self) else {
            return Vec::new();
        };
        let mut entries = Vec::new();
        for (section, keys) in sections {
            let Json::Object(keys) = keys else { continue };
            entries.extend(keys.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
        }
        entries
    }
}

/// Each known key and what its default looks like, which tells how a variable's text is read.
fn known_keys() -> BTreeMap<String, Json> {
    Config::default().entries().into_iter().collect()
}

fn file_in_this_directory() -> Option<PathBuf> {
    let path = PathBuf::from("loam.toml");
    path.exists().then_some(path)
}

fn parse(text: &str, path: &Path) -> Result<Table, ConfigError> {
    let deserializer = toml::Deserializer::parse(text);
    deserializer.and_then(Table::deserialize).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })
}

fn refuse_unknown_keys(
    table: &Table,
    known: &BTreeMap<String, Json>,
    path: &Path,
    problems: &mut ConfigProblems,
) {
    let place = path.display();
    for (section, value) in table {
        let Some(keys) = value.as_table() else {
            // A key above the first [section], or one that lost its section.
            let near = nearest_key(section, known);
            problems.add(format!("{place}: {section:?} stands outside of a section{near}"));
            continue;
        };
        let prefix = format!("{section}.");
        if !known.keys().any(|key| key.starts_with(&prefix)) {
            let sections = known.keys().filter_map(|key| key.split_once('.').map(|(s, _)| s));
            let near = words::nearest(section, sections.map(|s| (s.to_owned(), s)));
            let near = near.map_or_else(String::new, |s| format!("; do you mean [{s}]?"));
            problems.add(format!("{place}: there is no section [{section}]{near}"));
            continue;
        }
        for key in keys.keys() {
            let full = format!("{prefix}{key}");
            if !known.contains_key(&full) {
                let near = nearest_key(&full, known);
                problems.add(format!("{place}: there is no key {full}{near}"));
            }
        }
    }
}

fn nearest_key(typed: &str, known: &BTreeMap<String, Json>) -> String {
    // A key typed without its section, or under the wrong one, is as near as its own name.
    let own = typed.rsplit('.').next().unwrap_or(typed);
    let same_name = known.keys().find(|key| key.rsplit('.').next() == Some(own));
    let near = same_name
        .map(String::as_str)
        .or_else(|| words::nearest(typed, known.keys().map(|key| (key.clone(), key.as_str()))));
    near.map_or_else(String::new, |key| format!("; do you mean {key}?"))
}

/// Lays one environment variable over the table, if it is one of ours.
fn lay_over(
    table: &mut Table,
    name: &str,
    text: &str,
    known: &BTreeMap<String, Json>,
    origins: &mut Origins,
    problems: &mut ConfigProblems,
) {
    let Some(rest) = name.strip_prefix("LOAM_") else { return };
    let Some((section, key)) = rest.split_once("__") else {
        // LOAM_API_BIND is a slip for LOAM_API__BIND; LOAM_SERVER and LOAM_API_KEY belong to the command line.
        let folded = rest.to_lowercase();
        if let Some(key) = known.keys().find(|key| key.replace('.', "_") == folded) {
            problems.add(format!("{name}: two underscores part section and key: {}", variable(key)));
        }
        return;
    };
    let full = format!("{}.{}", section.to_lowercase(), key.to_lowercase());
    let Some(default) = known.get(&full) else {
        let near = words::nearest(&full, known.keys().map(|key| (key.clone(), key.as_str())));
        let near = near.map_or_else(String::new, |key| format!("; do you mean {}?", variable(key)));
        problems.add(format!("{name}: there is no key {full}{near}"));
        return;
    };
    if default.is_null() && text.is_empty() {
        // An empty variable takes an optional value away.
        if let Some(keys) = table.get_mut(&section.to_lowercase()).and_then(Value::as_table_mut) {
            keys.remove(&key.to_lowercase());
        }
        origins.set(&full, Origin::Environment(name.to_owned()));
        return;
    }
    let value = match default {
        Json::Array(_) => {
            Ok(Value::Array(text.split(',').map(|item| Value::String(item.trim().to_owned())).collect()))
        }
        Json::Bool(_) => {
            text.parse().map(Value::Boolean).map_err(|_| format!("{name}: {text:?} is neither true nor false"))
        }
        Json::Number(_) => {
            text.parse().map(Value::Integer).map_err(|_| format!("{name}: {text:?} is not a whole number"))
        }
        Json::Null | Json::Object(_) | Json::String(_) => Ok(Value::String(text.to_owned())),
    };
    match value {
        Err(problem) => problems.add(problem),
        Ok(value) => {
            let keys = table.entry(section.to_lowercase()).or_insert_with(|| Value::Table(Table::new()));
            if let Some(keys) = keys.as_table_mut() {
                keys.insert(key.to_lowercase(), value);
                origins.set(&full, Origin::Environment(name.to_owned()));
            }
        }
    }
}

fn variable(key: &str) -> String {
    format!("LOAM_{}", key.replace('.', "__").to_uppercase())
}
