//! `loam codec`

use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use proto::v1::{self, test_codec_request as test};
use serde_json::{Value, json};

use crate::client::Context;
use crate::exit::{Exit, Failure, complain};
use crate::input::parse_bytes;
use crate::output::{local_time, utc_time};

#[derive(Debug, Subcommand)]
pub(crate) enum CodecCommand {
    /// Store a codec, or replace it; events still kept are decoded with it too
    Set {
        /// 1 to 64 of a-z, 0-9 and "-"
        id: String,
        /// A script with decodeUplink, and if there are downlinks encodeDownlink; `-` reads standard input
        file: PathBuf,
    },
    /// List the codecs
    List,
    /// Show one codec
    Show {
        id: String,
        /// Write only the script
        #[arg(long)]
        script: bool,
    },
    /// Delete a codec
    Delete { id: String },
    /// Run a codec on bytes; nothing is stored
    Test(TestArgs),
}

#[derive(Args, Debug)]
pub(crate) struct TestArgs {
    /// The codec's id (without --file), then the payload in hexadecimal or base64 (without --encode)
    #[arg(value_names = ["ID", "BYTES"], num_args = 0..=2)]
    values: Vec<String>,
    /// A script that is not stored
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The port the payload came from or goes to
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=255))]
    port: u32,
    /// Call decodeDownlink instead of decodeUplink
    #[arg(long, conflicts_with = "encode")]
    downlink: bool,
    /// Call encodeDownlink with this JSON
    #[arg(long, value_name = "JSON")]
    encode: Option<String>,
}

pub(crate) async fn run(context: &Context, command: CodecCommand) -> Result<(), Failure> {
    let output = context.output;
    match command {
        CodecCommand::Set { id, file } => {
            let script = read_script(&file)?;
            let client = context.connect().await?;
            let answer = client.ask(client.codecs().set_codec(v1::SetCodecRequest { id, script })).await?;
            let codec = answer.codec.unwrap_or_default();
            output.done(&format!("codec {} stored, revision {}", codec.id, codec.revision), &as_json(&codec))
        }
        CodecCommand::List => {
            let client = context.connect().await?;
            let answer = client.ask(client.codecs().list_codecs(v1::ListCodecsRequest {})).await?;
            let rows = answer
                .codecs
                .iter()
                .map(|c| vec![c.id.clone(), c.revision.to_string(), local_time(c.updated_at_us)])
                .collect();
            output.list(
                &["id", "revision", "updated"],
                rows,
                answer.codecs.iter().map(as_json).collect(),
                "there are no codecs; store one with `loam codec set ID FILE`",
            )
        }
        CodecCommand::Show { id, script } => {
            let client = context.connect().await?;
            let answer = client.ask(client.codecs().get_codec(v1::GetCodecRequest { id })).await?;
            let codec = answer.codec.unwrap_or_default();
            if script {
                return output.line(codec.script.trim_end_matches('\n'));
            }
            let mut item = as_json(&codec);
            if let Some(object) = item.as_object_mut() {
                object.insert("script".to_owned(), Value::String(codec.script.clone()));
            }
            output.record(
                &[
                    ("id", codec.id.clone()),
                    ("revision", codec.revision.to_string()),
                    ("updated", local_time(codec.updated_at_us)),
                    ("script", format!("{} bytes; `--script` writes it", codec.script.len())),
                ],
                &item,
            )
        }
        CodecCommand::Delete { id } => {
            let client = context.connect().await?;
            client.ask(client.codecs().delete_codec(v1::DeleteCodecRequest { id: id.clone() })).await?;
            output.done(&format!("codec {id} deleted"), &json!({ "deleted": id }))
        }
        CodecCommand::Test(args) => run_test(context, args).await,
    }
}

async fn run_test(context: &Context, args: TestArgs) -> Result<(), Failure> {
    let request = test_request(args)?;
    let client = context.connect().await?;
    let answer = client.ask(client.codecs().test_codec(request)).await?;
    let data: Value = serde_json::from_str(&answer.data_json).unwrap_or(Value::Null);
    let pretty =
        if data.is_null() { String::new() } else { serde_json::to_string_pretty(&data).unwrap_or_default() };
    let encoded = !answer.bytes.is_empty();
    context.output.record(
        &[
            ("data", pretty),
            ("bytes", hex::encode(&answer.bytes)),
            ("port", if encoded { answer.f_port.to_string() } else { String::new() }),
            ("warnings", answer.warnings.join("\n")),
            ("errors", answer.errors.join("\n")),
            ("took", format!("{} µs", answer.duration_us)),
        ],
        &json!({
            "data": data,
            "bytes": if encoded { json!(STANDARD.encode(&answer.bytes)) } else { Value::Null },
            "f_port": if encoded { json!(answer.f_port) } else { Value::Null },
            "warnings": answer.warnings,
            "errors": answer.errors,
            "duration_us": answer.duration_us,
        }),
    )?;
    if answer.errors.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Error, "the codec reports errors"))
}

fn test_request(args: TestArgs) -> Result<v1::TestCodecRequest, Failure> {
    let mut values = args.values.into_iter();
    let (id, script) = match &args.file {
        Some(file) => (String::new(), read_script(file)?),
        None => match values.next() {
            Some(id) => (id, String::new()),
            None => return Err(Failure::usage("name a stored codec, or a script with --file")),
        },
    };
    let bytes = values.next();
    if let Some(extra) = values.next() {
        return Err(Failure::usage(format!("{extra:?} is one value too many; with --file there is no ID")));
    }
    let call = match (args.encode, bytes) {
        (Some(_), Some(_)) => {
            return Err(Failure::usage("--encode makes bytes from JSON; leave the bytes out"));
        }
        (Some(data_json), None) => {
            serde_json::from_str::<Value>(&data_json)
                .map_err(|error| Failure::usage(format!("--encode is not JSON: {error}")))?;
            test::Call::EncodeDownlink(test::DownlinkCall { data_json })
        }
        (None, None) => {
            return Err(Failure::usage(
                "no bytes to run the codec on; write them in hexadecimal, or use --encode",
            ));
        }
        (None, Some(text)) => {
            let bytes = parse_bytes(&text).map_err(|error| Failure::usage(format!("bytes: {error}")))?;
            let call = test::UplinkCall { bytes, f_port: args.port };
            if args.downlink { test::Call::DecodeDownlink(call) } else { test::Call::DecodeUplink(call) }
        }
    };
    Ok(v1::TestCodecRequest { id, script, call: Some(call) })
}

fn read_script(file: &Path) -> Result<String, Failure> {
    let mut script = String::new();
    let result = if file.as_os_str() == "-" {
        std::io::stdin().lock().read_to_string(&mut script)
    } else {
        std::fs::File::open(file).and_then(|mut opened| opened.read_to_string(&mut script))
    };
    result.map_err(|error| Failure::usage(format!("{}: cannot be read: {error}", file.display())))?;
    if script.trim().is_empty() {
        return Err(Failure::usage(format!("{}: the script is empty", file.display())));
    }
    if !script.contains("decodeUplink") && !script.contains("encodeDownlink") {
        complain(&format!(
            "warning: {} defines neither decodeUplink nor encodeDownlink (TS013), the functions loam calls",
            file.display()
        ));
    }
    Ok(script)
}

fn as_json(codec: &v1::Codec) -> Value {
    json!({ "id": codec.id, "revision": codec.revision, "updated_at": utc_time(codec.updated_at_us) })
}
