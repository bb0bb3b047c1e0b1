//! The rules of ARCHITECTURE.md that a program can check: who may depend on whom, what is pure, which licences come in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Licences that ask for nothing but their text.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo writes JSON")
}

fn packages(metadata: &Value) -> &[Value] {
    metadata["packages"].as_array().expect("cargo lists packages")
}

#[test]
fn every_dependency_has_a_licence_that_loam_may_be_shipped_with() {
    let metadata = metadata();
    let mut refused = BTreeMap::new();
    for package in packages(&metadata) {
        let name = package["name"].as_str().expect("a name");
        let licence = package["license"].as_str().unwrap_or("none named");
        // "A OR B" needs one of them, "A AND B" all; exceptions only widen.
        let fits = licence.replace('/', " OR ").replace(['(', ')'], "").split(" OR ").any(|choice| {
            choice.split(" AND ").all(|one| {
                let one = one.split(" WITH ").next().unwrap_or(one).trim();
                LICENCES.contains(&one)
            })
        });
        if !fits {
            refused.insert(name, licence);
        }
    }
    assert!(refused.is_empty(), "not in the list of licences: {refused:#?}");
}

#[test]
fn roles_do_not_depend_on_each_other() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("seam", &[][..]),
        // Only for planted bugs, see docs/proof.md.
        ("mac", &["seam"]),
        ("proto", &["mac"]),
        ("store", &["seam", "mac", "proto"]),
        ("network-server", &["seam", "mac", "proto", "store"]),
        ("join-server", &["seam", "mac", "proto", "store"]),
        ("app-bridge", &["seam", "mac", "proto", "store"]),
        ("simulator", &["mac"]),
    ]);
    let ours: BTreeSet<&str> = packages(&metadata)
        .iter()
        .filter(|p| p["source"].is_null())
        .map(|p| p["name"].as_str().expect("a name"))
        .collect();
    for (krate, may_use) in allowed {
        for dependency in dependencies(&metadata, krate) {
            if ours.contains(dependency.as_str()) {
                assert!(may_use.contains(&dependency.as_str()), "{krate} must not use {dependency}");
            }
        }
    }
}

#[test]
fn mac_stays_pure() {
    let metadata = metadata();
    let used: BTreeSet<String> = dependencies(&metadata, "mac").into_iter().collect();
    let allowed = ["aes", "cmac", "generic-array", "lorawan", "seam", "subtle", "thiserror", "zeroize"];
    for dependency in &used {
        assert!(allowed.contains(&dependency.as_str()), "mac is pure and must not use {dependency}");
    }
    let forbidden =
        ["SystemTime", "Instant::now", "std::net", "std::fs", "std::env", "HashMap", "thread::", "async fn"];
    for file in rust_files(&root().join("mac/src")) {
        let text = std::fs::read_to_string(&file).expect("readable");
        for word in forbidden {
            assert!(!text.contains(word), "{} names {word}", file.display());
        }
    }
}

/// CRYPTO-024: a comparison of secrets that ends at the first difference tells where it is.
#[test]
fn keys_and_mics_are_compared_in_constant_time_and_keys_are_wiped() {
    let text = |file: &str| std::fs::read_to_string(root().join(file)).expect("readable");
    for (file, types) in [("mac/src/keys.rs", "$name"), ("mac/src/crypto.rs", "Mic")] {
        let text = text(file);
        let equality =
            text.split(&format!("impl PartialEq for {types} {{")).nth(1).expect("it is written by hand");
        assert!(equality.split("\n}").next().is_some_and(|body| body.contains(".ct_eq(")), "{file}");
        let head = text.split(&format!("pub struct {types}(")).next().expect("it is there");
        let derives = head.rsplit("#[derive(").next().expect("it derives something");
        assert!(!derives.contains("PartialEq") && !derives.contains("Hash"), "{file}: {derives}");
    }
    assert!(text("mac/src/keys.rs").contains("#[derive(Clone, Zeroize, ZeroizeOnDrop)]"));
    for krate in ["mac", "proto", "store", "network-server", "join-server", "app-bridge", "cli"] {
        for file in rust_files(&root().join(krate).join("src")) {
            let text = std::fs::read_to_string(&file).expect("readable");
            let product = text.split("#[cfg(test)]").next().expect("the first part");
            let compared =
                product.lines().find(|line| line.contains(".expose() ==") || line.contains("== key.expose()"));
            assert_eq!(compared, None, "{}: compare the keys, not their bytes", file.display());
        }
    }
}

