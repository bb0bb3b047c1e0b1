//! `loam backup`

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use proto::v1;
use serde_json::json;

use crate::client::Context;
use crate::exit::Failure;
use crate::output::printable;

#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    /// A file on the server's machine that does not exist yet; a relative path starts here
    file: PathBuf,
}

pub(crate) async fn run(context: &Context, args: BackupArgs) -> Result<(), Failure> {
    let client = context.connect().await?;
    if args.file.is_relative() && !client.target().is_local {
        return Err(Failure::usage(format!(
            "{}: the server runs elsewhere; name an absolute path on its machine",
            args.file.display()
        )));
    }
    let path = std::path::absolute(&args.file)
        .map_err(|error| Failure::usage(format!("{}: {error}", args.file.display())))?;
    let Some(path_text) = path.to_str() else {
        return Err(Failure::usage(format!("{}: the path is not UTF-8", path.display())));
    };
    let request = v1::BackupRequest { path: path_text.to_owned() };
    let answer = client.ask_within(BACKUP_DEADLINE, client.system().backup(request)).await?;

    let key_file = key_file(&client.target().data_dir, client.target().is_local);
    context.output.done(
        &format!("{path_text}: {} bytes", answer.size_bytes),
        &json!({
            "path": path_text,
            "size_bytes": answer.size_bytes,
            "key_encryption_key_included": false,
            "key_encryption_key": key_file,
        }),
    )?;
    if context.output.is_json() {
        return Ok(());
    }
    context.output.line(&printable(&format!(
        "The key-encryption key is not in it: without {key_file} no key in the backup can be opened. Keep a copy of that file \
         in another place, not beside the backup."
    )))
}

/// Where the key that opens the sealed keys is.
fn key_file(data_dir: &Path, is_local: bool) -> String {
    if !is_local {
        return "the file `kek` in the server's data directory".to_owned();
    }
    std::path::absolute(data_dir.join("kek")).unwrap_or_else(|_| data_dir.join("kek")).display().to_string()
}

/// A large database on a slow disk takes its time.
const BACKUP_DEADLINE: Duration = Duration::from_secs(3_600);
