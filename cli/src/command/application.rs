//! `loam application`

use clap::Subcommand;
use proto::v1;
use serde_json::{Value, json};

use super::{PAGE_SIZE, all_pages};
use crate::client::{Client, Context};
use crate::exit::Failure;
use crate::output::{local_time, utc_time};

#[derive(Debug, Subcommand)]
pub(crate) enum ApplicationCommand {
    /// Create an application
    Create {
        /// 1 to 64 of a-z, 0-9 and "-"; starts with a letter
        id: String,
        /// What people read [default: the id]
        #[arg(long)]
        name: Option<String>,
    },
    /// List the applications
    List,
    /// Show one application
    Show { id: String },
    /// Delete an application that has no devices
    Delete { id: String },
}

pub(crate) async fn run(context: &Context, command: ApplicationCommand) -> Result<(), Failure> {
    let client = context.connect().await?;
    let output = context.output;
    match command {
        ApplicationCommand::Create { id, name } => {
            let name = name.unwrap_or_else(|| id.clone());
            let request = v1::CreateApplicationRequest { id, name };
            let answer = client.ask(client.applications().create_application(request)).await?;
            let application = answer.application.unwrap_or_default();
            output.done(&format!("application {} created", application.id), &as_json(&application))
        }
        ApplicationCommand::List => {
            let applications = list(&client).await?;
            let rows = applications
                .iter()
                .map(|a| {
                    vec![a.id.clone(), a.name.clone(), a.device_count.to_string(), local_time(a.created_at_us)]
                })
                .collect();
            output.list(
                &["id", "name", "devices", "created"],
                rows,
                applications.iter().map(as_json).collect(),
                "there are no applications; create one with `loam application create ID`",
            )
        }
        ApplicationCommand::Show { id } => {
            let request = v1::GetApplicationRequest { id };
            let answer = client.ask(client.applications().get_application(request)).await?;
            let application = answer.application.unwrap_or_default();
            output.record(
                &[
                    ("id", application.id.clone()),
                    ("name", application.name.clone()),
                    ("devices", application.device_count.to_string()),
                    ("created", local_time(application.created_at_us)),
                ],
                &as_json(&application),
            )
        }
        ApplicationCommand::Delete { id } => {
            let request = v1::DeleteApplicationRequest { id: id.clone() };
            client.ask(client.applications().delete_application(request)).await?;
            output.done(&format!("application {id} deleted"), &json!({ "deleted": id }))
        }
    }
}

/// All applications.
pub(super) async fn list(client: &Client) -> Result<Vec<v1::Application>, Failure> {
    let mut applications = client.applications();
    Ok(all_pages!(client, applications, |token| applications
        .list_applications(v1::ListApplicationsRequest { page_size: PAGE_SIZE, page_token: token.clone() })))
}

fn as_json(application: &v1::Application) -> Value {
    json!({
        "id": application.id,
        "name": application.name,
        "device_count": application.device_count,
        "created_at": utc_time(application.created_at_us),
    })
}
