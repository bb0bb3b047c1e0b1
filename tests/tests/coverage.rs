//! Nothing is left out: every reason is counted and explained, every call is guarded, every setting works.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use loam_tests::story::{self, Stand};
use loam_tests::{DEADLINE, Loam};
use mac::drop_reason::DropReason;
use prost::Message as _;
use prost_types::{FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto};
use proto::v1;
use tonic::Code;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

/// Invariant 7: a reason that is in the code is on the page, in the metrics and in `GetInfo`, before it is ever met.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_drop_reason_is_counted_and_explained() {
    let stand = Stand::set_up().await;
    let codes: BTreeSet<String> = DropReason::ALL.iter().map(|reason| reason.code().to_owned()).collect();

    let page = fs::read_to_string(root().join("docs/drop-reasons.md")).expect("the page");
    let documented: BTreeSet<String> =
        table_rows(&page).into_iter().filter_map(|row| unquoted(&row[0]).map(str::to_owned)).collect();
    assert_eq!(documented, codes);

    let (status, metrics) = story::http_get(stand.loam.api, "/metrics").await;
    assert_eq!(status, 200);
    let counted: BTreeSet<String> =
        story::counters(&metrics, "loam_drops_total", "reason").into_keys().collect();
    assert_eq!(counted, codes);
    let mut client = stand.client.clone();
    let info = client.system.get_info(v1::GetInfoRequest {}).await.expect("an answer").into_inner();
    for code in info.drops.keys() {
        assert!(codes.contains(code), "{code}");
    }
}

/// API-002: what is not on the short list of open services needs a key; reflection tells what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_without_a_key_is_unauthenticated() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let loam = Loam::start(&dir.path().join("data"));
    let channel = Endpoint::from_shared(format!("http://{}", loam.api))
        .expect("a URL")
        .connect()
        .await
        .expect("a channel");

    let services = reflected_services(&channel).await;
    let check = MethodDescriptorProto { name: Some("Check".into()), ..MethodDescriptorProto::default() };
    assert_eq!(
        call(&channel, "grpc.health.v1.Health", &check, None).await,
        Code::Ok,
        "health is for everybody"
    );
    let mut methods = 0;
    for (service, descriptor) in services.iter().filter(|(name, _)| name.starts_with("loam.")) {
        assert!(service.starts_with("loam.v1."), "{service} is between roles and has no place here");
        for method in &descriptor.method {
            for authorization in
                [None, Some("Bearer loam_admin_0000"), Some("Basic YWRtaW46YWRtaW4="), Some("")]
            {
                let code = call(&channel, service, method, authorization).await;
                assert_eq!(code, Code::Unauthenticated, "{service}/{} with {authorization:?}", method.name());
            }
            methods += 1;
        }
    }
    // As many as the API has: reflection hides none.
    let expected = v1_methods();
    assert!(methods >= 30, "{methods}");
    assert_eq!(methods, expected);

    // Nothing was made, and with the key it all works.
    let mut client = loam.client();
    let list = client.applications.list_applications(v1::ListApplicationsRequest::default()).await;
    assert!(list.expect("a list").into_inner().applications.is_empty());
    let refused = client_without_key(&loam).await;
    assert!(refused.message().contains("API key"), "{refused:?}");
    let (_, metrics) = story::http_get(loam.api, "/metrics").await;
    assert!(!metrics.contains("loam_admin_0000"));
}