/// The lints are denied at the root of each crate that reads what others wrote, so no file of it escapes. An exception is proven where it
/// stands, and is in this list.
#[test]
fn what_others_write_is_read_without_panics_indexing_and_unchecked_arithmetic() {
    let exceptions = BTreeSet::from([
        ("app-bridge/src/api/provision.rs", "indexing_slicing"),
        ("app-bridge/src/decode.rs", "expect_used"),
        ("app-bridge/src/queue/mod.rs", "indexing_slicing"),
        ("app-bridge/src/serve.rs", "expect_used"),
        ("cli/src/demo.rs", "arithmetic_side_effects"),
        ("cli/src/demo.rs", "indexing_slicing"),
        ("cli/src/serve/parts.rs", "expect_used"),
        ("join-server/src/server.rs", "indexing_slicing"),
        ("mac/src/airtime.rs", "arithmetic_side_effects"),
        ("mac/src/duty.rs", "indexing_slicing"),
        ("mac/src/region/as923.rs", "arithmetic_side_effects"),
        ("mac/src/region/fixed.rs", "arithmetic_side_effects"),
        ("mac/src/region/fixed.rs", "indexing_slicing"),
        ("network-server/src/index.rs", "indexing_slicing"),
        ("network-server/src/owner.rs", "indexing_slicing"),
        ("store/src/seal.rs", "expect_used"),
    ]);
    let mut found = BTreeSet::new();
    for krate in ["app-bridge", "cli", "join-server", "mac", "network-server", "proto", "store"] {
        let head = std::fs::read_to_string(root().join(krate).join("src/lib.rs")).expect("readable");
        let head: String = head.split_whitespace().collect();
        let denied = head.split("#![cfg_attr(not(test),deny(").nth(1).and_then(|rest| rest.split("))]").next());
        let denied: Vec<&str> = denied.unwrap_or_default().split(',').collect();
        assert_eq!(denied, NO_PANIC.map(|lint| format!("clippy::{lint}")), "{krate}");
        for file in rust_files(&root().join(krate).join("src")) {
            let text = std::fs::read_to_string(&file).expect("readable").replace("[expect(", "[allow(");
            let name = file.strip_prefix(root()).expect("in the repository").to_string_lossy().into_owned();
            // Without a reason it stands in a test: elsewhere a lint asks for one.
            let allowed = text.split("allow(").skip(1).filter_map(|rest| rest.split(")]").next());
            for allow in allowed.filter(|allow| allow.contains("reason = ")) {
                let lints = NO_PANIC.iter().filter(|lint| allow.contains(&format!("clippy::{lint}")));
                found.extend(lints.map(|lint| (name.clone(), *lint)));
            }
        }
    }
    assert_eq!(found.iter().map(|(name, lint)| (name.as_str(), *lint)).collect::<BTreeSet<_>>(), exceptions);
}

