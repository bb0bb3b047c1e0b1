//! `loam device import`: many devices from a CSV file.
//!
//! Every row is checked before the first device is created, and all that is wrong is said at once. Importing the same file
//! again creates nothing: what is there and alike is counted and left alone, so an import that broke off is simply repeated.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;
use futures_util::StreamExt as _;
use proto::v1;
use serde_json::json;

use super::device::same_settings;
use super::{application, profile};
use crate::client::{Client, Context};
use crate::exit::{Exit, Failure, complain};
use crate::input::{parse_dev_addr, parse_dev_eui, parse_join_eui, parse_key, parse_tag};
use crate::words;

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// CSV with a header line; `-` reads standard input. The columns are in docs/cli.md
    file: PathBuf,
    /// For rows without an application
    #[arg(long, value_name = "ID")]
    application: Option<String>,
    /// For rows without a profile
    #[arg(long, value_name = "ID")]
    profile: Option<String>,
    /// Create the good rows although others are bad
    #[arg(long)]
    skip_bad: bool,
    /// Check everything, create nothing
    #[arg(long)]
    dry_run: bool,
}

/// A row that was understood.
struct Row {
    line: u64,
    device: v1::Device,
    keys: Option<v1::RootKeys>,
    activation: Option<v1::ActivateDeviceRequest>,
}

/// What is wrong with a row.
struct Bad {
    line: u64,
    problem: String,
}

/// What a row asks to be done, once the server was asked.
enum Todo {
    Activate,
    Create,
    Nothing,
}

pub(crate) async fn run(context: &Context, args: ImportArgs) -> Result<(), Failure> {
    let text = read_file(&args)?;
    let (rows, mut bad) = parse(&text, &args)?;
    if rows.is_empty() && bad.is_empty() {
        return Err(Failure::usage(format!("{}: there is no row below the header", args.file.display())));
    }

    let client = context.connect().await?;
    let rows = refuse_unknown_names(&client, rows, &mut bad).await?;
    let mut planned = Vec::with_capacity(rows.len());
    let mut questions = futures_util::stream::iter(rows)
        .map(|row| {
            let client = client.clone();
            async move {
                let todo = plan(&client, &row).await;
                (row, todo)
            }
        })
        .buffered(AT_ONCE);
    while let Some((row, todo)) = questions.next().await {
        match todo? {
            Ok(todo) => planned.push((row, todo)),
            Err(problem) => bad.push(Bad { line: row.line, problem }),
        }
    }

    bad.sort_by_key(|bad| bad.line);
    for Bad { line, problem } in &bad {
        complain(&format!("{}:{line}: {problem}", args.file.display()));
    }
    if !bad.is_empty() && !args.skip_bad {
        return Err(Failure::usage(format!(
            "{} of {} rows are bad; nothing was created. Correct them, or pass --skip-bad to create the others",
            count_lines(&bad),
            count_lines(&bad).saturating_add(planned.len())
        )));
    }
    let unchanged = planned.iter().filter(|(_, todo)| matches!(todo, Todo::Nothing)).count();
    let work: Vec<(Row, Todo)> =
        planned.into_iter().filter(|(_, todo)| !matches!(todo, Todo::Nothing)).collect();
    let mut bad_count = count_lines(&bad);
    let created = if args.dry_run {
        work.len()
    } else {
        let outcome = create_all(&client, &args, work, unchanged).await?;
        bad_count = bad_count.saturating_add(outcome.refused);
        outcome.created
    };

    let verb = if args.dry_run { "would be created" } else { "created" };
    context.output.done(
        &format!("{created} devices {verb}, {unchanged} were there already, {bad_count} bad rows skipped"),
        &json!({
            "created": created,
            "unchanged": unchanged,
            "bad": bad_count,
            "dry_run": args.dry_run,
        }),
    )
}