/// Every key of docs/configuration.md is taken from the file and from the environment, and the page has them all.
#[test]
fn every_configuration_key_of_the_page_works_and_none_is_missing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let page = fs::read_to_string(root().join("docs/configuration.md")).expect("the page");
    let mut settings: BTreeMap<String, String> = BTreeMap::new();
    for row in table_rows(&page) {
        let Some(key) = unquoted(&row[0]).filter(|key| key.contains('.') && row.len() == 4) else { continue };
        let default = unquoted(&row[1]).unwrap_or_else(|| panic!("{key} has a default")).to_owned();
        settings.insert(key.to_owned(), default);
    }
    assert!(settings.len() > 25, "{settings:?}");
    let printed = config_print(dir.path(), "", &[]);
    let known: BTreeSet<&String> = printed.keys().collect();
    assert_eq!(settings.keys().collect::<BTreeSet<_>>(), known, "the page and the program have the same keys");
    for (key, default) in &settings {
        let shown = &printed[key]["value"];
        let expected: serde_json::Value = if default == "not set" {
            serde_json::Value::Null
        } else {
            serde_json::from_str(default).unwrap_or_else(|error| panic!("{key} = {default}: {error}"))
        };
        if key == "server.roles" {
            assert_eq!(sorted(shown), sorted(&expected));
        } else {
            assert_eq!(shown, &expected, "the default of {key}");
        }
    }

    // Each of them with another value than its default, from a file and from the environment.
    for (key, text) in OTHERS {
        assert!(settings.contains_key(*key), "{key} is not on the page");
        let (section, name) = key.split_once('.').expect("section and key");
        let companions: Vec<(&str, &str)> =
            COMPANIONS.iter().filter(|(of, _, _)| of == key).map(|(_, k, v)| (*k, *v)).collect();
        let mut file = format!("[{section}]\n{name} = {text}\n");
        for (companion, value) in &companions {
            let (_, name) = companion.split_once('.').expect("section and key");
            file.push_str(&format!("{name} = {value}\n"));
        }
        let printed = config_print(dir.path(), &file, &[]);
        let expected: serde_json::Value =
            serde_json::from_str(text).expect("TOML of one line that is JSON too");
        assert_eq!(printed[*key]["value"], expected, "{key} from the file");
        assert!(printed[*key]["origin"].as_str().is_some_and(|origin| origin.contains("loam.toml")), "{key}");

        // A list is written with commas, text without quotes.
        let plain = text.replace(['[', ']', '"'], "");
        let variable = |key: &str| format!("LOAM_{}", key.replace('.', "__").to_uppercase());
        let mut environment = vec![(variable(key), plain)];
        environment
            .extend(companions.iter().map(|(key, value)| (variable(key), value.trim_matches('"').to_owned())));
        let printed = config_print(dir.path(), "", &environment);
        assert_eq!(printed[*key]["value"], expected, "{key} from the environment");
        assert_eq!(printed[*key]["origin"], variable(key).as_str());
    }
    let tried: BTreeSet<&str> = OTHERS.iter().map(|(key, _)| *key).collect();
    let untried: Vec<_> = settings.keys().filter(|key| !tried.contains(key.as_str())).collect();
    assert!(untried.is_empty(), "give these another value here too: {untried:?}");
}

