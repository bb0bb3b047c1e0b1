//! The consumer of the README, word for word.
#![allow(clippy::print_stdout)]

use proto::v1::{event::Kind, event_service_client::EventServiceClient, watch_response::Item, *};
use tonic::{Request, metadata::AsciiMetadataValue};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = std::fs::read_to_string("loam-data/admin.key")?;
    let auth: AsciiMetadataValue = format!("Bearer {}", key.trim()).parse()?;
    let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:8080").connect().await?;
    let mut events = EventServiceClient::with_interceptor(channel, move |mut call: Request<()>| {
        call.metadata_mut().insert("authorization", auth.clone());
        Ok(call)
    });
    let consumer = "my-consumer".to_owned();
    let mut stream =
        events.watch(WatchRequest { consumer: consumer.clone(), ..Default::default() }).await?.into_inner();
    while let Some(message) = stream.message().await? {
        if let Some(Item::Event(Event { dev_eui, kind: Some(Kind::Uplink(uplink)), .. })) = message.item {
            println!("{dev_eui} {} {}", uplink.fcnt_up, uplink.object_json);
        }
        events.acknowledge(AcknowledgeRequest { consumer: consumer.clone(), cursor: message.cursor }).await?;
    }
    Ok(())
}