fn read_file(args: &ImportArgs) -> Result<String, Failure> {
    let refused = |problem: String| Failure::usage(format!("{}: {problem}", args.file.display()));
    let unreadable = |error: std::io::Error| refused(format!("cannot be read: {error}"));
    let source: Box<dyn std::io::Read> = if args.file.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(&args.file).map_err(unreadable)?)
    };
    let mut bytes = Vec::new();
    let len = source.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(len).is_ok_and(|len| len > FILE_BYTES_MAX) {
        let limit_mib = FILE_BYTES_MAX / 1_048_576;
        return Err(refused(format!("has more than {limit_mib} MiB; import it in parts")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        refused(format!("is not UTF-8 from byte {at} on; save it as CSV UTF-8"))
    })
}

/// Reads all rows. A wrong header is a failure, a wrong row is one of the bad ones.
fn parse(text: &str, args: &ImportArgs) -> Result<(Vec<Row>, Vec<Bad>), Failure> {
    // Spreadsheets write a byte-order mark, and a semicolon where the comma is the decimal sign.
    let text = text.trim_start_matches('\u{feff}');
    let header = text.split(['\n', '\r']).next().unwrap_or("");
    let delimiter = if header.contains(';') && !header.contains(',') { b';' } else { b',' };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .trim(csv::Trim::All)
        .flexible(true)
        .from_reader(text.as_bytes());
    let wrong_file = |problem: String| Failure::usage(format!("{}: {problem}", args.file.display()));
    let columns: Vec<String> = reader
        .headers()
        .map_err(|error| wrong_file(error.to_string()))?
        .iter()
        .map(|name| name.to_lowercase().replace([' ', '-'], "_"))
        .collect();
    check_header(&columns).map_err(wrong_file)?;

    let mut rows = Vec::new();
    let mut bad = Vec::new();
    let mut first_line_of: BTreeMap<String, u64> = BTreeMap::new();
    let mut lines = LineCounter { text, at: 0, line: 1 };
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = lines.line_of(error.position());
                bad.push(Bad { line, problem: error.to_string() });
                continue;
            }
        };
        let line = lines.line_of(record.position());
        // Spreadsheets leave rows of nothing at the end.
        if record.iter().all(str::is_empty) {
            continue;
        }
        if record.len() != columns.len() {
            let problem = format!("{} cells, the header has {}", record.len(), columns.len());
            bad.push(Bad { line, problem });
            continue;
        }
        let cells: BTreeMap<&str, &str> = columns.iter().map(String::as_str).zip(record.iter()).collect();
        match parse_row(line, &cells, args) {
            Err(problems) => bad.extend(problems.into_iter().map(|problem| Bad { line, problem })),
            Ok(row) => match first_line_of.get(&row.device.dev_eui) {
                Some(first) => {
                    let problem = format!("device {} stands in line {first} too", row.device.dev_eui);
                    bad.push(Bad { line, problem });
                }
                None => {
                    first_line_of.insert(row.device.dev_eui.clone(), line);
                    rows.push(row);
                }
            },
        }
    }
    Ok((rows, bad))
}

/// Counts lines as an editor does; a lone CR ends one too, as in files of old spreadsheets. The CSV reader's own count is taken before it skips blank lines and the second half of CR LF.
struct LineCounter<'a> {
    text: &'a str,
    at: usize,
    line: u64,
}

impl LineCounter<'_> {
    fn line_of(&mut self, position: Option<&csv::Position>) -> u64 {
        let start = position.and_then(|p| usize::try_from(p.byte()).ok()).unwrap_or(self.at);
        let bytes = self.text.as_bytes();
        while self.at < start || matches!(bytes.get(self.at), Some(b'\r' | b'\n')) {
            let ends_line = match bytes.get(self.at..) {
                Some([b'\r', b'\n', ..]) => false,
                Some([b'\n' | b'\r', ..]) => true,
                Some([_, ..]) => false,
                Some([]) | None => break,
            };
            self.line = self.line.saturating_add(u64::from(ends_line));
            self.at = self.at.saturating_add(1);
        }
        self.line
    }
}

