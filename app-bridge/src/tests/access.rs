//! Who may call, what is said to whom, and how much.

use bytes::Bytes;
use prost::Message;
use proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::world::{World, config, from_earliest};
use crate::Config;
use crate::serve::SERVICES;

/// API-002, API-001: no method of the public API answers without a key, whichever it is.
#[tokio::test]
async fn every_method_of_the_api_needs_a_key() {
    let world = World::new().await;
    let descriptors = prost_types::FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut called = 0;
    for file in descriptors.file.iter().filter(|file| file.package() == "loam.v1") {
        for service in &file.service {
            let name = format!("loam.v1.{}", service.name());
            assert!(SERVICES.contains(&name.as_str()), "{name} is not served");
            for method in &service.method {
                let path = format!("/{name}/{}", method.name());
                let status = call(&world.channel, &path, None).await.unwrap_err();
                assert_eq!(status.code(), Code::Unauthenticated, "{path} without a key");
                let status = call(&world.channel, &path, Some("Bearer loam_admin_00")).await.unwrap_err();
                assert_eq!(status.code(), Code::Unauthenticated, "{path} with a wrong key");
                let key = world.token().to_str().unwrap().to_owned();
                let answer = call(&world.channel, &path, Some(&key)).await;
                assert!(
                    answer.as_ref().err().is_none_or(|status| !matches!(
                        status.code(),
                        Code::Unauthenticated | Code::Unimplemented
                    )),
                    "{path} with the key: {answer:?}"
                );
                called += 1;
            }
        }
    }
    assert!(called >= 35, "only {called} methods were found");
    // What does not exist is closed too.
    for path in ["/loam.v1.EventService/Nothing", "/loam.internal.v1.PayloadService/TakePayload", "/x"] {
        assert_eq!(call(&world.channel, path, None).await.unwrap_err().code(), Code::Unauthenticated, "{path}");
    }
}