/// Each key with a value that is not its default.
const OTHERS: &[(&str, &str)] = &[
    ("server.roles", r#"["app-bridge","join-server","network-server"]"#),
    ("server.data_dir", r#""elsewhere""#),
    ("server.log_format", r#""json""#),
    ("server.log_level", r#""info,store=debug""#),
    ("api.bind", r#""127.0.0.1:9000""#),
    ("api.tls_cert", r#""cert.pem""#),
    ("api.tls_key", r#""key.pem""#),
    ("api.insecure", "true"),
    ("gateways.udp_bind", r#""127.0.0.1:1701""#),
    ("gateways.receive_buffer_bytes", "65536"),
    ("gateways.receiver_threads", "2"),
    ("gateways.auto_register", "true"),
    ("gateways.auto_register_region", r#""US915""#),
    ("network.net_id", r#""00000f""#),
    ("network.dedup_window_ms", "100"),
    ("network.owner_threads", "2"),
    ("network.default_region", r#""IN865""#),
    ("join.kek_label", r#""loam-2""#),
    ("store.retention_days", "30"),
    ("store.retention_max_bytes", "16777216"),
    ("store.group_commit_max_delay_ms", "10"),
    ("store.group_commit_max_steps", "100"),
    ("store.checkpoint_period_s", "30"),
    ("codec.threads", "2"),
    ("codec.time_limit_ms", "100"),
    ("codec.memory_limit_bytes", "1048576"),
    ("codec.stack_limit_bytes", "65536"),
    ("internal.bind", r#""127.0.0.1:8181""#),
    ("internal.token_file", r#""token""#),
    ("internal.network_url", r#""http://10.0.0.2:8181""#),
    ("internal.join_url", r#""http://10.0.0.2:8182""#),
    ("internal.bridge_url", r#""https://10.0.0.2:8183""#),
];

/// What some of them need beside them.
const COMPANIONS: &[(&str, &str, &str)] =
    &[("api.tls_cert", "api.tls_key", r#""key.pem""#), ("api.tls_key", "api.tls_cert", r#""cert.pem""#)];

// ---- words of these tests ------------------------------------------------------------------------------------------

/// Runs `loam config print` with this file and environment.
fn config_print(
    directory: &Path,
    file: &str,
    environment: &[(String, String)],
) -> BTreeMap<String, serde_json::Value> {
    fs::write(directory.join("loam.toml"), file).expect("a file");
    let output = Command::new(loam_tests::binary())
        .args(["config", "print", "--output", "json"])
        .current_dir(directory)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .output()
        .expect("the loam binary is built before the tests");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{file}{environment:?}: {err}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The cells of every row of every table of a page, without heads and rules.
fn table_rows(page: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(inner.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>())
    };
    page.lines().filter_map(cells).filter(|row| !row[0].starts_with('-')).collect()
}

/// What stands between back-ticks, where that is all there is.
fn unquoted(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

fn sorted(list: &serde_json::Value) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().map(ToString::to_string).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

/// Every service the server tells of.
async fn reflected_services(channel: &Channel) -> BTreeMap<String, ServiceDescriptorProto> {
    let answer = reflect(channel, MessageRequest::ListServices(String::new())).await;
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("no list of services: {answer:?}")
    };
    let mut services = BTreeMap::new();
    for service in list.service {
        let answer = reflect(channel, MessageRequest::FileContainingSymbol(service.name.clone())).await;
        let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else {
            panic!("{} is not described: {answer:?}", service.name)
        };
        for bytes in files.file_descriptor_proto {
            let file = FileDescriptorProto::decode(bytes.as_slice()).expect("a descriptor");
            for descriptor in &file.service {
                services.insert(format!("{}.{}", file.package(), descriptor.name()), descriptor.clone());
            }
        }
        assert!(services.contains_key(&service.name), "{}", service.name);
    }
    services
}

async fn reflect(channel: &Channel, question: MessageRequest) -> ServerReflectionResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(channel.clone());
    let ask = async {
        let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await?.into_inner();
        answers.message().await
    };
    let answer = tokio::time::timeout(DEADLINE, ask).await.expect("an answer in time");
    answer.expect("reflection needs no key").expect("one answer")
}

/// Calls a method with an empty message; gives the status.
async fn call(
    channel: &Channel,
    service: &str,
    method: &MethodDescriptorProto,
    authorization: Option<&str>,
) -> Code {
    let path: http::uri::PathAndQuery = format!("/{service}/{}", method.name()).parse().expect("a path");
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.expect("the server is there");
    let mut request = tonic::Request::new(());
    if let Some(value) = authorization {
        request.metadata_mut().insert("authorization", value.parse().expect("ASCII"));
    }
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let asked = async {
        if method.server_streaming() {
            grpc.server_streaming(request, path, codec).await.map(drop)
        } else {
            grpc.unary(request, path, codec).await.map(drop)
        }
    };
    match tokio::time::timeout(DEADLINE, asked).await.expect("an answer in time") {
        Ok(()) => Code::Ok,
        Err(status) => status.code(),
    }
}

/// How many methods the public API has, from the descriptors this test was built with.
fn v1_methods() -> usize {
    let set = prost_types::FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).expect("descriptors");
    let services = set.file.iter().filter(|file| file.package() == "loam.v1").flat_map(|file| &file.service);
    services.map(|service| service.method.len()).sum()
}

async fn client_without_key(loam: &Loam) -> tonic::Status {
    let channel = Endpoint::from_shared(format!("http://{}", loam.api)).expect("a URL").connect_lazy();
    let mut client = v1::system_service_client::SystemServiceClient::new(channel);
    client.get_info(v1::GetInfoRequest {}).await.expect_err("there is no key")
}
