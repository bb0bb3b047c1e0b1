//! `Watch` with messages that are encoded already.
//!
//! Each event is encoded once for all its watchers, so what goes into a stream are bytes. The generated service would
//! want a message to encode; this serves the one method beside it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use bytes::{BufMut, Bytes};
use prost::Message;
use proto::v1;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, ServerStreamingService};

use super::MESSAGE_LEN_MAX;
use super::event::EventApi;
use crate::watch::EncodedStream;

/// The path of the method.
pub(crate) const WATCH_PATH: &str = "/loam.v1.EventService/Watch";

/// Serves [`WATCH_PATH`].
pub(crate) async fn watch(State(api): State<Arc<EventApi>>, request: Request) -> Response {
    let mut grpc = Grpc::new(WatchCodec).max_decoding_message_size(MESSAGE_LEN_MAX);
    let response = grpc.server_streaming(WatchMethod(api), request).await;
    response.map(axum::body::Body::new)
}

struct WatchMethod(Arc<EventApi>);

impl ServerStreamingService<v1::WatchRequest> for WatchMethod {
    type Response = Bytes;
    type ResponseStream = EncodedStream;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<EncodedStream>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<v1::WatchRequest>) -> Self::Future {
        let api = Arc::clone(&self.0);
        Box::pin(async move { api.watch_encoded(request.into_inner()).await.map(tonic::Response::new) })
    }
}

struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = Bytes;
    type Decode = v1::WatchRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for WatchCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for WatchCodec {
    type Item = v1::WatchRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<v1::WatchRequest>, Status> {
        v1::WatchRequest::decode(buffer)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("the request is no WatchRequest: {error}")))
    }
}