fn check_header(columns: &[String]) -> Result<(), String> {
    for (index, column) in columns.iter().enumerate() {
        if !COLUMNS.contains(&column.as_str()) {
            let column: String = column.chars().take(COLUMN_CHARS_MAX).collect();
            let near = words::nearest(&column, COLUMNS.iter().map(|c| ((*c).to_owned(), *c)));
            let near = near.map_or_else(String::new, |near| format!("; do you mean {near}?"));
            return Err(format!("there is no column {column:?}{near} (known: {})", COLUMNS.join(", ")));
        }
        if columns.iter().take(index).any(|other| other == column) {
            return Err(format!("column {column:?} stands twice in the header"));
        }
    }
    if !columns.iter().any(|column| column == "dev_eui") {
        return Err("the first line must be a header with at least the column dev_eui".to_owned());
    }
    Ok(())
}

fn parse_row(line: u64, cells: &BTreeMap<&str, &str>, args: &ImportArgs) -> Result<Row, Vec<String>> {
    let mut problems = Vec::new();
    let cell = |name: &str| cells.get(name).copied().unwrap_or("");
    let mut take = |name: &str, parse: fn(&str) -> Result<String, String>| match cell(name) {
        "" => String::new(),
        text => parse(text).unwrap_or_else(|problem| {
            problems.push(format!("{name}: {problem}"));
            String::new()
        }),
    };
    let join_eui = take("join_eui", parse_join_eui);
    let app_key = take("app_key", parse_key);
    let nwk_key = take("nwk_key", parse_key);
    let dev_addr = take("dev_addr", parse_dev_addr);
    let nwk_s_key = take("nwk_s_key", parse_key);
    let app_s_key = take("app_s_key", parse_key);
    let s_nwk_s_int_key = take("s_nwk_s_int_key", parse_key);
    let nwk_s_enc_key = take("nwk_s_enc_key", parse_key);
    let mut problem = |text: String| problems.push(text);

    let dev_eui = parse_dev_eui(cell("dev_eui")).unwrap_or_else(|error| {
        problem(format!("dev_eui: {error}"));
        String::new()
    });
    let mut name_of = |column: &str, fallback: Option<&String>| match (cell(column), fallback) {
        ("", None) => {
            problem(format!("{column}: the cell is empty and there is no --{column}"));
            String::new()
        }
        ("", Some(fallback)) => fallback.clone(),
        (name, _) => name.to_owned(),
    };
    let application_id = name_of("application", args.application.as_ref());
    let profile_id = name_of("profile", args.profile.as_ref());
    let mut tags = std::collections::HashMap::new();
    for tag in cell("tags").split(['|', ';']).filter(|tag| !tag.trim().is_empty()) {
        match parse_tag(tag) {
            Ok((name, value)) => {
                tags.insert(name, value);
            }
            Err(error) => problem(format!("tags: {error}")),
        }
    }
    let mut flag = |column: &str| match cell(column).to_lowercase().as_str() {
        "" | "false" | "no" | "0" => false,
        "true" | "yes" | "1" => true,
        other => {
            problem(format!("{column}: {other:?} is neither true nor false"));
            false
        }
    };
    let disabled = flag("disabled");
    let allow_fcnt_reset = flag("allow_fcnt_reset");
    let mut number = |column: &str| match cell(column) {
        "" => None,
        text => {
            text.parse::<u32>().map_err(|_| problem(format!("{column}: {text:?} is not a whole number"))).ok()
        }
    };
    let fcnt_up = number("fcnt_up");
    let fcnt_down = number("fcnt_down");

    let filled = |name: &str| !cell(name).is_empty();
    let has_root_keys = filled("app_key") || filled("nwk_key");
    if has_root_keys && !filled("join_eui") {
        problem("join_eui: a device with root keys needs it".to_owned());
    }
    if filled("join_eui") && !filled("app_key") {
        problem("app_key: a device with a JoinEUI needs it".to_owned());
    }
    let by_hand = ["dev_addr", "nwk_s_key", "app_s_key"];
    let some_by_hand = SESSION_COLUMNS.iter().any(|column| filled(column));
    if some_by_hand {
        for column in by_hand.iter().filter(|column| !filled(column)) {
            problem(format!("{column}: a device that is activated by hand needs it"));
        }
        if has_root_keys {
            problem("a device either joins (app_key) or is activated by hand (dev_addr), not both".to_owned());
        }
    }
    if filled("s_nwk_s_int_key") != filled("nwk_s_enc_key") {
        problem("s_nwk_s_int_key and nwk_s_enc_key of a 1.1 device come together".to_owned());
    }
    if !problems.is_empty() {
        return Err(problems);
    }

    let name = if filled("name") { cell("name").to_owned() } else { dev_eui.clone() };
    let activation = some_by_hand.then(|| v1::ActivateDeviceRequest {
        dev_eui: dev_eui.clone(),
        dev_addr,
        nwk_s_key,
        app_s_key,
        s_nwk_s_int_key,
        nwk_s_enc_key,
        fcnt_up,
        fcnt_down: fcnt_down.unwrap_or_default(),
    });
    let device = v1::Device {
        dev_eui,
        join_eui,
        application_id,
        profile_id,
        name,
        tags,
        codec_id: cell("codec").to_owned(),
        disabled,
        allow_fcnt_reset,
        created_at_us: 0,
    };
    let keys = has_root_keys.then_some(v1::RootKeys { app_key, nwk_key });
    Ok(Row { line, device, keys, activation })
}