#[test]
fn no_crate_escapes_the_ban_on_unsafe_code() {
    let manifest = |folder: &Path| std::fs::read_to_string(folder.join("Cargo.toml")).expect("readable");
    let workspace = manifest(&root());
    let lints = workspace.split("[workspace.lints.rust]").nth(1).expect("the workspace has lints");
    let lints = lints.split("\n[").next().expect("the first part");
    assert!(lints.contains("\nunsafe_code = \"forbid\"\n"), "the workspace does not forbid it");

    let metadata = metadata();
    let mut crates = BTreeSet::new();
    for package in packages(&metadata).iter().filter(|p| p["source"].is_null()) {
        let folder = Path::new(package["manifest_path"].as_str().expect("a path")).parent().expect("a folder");
        let lints = "\n[lints]\nworkspace = true\n";
        assert!(manifest(folder).contains(lints), "{} does not take the workspace's lints", folder.display());
        crates.insert(folder.to_owned());
    }
    for entry in std::fs::read_dir(root()).expect("readable") {
        let folder = entry.expect("readable").path();
        if folder.join("Cargo.toml").exists() && !crates.contains(&folder) {
            let lints = "\n[lints.rust]\nunsafe_code = \"forbid\"\n";
            assert!(manifest(&folder).contains(lints), "{} does not forbid it", folder.display());
        }
    }
}

/// A simulation replaces both in `seam`; a second door would make it see another world than the roles.
#[test]
fn roles_ask_only_the_seam_for_the_wall_clock_and_for_randomness() {
    for krate in ["mac", "proto", "store", "network-server", "join-server", "app-bridge"] {
        for file in rust_files(&root().join(krate).join("src")) {
            let text = std::fs::read_to_string(&file).expect("readable");
            for word in ["SystemTime", "rand::"] {
                assert!(!text.contains(word), "{} names {word}: ask `seam`", file.display());
            }
        }
    }
}

/// The killer ends the server at each point of the list; a point that is missing there would never be tried.
#[test]
fn every_crash_point_is_in_the_list_and_in_one_place_of_the_code() {
    let mut found = Vec::new();
    for krate in ["store", "network-server", "join-server", "app-bridge", "cli"] {
        for file in rust_files(&root().join(krate).join("src")) {
            let text = std::fs::read_to_string(&file).expect("readable");
            let calls = text.split("crash_point(\"").skip(1);
            found.extend(calls.map(|rest| rest.split('"').next().expect("a literal").to_owned()));
        }
    }
    found.sort();
    assert_eq!(found, seam::CRASH_POINTS);
}

#[test]
fn a_binary_that_is_delivered_has_no_crash_points() {
    let metadata = metadata();
    for package in packages(&metadata).iter().filter(|p| p["source"].is_null()) {
        let default = &package["features"]["default"];
        assert!(default.is_null(), "{}: features of tests must be asked for", package["name"]);
    }
    let makefile = std::fs::read_to_string(root().join("Makefile")).expect("readable");
    let with = makefile.lines().filter(|line| line.contains("crash-points"));
    let with: Vec<&str> = with.filter(|line| !line.starts_with('#')).collect();
    assert_eq!(with, ["FOR_TESTS = --features cli/crash-points"]);
    let mut target = "";
    for line in makefile.lines() {
        if let Some((name, _)) = line.split_once(':').filter(|_| !line.starts_with(['\t', '#', '.'])) {
            target = name;
        }
        let tests = ["test", "conformance"].contains(&target);
        assert!(tests || !line.contains("$(FOR_TESTS)"), "`make {target}` builds with crash points");
    }
}

#[test]
fn no_queue_in_a_role_is_unbounded() {
    for krate in ["store", "network-server", "join-server", "app-bridge"] {
        for file in rust_files(&root().join(krate).join("src")) {
            let text = std::fs::read_to_string(&file).expect("readable");
            assert!(!text.contains("unbounded"), "{}: every queue has a bound", file.display());
        }
    }
}

#[test]
fn every_migration_is_one_numbered_file() {
    let mut numbers = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("migrations/sqlite")).expect("the folder is there") {
        let name = entry.expect("readable").file_name().into_string().expect("an ASCII name");
        let (number, rest) = name.split_once('_').expect("NNNN_name.sql");
        assert_eq!(number.len(), 4, "{name}");
        assert!(rest.ends_with(".sql"), "{name}");
        assert!(numbers.insert(number.parse::<u32>().expect("a number")), "{name} has a number twice");
    }
    let last = u32::try_from(numbers.len()).expect("few files");
    assert_eq!(numbers, (1..=last).collect(), "numbers go up one by one");
}