#[tokio::test]
async fn malformed_authorization_is_refused_in_words() {
    let world = World::new().await;
    let good = world.token().to_str().unwrap().to_owned();
    let path = "/loam.v1.ApplicationService/ListApplications";
    for bad in [
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer loam_",
        "Bearer loam_admin",
        "Bearer loam__",
        &good[..good.len() - 1],
        &format!("{good}0"),
    ] {
        let status = call(&world.channel, path, Some(bad)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{bad}");
        assert!(!status.message().contains(&good[20..]), "the key is not repeated");
    }
    call(&world.channel, path, Some(&good)).await.unwrap();
    call(&world.channel, path, Some(&good.replace("Bearer", "bearer"))).await.unwrap();
}

/// OPS-001.
#[tokio::test]
async fn the_admin_key_is_made_once_and_only_its_owner_reads_the_file() {
    let world = World::new().await;
    let file = world.key_file();
    let first = std::fs::read_to_string(&file).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    world.bridge.ensure_admin_key(&file).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), first);

    // The store has the hash alone.
    let stored = world.store.bridge().api_keys().await.unwrap();
    assert_eq!(stored.len(), 1);
    assert!(!first.contains(&hex::encode(stored[0].hash)));

    // A file that was lost is made again, and the lost key is worth nothing.
    std::fs::remove_file(&file).unwrap();
    world.bridge.ensure_admin_key(&file).await.unwrap();
    let second = std::fs::read_to_string(&file).unwrap();
    assert_ne!(first, second);
    let path = "/loam.v1.ApplicationService/ListApplications";
    call(&world.channel, path, Some(&format!("Bearer {}", second.trim()))).await.unwrap();
    let status = call(&world.channel, path, Some(&format!("Bearer {}", first.trim()))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn health_and_reflection_answer_without_a_key() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let world = World::new().await;
    let health = HealthClient::new(world.channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status, 1);

    let asked = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let stream = tokio_stream::once(asked);
    let mut answers = ServerReflectionClient::new(world.channel.clone())
        .server_reflection_info(stream)
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("no list of services: {answer:?}");
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in SERVICES {
        assert!(names.contains(&service), "{service} is not in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("internal")), "{names:?}");
}

/// A browser's call: gRPC-Web over HTTP/1.1, with the preflight before it.
#[tokio::test]
async fn grpc_web_is_served_on_the_same_port() {
    let world = World::new().await;
    let body = [0_u8; 5];
    let head = |extra: &str| {
        format!(
            "POST /loam.v1.ApplicationService/ListApplications HTTP/1.1\r\nhost: loam\r\norigin: http://farm.example\r\n\
             content-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\ncontent-length: 5\r\nconnection: close\r\n{extra}\r\n"
        )
    };
    let authorization = format!("authorization: {}\r\n", world.token().to_str().unwrap());
    let answer = http1(&world, &[head(&authorization).as_bytes(), &body].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("grpc-status:0") && answer.contains("access-control-allow-origin: *"), "{answer}");

    let refused = http1(&world, &[head("").as_bytes(), &body].concat()).await;
    assert!(refused.contains("grpc-status:16") || refused.contains("grpc-status: 16"), "{refused}");

    let preflight = "OPTIONS /loam.v1.EventService/Watch HTTP/1.1\r\nhost: loam\r\norigin: http://farm.example\r\n\
                     access-control-request-method: POST\r\naccess-control-request-headers: authorization,x-grpc-web\r\n\
                     connection: close\r\n\r\n";
    let answer = http1(&world, preflight.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("authorization"), "{answer}");
}

/// API-003.
#[tokio::test]
async fn requests_beyond_a_limit_are_refused() {
    let world = World::with(Config { streams_max: 2, ..config() }).await;
    let page = v1::ListApplicationsRequest { page_size: 1001, page_token: String::new() };
    assert_eq!(world.applications().list_applications(page).await.unwrap_err().code(), Code::InvalidArgument);

    let huge = v1::SetCodecRequest { id: "huge".to_owned(), script: " ".repeat(5 * 1024 * 1024) };
    let status = world.codecs().set_codec(huge).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    let long = v1::SetCodecRequest { id: "long".to_owned(), script: " ".repeat(300 * 1024) };
    assert_eq!(world.codecs().set_codec(long).await.unwrap_err().code(), Code::InvalidArgument);

    let mut talkative = Request::new(v1::ListApplicationsRequest::default());
    talkative.metadata_mut().insert("x-story", "x".repeat(100_000).parse().unwrap());
    world.applications().list_applications(talkative).await.unwrap_err();
    let short = v1::ListApplicationsRequest::default();
    world.applications().list_applications(short).await.expect("others are served as before");

    let first = world.watch(from_earliest()).await;
    let mut second = world.watch(from_earliest()).await;
    second.message().await;
    let status = world.events().watch(from_earliest()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    // A stream that ends makes room for another.
    drop(first);
    super::world::until("a stream may open", || async { world.events().watch(from_earliest()).await.is_ok() })
        .await;
}

async fn http1(world: &World, request: &[u8]) -> String {
    let mut socket = tokio::net::TcpStream::connect(world.address).await.unwrap();
    socket.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(super::world::PATIENCE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Calls a method with an empty message; the first message of a stream counts as the answer.
async fn call(channel: &Channel, path: &str, authorization: Option<&str>) -> Result<(), Status> {
    let mut request = Request::new(Bytes::new());
    if let Some(value) = authorization {
        request.metadata_mut().insert("authorization", value.parse().unwrap());
    }
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let answer = client.server_streaming(request, path.parse().unwrap(), Plain).await?;
    answer.into_inner().message().await.map(drop)
}

/// Messages as bytes.
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, _: Bytes, _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = ();
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        bytes::Buf::advance(buffer, bytes::Buf::remaining(buffer));
        Ok(Some(()))
    }
}