/// Moves rows that name an application, profile or codec that is not there to the bad ones.
async fn refuse_unknown_names(
    client: &Client,
    rows: Vec<Row>,
    bad: &mut Vec<Bad>,
) -> Result<Vec<Row>, Failure> {
    let applications: BTreeSet<String> = application::list(client).await?.into_iter().map(|a| a.id).collect();
    let profiles: BTreeSet<String> = profile::list(client).await?.into_iter().map(|p| p.id).collect();
    let answer = client.ask(client.codecs().list_codecs(v1::ListCodecsRequest {})).await?;
    let mut codecs: BTreeSet<String> = answer.codecs.into_iter().map(|c| c.id).collect();
    codecs.extend(["", "none", "cayenne-lpp"].map(str::to_owned));

    let mut good = Vec::new();
    for row in rows {
        let named = [
            ("application", &row.device.application_id, &applications),
            ("profile", &row.device.profile_id, &profiles),
            ("codec", &row.device.codec_id, &codecs),
        ];
        let unknown: Vec<String> = named
            .into_iter()
            .filter(|(_, name, known)| !known.contains(*name))
            .map(|(what, name, _)| format!("{what}: there is no {what} {name:?}"))
            .collect();
        if unknown.is_empty() {
            good.push(row);
        } else {
            bad.extend(unknown.into_iter().map(|problem| Bad { line: row.line, problem }));
        }
    }
    Ok(good)
}

/// Asks the server what is left to do for a row. The inner error is a conflict with what is there.
async fn plan(client: &Client, row: &Row) -> Result<Result<Todo, String>, Failure> {
    let dev_eui = row.device.dev_eui.clone();
    let request = v1::GetDeviceRequest { dev_eui: dev_eui.clone() };
    let answer = match client.ask(client.devices().get_device(request)).await {
        Ok(answer) => answer,
        Err(Failure::Told { exit: Exit::NotFound, .. }) => return Ok(Ok(Todo::Create)),
        Err(failure) => return Err(failure),
    };
    let existing = answer.device.unwrap_or_default();
    if !same_settings(&existing, &row.device) {
        return Ok(Err(format!(
            "device {dev_eui} exists with other settings ({}); change it with `loam device update`, or delete it first",
            differences(&existing, &row.device)
        )));
    }
    let Some(activation) = &row.activation else { return Ok(Ok(Todo::Nothing)) };
    let state = answer.state.unwrap_or_default();
    Ok(match (state.has_session, state.dev_addr == activation.dev_addr) {
        (false, _) => Ok(Todo::Activate),
        (true, true) => Ok(Todo::Nothing),
        (true, false) => Err(format!(
            "device {dev_eui} has a session with DevAddr {}, the row says {}; activate it with `loam device activate` if that is meant",
            state.dev_addr, activation.dev_addr
        )),
    })
}

