//! Payload codecs.

use std::sync::Arc;

use async_trait::async_trait;
use proto::v1;
use proto::v1::codec_service_server::CodecService;
use proto::v1::test_codec_request::Call;
use store::{BridgeTables, CodecRow};
use tonic::{Request, Response, Status};

use super::{Audit, unknown};
use crate::clock::now_us;
use crate::codec::{Codec, CodecError, CodecPool, CodecRef, Decoded, SOURCE_BYTES_MAX};
use crate::error::BridgeError;
use crate::registry::{CAYENNE_LPP, CodecChoice, NO_CODEC, Registry};
use crate::validate;

const CODEC: &str = "codec";

pub(crate) struct CodecApi {
    pub(crate) tables: BridgeTables,
    pub(crate) registry: Arc<Registry>,
    pub(crate) codecs: CodecPool,
}

/// Refuses a codec that is named and not there; `""`, `none` and `cayenne-lpp` always are.
pub(crate) async fn require_codec(registry: &Registry, field: &str, id: &str) -> Result<(), Status> {
    if !id.is_empty() {
        validate::slug(field, id)?;
    }
    match registry.codec(id).await? {
        CodecChoice::Known(_) => Ok(()),
        CodecChoice::Missing(_) => Err(validate::invalid(
            field,
            format!("there is no codec `{id}`; set it first, or name `{NO_CODEC}` or `{CAYENNE_LPP}`"),
        )),
    }
}

#[async_trait]
impl CodecService for CodecApi {
    async fn set_codec(
        &self,
        request: Request<v1::SetCodecRequest>,
    ) -> Result<Response<v1::SetCodecResponse>, Status> {
        let audit = Audit::of(&request);
        let v1::SetCodecRequest { id, script } = request.into_inner();
        validate::slug("id", &id)?;
        if id == NO_CODEC || id == CAYENNE_LPP {
            return Err(validate::invalid("id", format!("`{id}` is built in; choose another one")));
        }
        self.check_script(&script).await?;
        let row = self.tables.put_codec(&id, &script, now_us()).await.map_err(BridgeError::from)?;
        self.registry.parts_changed();
        audit.write(&self.tables, "codec.set", &id, &format!("revision {}", row.revision)).await?;
        Ok(Response::new(v1::SetCodecResponse { codec: Some(message(row)) }))
    }

    async fn get_codec(
        &self,
        request: Request<v1::GetCodecRequest>,
    ) -> Result<Response<v1::GetCodecResponse>, Status> {
        let id = request.into_inner().id;
        validate::slug("id", &id)?;
        let row =
            self.tables.codec(&id).await.map_err(BridgeError::from)?.ok_or_else(|| unknown(CODEC, &id))?;
        Ok(Response::new(v1::GetCodecResponse { codec: Some(message(row)) }))
    }

    async fn list_codecs(
        &self,
        _: Request<v1::ListCodecsRequest>,
    ) -> Result<Response<v1::ListCodecsResponse>, Status> {
        let rows = self.tables.codecs().await.map_err(BridgeError::from)?;
        Ok(Response::new(v1::ListCodecsResponse { codecs: rows.into_iter().map(message).collect() }))
    }

    async fn delete_codec(
        &self,
        request: Request<v1::DeleteCodecRequest>,
    ) -> Result<Response<v1::DeleteCodecResponse>, Status> {
        let audit = Audit::of(&request);
        let id = request.into_inner().id;
        validate::slug("id", &id)?;
        if !self.tables.delete_codec(&id).await.map_err(BridgeError::from)? {
            return Err(unknown(CODEC, &id));
        }
        self.registry.parts_changed();
        audit.write(&self.tables, "codec.delete", &id, "").await?;
        Ok(Response::new(v1::DeleteCodecResponse {}))
    }

    async fn test_codec(
        &self,
        request: Request<v1::TestCodecRequest>,
    ) -> Result<Response<v1::TestCodecResponse>, Status> {
        let v1::TestCodecRequest { id, script, call } = request.into_inner();
        let codec = self.codec_to_test(&id, script).await?;
        let response = match validate::required("call", call)? {
            Call::DecodeUplink(call) => {
                let f_port = f_port(call.f_port)?;
                decoded(self.codecs.decode_uplink(&codec, &call.bytes, f_port, now_us()).await)
            }
            Call::DecodeDownlink(call) => {
                let f_port = f_port(call.f_port)?;
                decoded(self.codecs.decode_downlink(&codec, &call.bytes, f_port, now_us()).await)
            }
            Call::EncodeDownlink(call) => {
                let encoded = self.codecs.encode_downlink(&codec, &call.data_json).await;
                v1::TestCodecResponse {
                    bytes: encoded.bytes,
                    f_port: encoded.f_port.map_or(0, u32::from),
                    warnings: encoded.warnings,
                    errors: encoded.errors,
                    duration_us: encoded.duration_us,
                    ..v1::TestCodecResponse::default()
                }
            }
        };
        Ok(Response::new(response))
    }
}

impl CodecApi {
    async fn check_script(&self, script: &str) -> Result<(), Status> {
        match self.codecs.compile_check(script).await {
            Ok(_) => Ok(()),
            Err(error @ CodecError::Unavailable) => Err(Status::unavailable(error.to_string())),
            Err(error @ (CodecError::Broken(_) | CodecError::NoFunctions | CodecError::TooLong(_))) => {
                Err(validate::invalid("script", error))
            }
        }
    }

    async fn codec_to_test(&self, id: &str, script: String) -> Result<CodecRef, Status> {
        match (id.is_empty(), script.is_empty()) {
            (true, true) => Err(Status::invalid_argument("id or script: one of them says which codec to test")),
            (false, false) => {
                Err(Status::invalid_argument("id and script: only one of them can be tested at a time"))
            }
            (true, false) if script.len() > SOURCE_BYTES_MAX => {
                Err(validate::invalid("script", CodecError::TooLong(script.len())))
            }
            (true, false) => {
                Ok(Arc::new(Codec::Script { id: String::new(), revision: 0, source: Arc::from(script) }))
            }
            (false, true) => {
                validate::slug("id", id)?;
                match self.registry.codec(id).await? {
                    CodecChoice::Known(codec) => Ok(codec),
                    CodecChoice::Missing(_) => Err(unknown(CODEC, id)),
                }
            }
        }
    }
}

fn f_port(number: u32) -> Result<u8, Status> {
    u8::try_from(number)
        .map_err(|_| validate::invalid("f_port", format!("{number} is no port; ports are 0 to 255")))
}

fn decoded(decoded: Decoded) -> v1::TestCodecResponse {
    v1::TestCodecResponse {
        data_json: decoded.object_json,
        warnings: decoded.warnings,
        errors: decoded.errors,
        duration_us: decoded.duration_us,
        ..v1::TestCodecResponse::default()
    }
}

fn message(row: CodecRow) -> v1::Codec {
    v1::Codec { id: row.id, script: row.script, revision: row.revision, updated_at_us: row.updated_at_us }
}
