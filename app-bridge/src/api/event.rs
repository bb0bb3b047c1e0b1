//! The event stream and its consumers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::{Stream, StreamExt};
use prost::Message;
use proto::port::NetworkPort;
use proto::v1;
use proto::v1::event_service_server::EventService;
use proto::v1::watch_request::Start;
use tonic::{Request, Response, Status};

use super::gateway::GatewayApi;
use crate::clock::now_us;
use crate::consumers::Consumers;
use crate::filter::Filter;
use crate::watch::{EncodedStream, Streams};
use crate::{cursor, validate};

pub(crate) struct EventApi {
    pub(crate) network: Arc<dyn NetworkPort>,
    pub(crate) consumers: Arc<Consumers>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) open: Arc<AtomicUsize>,
    pub(crate) streams_max: usize,
}

impl EventApi {
    /// Starts a stream.
    pub(crate) async fn watch_encoded(&self, request: v1::WatchRequest) -> Result<EncodedStream, Status> {
        let place = self.place()?;
        let filter = Filter::from_request(&request)?;
        if !request.consumer.is_empty() {
            validate::consumer("consumer", &request.consumer)?;
        }
        let position = self.start(&request).await?;
        let counted = (!request.consumer.is_empty()).then(|| self.consumers.stream_opened(&request.consumer));
        Ok(self.streams.watch(position, filter, (place, counted)))
    }

    async fn start(&self, request: &v1::WatchRequest) -> Result<u64, Status> {
        let committed = match request.consumer.as_str() {
            "" => None,
            name => self.consumers.position(name).await?,
        };
        let bounds = self.streams.log.bounds().await?;
        let position = match &request.start {
            None | Some(Start::Committed(_)) => committed.unwrap_or_else(|| bounds.earliest.saturating_sub(1)),
            Some(Start::Earliest(_)) => bounds.earliest.saturating_sub(1),
            Some(Start::Latest(_)) => bounds.head,
            Some(Start::Cursor(bytes)) => {
                cursor::decode(bytes).map_err(|error| validate::invalid("cursor", error))?
            }
            Some(Start::ReceivedAtUs(at_us)) => self.streams.log.position_before(*at_us).await?,
        };
        if position > bounds.head {
            return Err(Status::out_of_range(format!(
                "the stream would start after event {position} and the last one is {}; the position is another server's: start from `earliest` or `latest`",
                bounds.head
            )));
        }
        if !request.consumer.is_empty() && committed.is_none() {
            self.consumers.introduce(&request.consumer, position).await?;
        }
        Ok(position)
    }

    fn place(&self) -> Result<Place, Status> {
        let taken = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            (open < self.streams_max).then_some(open.saturating_add(1))
        });
        if taken.is_err() {
            return Err(Status::resource_exhausted(format!(
                "{} streams are open, the most that are served; close some first",
                self.streams_max
            )));
        }
        self.streams.metrics.streams.inc();
        Ok(Place { open: Arc::clone(&self.open), streams: Arc::clone(&self.streams) })
    }
}

/// One of the streams that may be open.
struct Place {
    open: Arc<AtomicUsize>,
    streams: Arc<Streams>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.streams.metrics.streams.dec();
    }
}

/// A watch, as a caller of this process reads it.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

/// The implementation of the generated service, which wants to own it.
pub(crate) struct EventGate(pub(crate) Arc<EventApi>);

#[async_trait]
impl EventService for EventGate {
    type WatchStream = EventStream;

    /// Not on the way of requests, which [`super::watch_codec`] serves without decoding what was just encoded.
    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let encoded = self.0.watch_encoded(request.into_inner()).await?;
        let decoded = encoded.map(|message| {
            v1::WatchResponse::decode(message?)
                .map_err(|error| Status::internal(format!("an event is damaged: {error}")))
        });
        Ok(Response::new(decoded.boxed()))
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        let v1::AcknowledgeRequest { consumer, cursor } = request.into_inner();
        self.0.consumers.acknowledge(&consumer, &cursor, now_us()).await?;
        Ok(Response::new(v1::AcknowledgeResponse {}))
    }

    async fn list_consumers(
        &self,
        _: Request<v1::ListConsumersRequest>,
    ) -> Result<Response<v1::ListConsumersResponse>, Status> {
        Ok(Response::new(self.0.consumers.list().await?))
    }

    async fn delete_consumer(
        &self,
        request: Request<v1::DeleteConsumerRequest>,
    ) -> Result<Response<v1::DeleteConsumerResponse>, Status> {
        self.0.consumers.delete(&request.into_inner().name).await?;
        Ok(Response::new(v1::DeleteConsumerResponse {}))
    }

    async fn list_drops(
        &self,
        request: Request<v1::ListDropsRequest>,
    ) -> Result<Response<v1::ListDropsResponse>, Status> {
        Ok(Response::new(GatewayApi::drops(self.0.network.as_ref(), request.into_inner()).await?))
    }
}