fn differences(a: &v1::Device, b: &v1::Device) -> String {
    let pairs = [
        ("join_eui", a.join_eui == b.join_eui),
        ("application", a.application_id == b.application_id),
        ("profile", a.profile_id == b.profile_id),
        ("name", a.name == b.name),
        ("tags", a.tags == b.tags),
        ("codec", a.codec_id == b.codec_id),
        ("disabled", a.disabled == b.disabled),
        ("allow_fcnt_reset", a.allow_fcnt_reset == b.allow_fcnt_reset),
    ];
    pairs.iter().filter(|(_, same)| !same).map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// What came of the rows that had something to do.
struct Outcome {
    created: usize,
    /// With --skip-bad: rows the server refused.
    refused: usize,
}

/// Creates the devices, several at a time. Stops at the first failure and says how far it came; with --skip-bad, a row that the
/// server refuses is only counted.
async fn create_all(
    client: &Client,
    args: &ImportArgs,
    work: Vec<(Row, Todo)>,
    unchanged: usize,
) -> Result<Outcome, Failure> {
    let total = work.len();
    let mut outcome = Outcome { created: 0, refused: 0 };
    let mut answers = futures_util::stream::iter(work)
        .map(|(row, todo)| {
            let client = client.clone();
            async move {
                let line = row.line;
                (line, create_one(&client, row, todo).await)
            }
        })
        .buffer_unordered(AT_ONCE);
    while let Some((line, result)) = answers.next().await {
        let failure = match result {
            Ok(()) => {
                outcome.created = outcome.created.saturating_add(1);
                continue;
            }
            Err(failure) => failure,
        };
        let (exit, message) = match failure {
            Failure::Told { exit, message } => (exit, message),
            Failure::OutputClosed => (Exit::Error, String::new()),
        };
        if args.skip_bad && matches!(exit, Exit::Usage | Exit::NotFound | Exit::Refused) {
            complain(&format!("{}:{line}: {message}", args.file.display()));
            outcome.refused = outcome.refused.saturating_add(1);
            continue;
        }
        return Err(Failure::new(
            exit,
            format!(
                "{}:{line}: {message}\nat least {} of {total} devices were created, {unchanged} were there already; run the same \
                 command again when that is put right, what was created is left alone",
                args.file.display(),
                outcome.created
            ),
        ));
    }
    Ok(outcome)
}

async fn create_one(client: &Client, row: Row, todo: Todo) -> Result<(), Failure> {
    if matches!(todo, Todo::Create) {
        let request = v1::CreateDeviceRequest { device: Some(row.device), keys: row.keys };
        client.ask(client.devices().create_device(request)).await?;
    }
    if let Some(activation) = row.activation {
        client.ask(client.devices().activate_device(activation)).await?;
    }
    Ok(())
}

fn count_lines(bad: &[Bad]) -> usize {
    bad.iter().map(|bad| bad.line).collect::<BTreeSet<_>>().len()
}

/// The columns a file may have, in any order.
const COLUMNS: [&str; 18] = [
    "dev_eui",
    "join_eui",
    "application",
    "profile",
    "name",
    "app_key",
    "nwk_key",
    "codec",
    "tags",
    "disabled",
    "allow_fcnt_reset",
    "dev_addr",
    "nwk_s_key",
    "app_s_key",
    "s_nwk_s_int_key",
    "nwk_s_enc_key",
    "fcnt_up",
    "fcnt_down",
];

/// Columns that only a device activated by hand has.
const SESSION_COLUMNS: [&str; 7] =
    ["dev_addr", "nwk_s_key", "app_s_key", "s_nwk_s_int_key", "nwk_s_enc_key", "fcnt_up", "fcnt_down"];

/// Requests under way at a time: they share group commits.
const AT_ONCE: usize = 32;
/// The whole file is held until its last row is checked: some half a million devices.
const FILE_BYTES_MAX: u64 = 64 * 1_048_576;
/// So much of a column nobody knows is repeated.
const COLUMN_CHARS_MAX: usize = 40;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args() -> ImportArgs {
        ImportArgs {
            file: PathBuf::from("devices.csv"),
            application: None,
            profile: Some("soil".to_owned()),
            skip_bad: false,
            dry_run: false,
        }
    }

    #[test]
    fn a_file_of_a_spreadsheet_is_read() {
        let text = "\u{feff}DevEUI\r\n".to_owned();
        assert!(parse(&text, &args()).is_err());
        let text = "\u{feff}Dev EUI;Join-EUI;application;app_key;tags;name\r\n\
                    70-B3-D5-7E-D0-00-00-01;0000000000000001;farm;00112233445566778899aabbccddeeff;field=north|row=2;\r\n\
                    ;;;;;\r\n";

        let (rows, bad) = parse(text, &args()).unwrap();

        assert!(bad.is_empty());
        let row = rows.first().unwrap();
        assert_eq!(row.line, 2);
        assert_eq!(row.device.dev_eui, "70b3d57ed0000001");
        assert_eq!(row.device.name, "70b3d57ed0000001");
        assert_eq!(row.device.profile_id, "soil");
        assert_eq!(row.device.tags.len(), 2);
        assert!(row.keys.is_some() && row.activation.is_none());
    }

    #[test]
    fn every_problem_of_every_row_is_found_with_its_line() {
        let text = "dev_eui,application,join_eui,app_key,dev_addr,disabled\n\
                    70b3d57ed0000001,farm,,,,\n\
                    70b3,,xyz,,,maybe\n\
                    \r\n\
                    70b3d57ed0000001,farm,,,,\n\
                    70b3d57ed0000002,farm,,,01020304,\n\
                    70b3d57ed0000003,farm\n";

        let (rows, bad) = parse(text, &args()).unwrap();

        assert_eq!(rows.len(), 1);
        let told: Vec<String> = bad.iter().map(|b| format!("{} {}", b.line, b.problem)).collect();
        let told = told.join("\n");
        for part in [
            "3 dev_eui: the DevEUI has 4",
            "3 join_eui: character 1",
            "3 application: the cell is empty",
            "3 disabled: \"maybe\"",
            "5 device 70b3d57ed0000001 stands in line 2 too",
            "6 nwk_s_key: a device that is activated by hand needs it",
            "7 2 cells, the header has 6",
        ] {
            assert!(told.contains(part), "{part}\n---\n{told}");
        }
    }

    #[test]
    fn a_line_may_end_in_a_lone_carriage_return() {
        let text = "dev_eui;application\r70b3d57ed0000001;farm\r\r70b3;farm\r\n70b3d57ed0000002;farm\n";
        let (rows, bad) = parse(text, &args()).unwrap();
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 5]);
        assert_eq!(bad.iter().map(|bad| bad.line).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn an_unknown_column_is_refused_with_the_nearest_known_one() {
        let error = parse("dev_eui,join_ui\n", &args()).err().unwrap().to_string();
        assert!(error.contains("do you mean join_eui?"), "{error}");
        let error = parse("name\n", &args()).err().unwrap().to_string();
        assert!(error.contains("dev_eui"), "{error}");
        let error = parse("dev_eui,dev_eui\n", &args()).err().unwrap().to_string();
        assert!(error.contains("twice"), "{error}");
    }

    #[test]
    fn a_bad_key_in_a_file_is_not_repeated() {
        let text =
            "dev_eui,application,join_eui,app_key\n70b3d57ed0000001,farm,0000000000000001,0011223344556677\n";
        let (_, bad) = parse(text, &args()).unwrap();
        let problem = &bad.first().unwrap().problem;
        assert!(problem.contains("16 hexadecimal digits") && !problem.contains("001122"), "{problem}");
    }
}
