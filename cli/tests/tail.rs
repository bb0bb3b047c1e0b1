//! `loam events tail`: what it writes, what it acknowledges, and how it ends.

#![allow(clippy::unwrap_used)]

mod fake;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use fake::{Ending, Fake, Outcome, opening, uplink};
use proto::v1::watch_request::Start;

const DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn each_event_is_one_object_a_line_and_the_last_one_is_acknowledged() {
    let server = Fake::start();
    server.state().streams.push_back((vec![opening(), uplink(1), uplink(2), uplink(3)], Ending::Hold));

    let outcome = server.run(&["events", "tail", "--output", "json", "--consumer", "erp", "--count", "2"]);

    let lines: Vec<serde_json::Value> =
        outcome.succeeded().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [first, second] = lines.as_slice() else { panic!("{} lines", lines.len()) };
    assert_eq!(first["id"], "e1");
    assert_eq!(first["kind"], "uplink");
    assert_eq!(first["dev_eui"], "70b3d57ed0000001");
    assert_eq!(first["fcnt_up"], 1);
    assert_eq!(first["f_port"], 2);
    assert_eq!(first["data"], "AQ==");
    assert_eq!(first["decoded"]["moisture"], 1);
    assert_eq!(second["id"], "e2");
    let state = server.state();
    assert_eq!(state.watches.first().unwrap().start, Some(Start::Committed(true)));
    // The third event was not written and is not acknowledged.
    let last = state.acknowledged.last().unwrap();
    assert_eq!((last.consumer.as_str(), last.cursor.as_slice()), ("erp", &[2][..]));
}

#[test]
fn looking_does_not_move_a_consumer_and_filters_are_passed_on() {
    let server = Fake::start();
    server.state().streams.push_back((vec![opening(), uplink(1)], Ending::Hold));
    let arguments = [
        "events",
        "tail",
        "--consumer",
        "erp",
        "--acknowledge=false",
        "--from",
        "earliest",
        "--application",
        "farm",
        "--device",
        "70B3D57ED0000001",
        "--kind",
        "uplink,device_status",
        "--port",
        "2",
        "--tag",
        "field=north",
        "--count",
        "1",
    ];

    let outcome = server.run(&arguments);

    assert!(outcome.succeeded().contains("north-1 (70b3d57ed0000001)"), "{}", outcome.stdout);
    let state = server.state();
    assert!(state.acknowledged.is_empty());
    let watch = state.watches.first().unwrap();
    assert_eq!(watch.start, Some(Start::Earliest(true)));
    assert_eq!(watch.application_ids, ["farm"]);
    assert_eq!(watch.dev_euis, ["70b3d57ed0000001"]);
    assert_eq!(watch.kinds.len(), 2);
    assert_eq!(watch.f_ports, [2]);
    assert_eq!(watch.tags.get("field").unwrap(), "north");
}

#[test]
fn a_broken_stream_is_gone_on_with_after_what_was_written() {
    let server = Fake::start();
    server.state().streams.push_back((vec![opening(), uplink(1)], Ending::Close));
    server.state().streams.push_back((vec![uplink(2)], Ending::Hold));

    let outcome = server.run(&["events", "tail", "--count", "2"]);

    assert_eq!(outcome.succeeded().lines().count(), 2, "{}", outcome.stdout);
    assert!(outcome.stderr.contains("connecting again"), "{}", outcome.stderr);
    let state = server.state();
    assert_eq!(state.watches.first().unwrap().start, Some(Start::Latest(true)));
    assert_eq!(state.watches.get(1).unwrap().start, Some(Start::Cursor(vec![1])));
}

#[test]
fn a_broken_stream_ends_the_command_when_that_is_wanted() {
    let server = Fake::start();
    server.state().streams.push_back((vec![opening(), uplink(1)], Ending::Close));
    server.run(&["events", "tail", "--no-reconnect"]).failed(5, &["ended the stream"]);
    server.run(&["events", "tail", "--from", "committed"]).failed(2, &["--consumer"]);
    server.run(&["events", "tail", "--from", "yesterday"]).failed(2, &["committed, earliest, latest"]);
}

#[test]
fn without_follow_it_ends_when_nothing_comes() {
    let server = Fake::start();
    server.state().streams.push_back((vec![opening(), uplink(1)], Ending::Hold));
    let outcome = server.run(&["events", "tail", "--from", "earliest", "--follow=false"]);
    assert_eq!(outcome.succeeded().lines().count(), 1, "{}", outcome.stdout);
}

#[test]
fn an_interrupt_ends_it_cleanly_and_acknowledges_what_was_written() {
    let server = Fake::start();
    server.state().streams.push_back((vec![opening(), uplink(1)], Ending::Hold));
    let (child, mut output) = spawn(&server, &["events", "tail", "--consumer", "erp"]);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();

    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());

    end(child).succeeded();
    assert!(line.contains("north-1"), "{line}");
    assert_eq!(server.state().acknowledged.last().unwrap().cursor, [1]);
}

#[test]
fn a_reader_that_left_ends_it_cleanly() {
    let server = Fake::start();
    // More than a pipe holds: the command has to write after the reader left.
    let many = std::iter::once(opening()).chain((0..5_000_u32).map(|_| uplink(1))).collect();
    server.state().streams.push_back((many, Ending::Hold));
    let (child, mut output) = spawn(&server, &["events", "tail"]);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();

    drop(output);

    let outcome = end(child);
    outcome.succeeded();
    assert_eq!(outcome.stderr, "");
}

fn spawn(server: &Fake, arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child = server.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

/// Waits for the end of a command, with a deadline.
fn end(child: Child) -> Outcome {
    let id = child.id().to_string();
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(DEADLINE) else {
        let _ = Command::new("kill").args(["-KILL", &id]).status();
        panic!("the command did not end");
    };
    Outcome::of(output.unwrap())
}