/// A target that nobody replays would rot, and a corpus that only grows would be replayed by nobody.
#[test]
fn every_fuzz_target_has_a_small_corpus_that_the_tests_replay() {
    let fuzz = root().join("fuzz");
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(fuzz.join(folder)).expect("the folder is there");
        let name = |path: PathBuf| path.file_stem().map(|name| name.to_string_lossy().into_owned());
        entries.filter_map(|entry| name(entry.expect("readable").path())).collect()
    };
    let targets = names("fuzz_targets");
    assert_eq!(names("corpus"), targets, "one folder of inputs for each target");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).expect("readable");
    let proof = std::fs::read_to_string(root().join("docs/proof.md")).expect("readable");
    let mut bytes = 0;
    for target in &targets {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not built");
        assert!(proof.contains(&format!("| `{target}` |")), "docs/proof.md does not tell of {target}");
        let text = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{target}.rs"))).expect("readable");
        let call = text.split("|bytes: &[u8]| ").nth(1).expect("it calls one function");
        let krate = call.split("::").next().expect("of a crate").replace('_', "-");
        let module = std::fs::read_to_string(root().join(krate).join("src/fuzz.rs")).expect("readable");
        let replayed = module.split("replayed! {").nth(1).expect("the crate replays");
        assert!(replayed.contains(&format!("    {target},\n")), "{target} is not replayed");
        let files: Vec<_> = std::fs::read_dir(fuzz.join("corpus").join(target)).expect("readable").collect();
        assert!((1..=400).contains(&files.len()), "{target} has {} inputs", files.len());
        for file in files {
            bytes += file.and_then(|file| file.metadata()).expect("readable").len();
        }
    }
    assert!(bytes < 2_000_000, "the corpus has {bytes} bytes");
}

/// What the root of a crate denies that reads what others wrote; CONTRIBUTING.md tells what stands in its place.
const NO_PANIC: [&str; 10] = [
    "allow_attributes_without_reason",
    "arithmetic_side_effects",
    "expect_used",
    "indexing_slicing",
    "panic",
    "string_slice",
    "todo",
    "unimplemented",
    "unreachable",
    "unwrap_used",
];

/// What stands above the README's words in the example.
const EXAMPLE_HEAD: &str =
    "//! The consumer of the README, word for word.\n#![allow(clippy::print_stdout)]\n\n";

/// Dependencies a crate builds with, without those of its tests.
fn dependencies(metadata: &Value, krate: &str) -> Vec<String> {
    let package = packages(metadata).iter().find(|p| p["name"] == krate && p["source"].is_null());
    let dependencies = package.expect("a crate of ours")["dependencies"].as_array().expect("a list");
    dependencies
        .iter()
        .filter(|d| d["kind"].is_null())
        .map(|d| d["name"].as_str().expect("a name").to_owned())
        .collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn the_consumers_in_the_readme_are_the_examples_that_compile_and_fit_25_lines() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("readable");
    for (language, example) in [("rust", "consumer.rs"), ("python", "consumer.py")] {
        let block = readme.split(&format!("```{language}\n")).nth(1).and_then(|rest| rest.split("```").next());
        let block = block.expect("the README shows a consumer");
        let text = std::fs::read_to_string(root().join("tests/examples").join(example)).expect("readable");
        let code = text.strip_prefix(EXAMPLE_HEAD).unwrap_or(&text);
        assert_eq!(block.trim(), code.trim(), "{example} and the README differ");
        assert!(block.trim().lines().count() < 25, "{example} has {} lines", block.trim().lines().count());
    }
}
