//! The demo from its first line to its last: events run, valves are turned, and at the end the books are compared.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use proto::v1::{self, enqueue_downlink_request::Content, watch_request::Start, watch_response::Item};
use simulator::farm::{Farm, GATEWAYS, Ledger, devices};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep_until};

use super::account::{Verdict, account};
use super::farm::{eui_text, name_of, register};
use super::order::Orders;
use super::painter::Painter;
use super::seen::Seen;
use super::summary::Summary;
use crate::args::{DemoArgs, Globals};
use crate::client::{Client, Context};
use crate::command::event_line;
use crate::exit::Failure;
use crate::input::Secret;
use crate::output::Output;
use crate::serve::Running;

/// A demo that is running.
pub(super) struct Show {
    client: Client,
    output: Output,
    painter: Painter,
    messages: mpsc::Receiver<Message>,
    farm: Option<Farm>,
    orders: Orders,
    seen: Seen,
    /// After the last event that was shown.
    cursor: Vec<u8>,
    acknowledged: Vec<u8>,
    interrupt: Signal,
    terminate: Signal,
    started: Instant,
    /// When it ends by itself.
    end: Option<Instant>,
    phase: Phase,
}

/// How far it is.
enum Phase {
    /// The farm lives.
    Running,
    /// The farm lives, but no more orders are given: those under way come to their end, or the time is over.
    Settling(Instant),
    /// The devices finish their exchanges.
    Stopping(JoinHandle<Ledger>),
    /// All is sent; the last events come.
    Comparing { ledger: Box<Ledger>, until: Instant, complete_since: Option<Instant> },
}

/// What the stream brought, and when.
type Message = (Instant, Result<v1::WatchResponse, tonic::Status>);

impl Show {
    /// Registers the farm, opens the stream, and switches the devices on.
    pub(super) async fn open(server: &Running, folder: &Path, args: &DemoArgs) -> anyhow::Result<Self> {
        let output = Output::new(args.output);
        let client = connect(server, output, args).await?;
        register(&client).await?;
        intro(server, folder, output)?;
        let request = v1::WatchRequest {
            consumer: CONSUMER.to_owned(),
            start: Some(Start::Committed(true)),
            ..v1::WatchRequest::default()
        };
        let mut stream = client.ask(client.events().watch(request)).await?;
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        // A task of its own, so that the time of arrival is right while this one asks the server something.
        tokio::spawn(async move {
            loop {
                let message = match stream.message().await {
                    Ok(Some(message)) => Ok(message),
                    Ok(None) => Err(tonic::Status::unavailable("the stream ended")),
                    Err(status) => Err(status),
                };
                let is_last = message.is_err();
                if sender.send((Instant::now(), message)).await.is_err() || is_last {
                    return;
                }
            }
        });
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let farm = Farm::start(server.udp, args.seed.unwrap_or(SEED));
        let farm = farm.await.context("the farm's gateways cannot reach the server")?;
        let started = Instant::now();
        Ok(Self {
            client,
            output,
            painter: painter(),
            messages,
            farm: Some(farm),
            orders: Orders::new(),
            seen: Seen::default(),
            cursor: Vec::new(),
            acknowledged: Vec::new(),
            interrupt,
            terminate,
            started,
            end: end_after(started, args.seconds),
            phase: Phase::Running,
        })
    }

    /// Shows events until the end, and tells whether all is accounted for.
    pub(super) async fn run(mut self) -> anyhow::Result<ExitCode> {
        let mut order_due = interval_at(self.started + FIRST_ORDER_AFTER, ORDER_PERIOD);
        order_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval(LOOK_PERIOD);
        loop {
            let end = self.end.filter(|_| matches!(self.phase, Phase::Running));
            tokio::select! {
                message = self.messages.recv() => {
                    let (at, message) = message.context("the stream of events ended")?;
                    let message = message.map_err(|status| self.client.refusal(&status))?;
                    self.take(at, message)?;
                }
                _ = order_due.tick() => self.order().await?,
                () = sleep_until(end.unwrap_or(self.started)), if end.is_some() => self.settle()?,
                _ = self.interrupt.recv() => if let Some(code) = self.interrupted()? { return Ok(code) },
                _ = self.terminate.recv() => if let Some(code) = self.interrupted()? { return Ok(code) },
                _ = look.tick() => {
                    self.acknowledge().await?;
                    if let Some((ledger, verdict)) = self.advance().await? {
                        return self.finish(&ledger, &verdict).await;
                    }
                }
            }
        }
    }

    fn take(&mut self, at: Instant, message: v1::WatchResponse) -> Result<(), Failure> {
        match &message.item {
            Some(Item::Event(event)) => {
                self.seen.take(event, event_line::kind_word(event), at);
                if self.output.is_json() {
                    self.output.line(&event_line::event(event, &message.cursor))?;
                } else if let Some(line) = self.painter.line(event, screen_width()) {
                    self.output.line(&line)?;
                }
            }
            Some(Item::Gap(gap)) => {
                self.seen.take_gap(gap);
                if self.output.is_json() {
                    self.output.line(&event_line::gap(gap, &message.cursor))?;
                }
            }
            Some(Item::Heartbeat(_)) | None => {}
        }
        if !message.cursor.is_empty() {
            self.cursor = message.cursor;
        }
        Ok(())
    }

    /// Tells the server how far this consumer is. What was gathered since the last time goes in one call.
    async fn acknowledge(&mut self) -> Result<(), Failure> {
        if self.cursor == self.acknowledged {
            return Ok(());
        }
        let request = v1::AcknowledgeRequest { consumer: CONSUMER.to_owned(), cursor: self.cursor.clone() };
        self.client.ask(self.client.events().acknowledge(request)).await?;
        self.acknowledged.clone_from(&self.cursor);
        Ok(())
    }

    /// Turns a valve, unless there would be no time left for its answer.
    async fn order(&mut self) -> Result<(), Failure> {
        let in_time = self.end.is_none_or(|end| Instant::now() + ORDER_NEEDS <= end);
        if !in_time || !matches!(self.phase, Phase::Running) {
            return Ok(());
        }
        let seen = &self.seen;
        let is_ready = |dev_eui| seen.joins.contains_key(&dev_eui) && !seen.has_open_item(dev_eui);
        let Some(order) = self.orders.next(is_ready) else { return Ok(()) };
        let request = v1::EnqueueDownlinkRequest {
            dev_eui: eui_text(order.dev_eui.value()),
            content: Some(Content::ObjectJson(order.object_json)),
            confirmed: true,
            priority: ORDER_PRIORITY,
            ..v1::EnqueueDownlinkRequest::default()
        };
        let answer = self.client.ask(self.client.downlinks().enqueue_downlink(request)).await?;
        let Some(downlink) = answer.downlink else {
            return Err(Failure::error(format!("the order for {} has no answer", name_of(order.dev_eui))));
        };
        self.painter.orders.insert(downlink.id.clone(), order.words);
        self.seen.ordered(order.dev_eui, downlink);
        Ok(())
    }

    /// No more orders; what is under way comes to its end.
    fn settle(&mut self) -> Result<(), Failure> {
        self.phase = Phase::Settling(Instant::now() + SETTLE_MAX);
        self.aside(&self.painter.dim("… ending: what is under way comes to its end (Ctrl-C ends at once)"))
    }

    /// The first time ends the demo in good order, the second at once.
    fn interrupted(&mut self) -> Result<Option<ExitCode>, Failure> {
        if matches!(self.phase, Phase::Running) {
            self.settle()?;
            return Ok(None);
        }
        Ok(Some(ExitCode::from(INTERRUPTED)))
    }

    /// Moves on to the next phase when its time has come; at the end gives the books.
    async fn advance(&mut self) -> anyhow::Result<Option<(Ledger, Verdict)>> {
        let now = Instant::now();
        match &mut self.phase {
            Phase::Running => {}
            Phase::Settling(until) => {
                if (self.seen.open_items() == 0 || now >= *until)
                    && let Some(farm) = self.farm.take()
                {
                    self.phase = Phase::Stopping(tokio::spawn(farm.stop()));
                }
            }
            Phase::Stopping(stopping) => {
                if stopping.is_finished() {
                    let ledger = Box::new(stopping.await.context("the farm did not stop well")?);
                    let until = Instant::now() + STRAGGLERS_MAX;
                    self.phase = Phase::Comparing { ledger, until, complete_since: None };
                }
            }
            Phase::Comparing { ledger, until, complete_since } => {
                let verdict = account(ledger, &self.seen);
                if verdict.missing.is_empty() {
                    // A moment longer: what comes twice comes after the first time.
                    let since = *complete_since.get_or_insert(now);
                    if now < since + QUIET {
                        return Ok(None);
                    }
                } else if now < *until {
                    *complete_since = None;
                    return Ok(None);
                }
                return Ok(Some((std::mem::take(&mut **ledger), verdict)));
            }
        }
        Ok(None)
    }

    async fn finish(&self, ledger: &Ledger, verdict: &Verdict) -> anyhow::Result<ExitCode> {
        let info = self.client.ask(self.client.system().get_info(v1::GetInfoRequest {})).await?;
        let summary = Summary::new(self.started.elapsed(), ledger, &self.seen, info.drops, verdict);
        let code = if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        if self.output.is_json() {
            self.output.line(&summary.json().to_string())?;
            return Ok(code);
        }
        self.output.line("")?;
        for (name, text) in summary.lines() {
            self.output.line(&format!("{} {text}", self.painter.dim(&format!("{name:<10}"))))?;
        }
        if verdict.is_good() {
            self.output.line(
                &self.painter.verdict("All that was sent is accounted for, and nothing else came.", true),
            )?;
            return Ok(code);
        }
        let problems = summary.problems();
        let head = format!("Not accounted for ({}):", problems.len());
        self.output.line(&self.painter.verdict(&head, false))?;
        for problem in problems.iter().take(PROBLEMS_SHOWN) {
            self.output.line(&format!("  {problem}"))?;
        }
        if problems.len() > PROBLEMS_SHOWN {
            self.output
                .line(&format!("  … and {} more; --output json lists all", problems.len() - PROBLEMS_SHOWN))?;
        }
        Ok(code)
    }

    /// A line that is none of the events.
    fn aside(&self, text: &str) -> Result<(), Failure> {
        if self.output.is_json() { Ok(()) } else { self.output.line(text) }
    }
}

/// Connects the way the other commands do, with nothing but what the server told.
async fn connect(server: &Running, output: Output, args: &DemoArgs) -> Result<Client, Failure> {
    let globals = Globals {
        server: Some(format!("http://{}", server.api)),
        api_key: Some(Secret::Literal(server.admin_key.clone())),
        ca: None,
        data_dir: None,
        // An empty file: a loam.toml of this directory speaks of another server.
        config: Some("/dev/null".into()),
        output: args.output,
    };
    Context { globals, output }.connect().await
}

fn intro(server: &Running, folder: &Path, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(());
    }
    let program = std::env::args().next().unwrap_or_else(|| "loam".to_owned());
    let (gateways, devices) = (GATEWAYS.len(), devices().len());
    output.line(&format!(
        "A farm on simulated air, real UDP and a real server: {gateways} gateways, {devices} devices."
    ))?;
    output.line("Each line is an event: time, device, values, gateways (best first, SNR), FCnt.")?;
    output.line(&format!(
        "In another terminal: {program} --server http://{} --data-dir {} device list",
        server.api,
        folder.display()
    ))?;
    output.line("")
}

fn painter() -> Painter {
    Painter {
        colour: std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        zone: jiff::tz::TimeZone::system(),
        gateways: GATEWAYS.map(|(name, eui)| (eui_text(eui), name.to_owned())).into(),
        orders: std::collections::BTreeMap::new(),
    }
}

/// When a demo of so many seconds ends; never when that lies beyond all time.
fn end_after(started: Instant, seconds: Option<u64>) -> Option<Instant> {
    started.checked_add(Duration::from_secs(seconds?))
}

/// The terminal may be made wider or narrower at any time.
fn screen_width() -> usize {
    comfy_table::Table::new().width().map_or(WIDTH_WITHOUT_TERMINAL, usize::from)
}

/// The name of this consumer; its position is kept by the server.
const CONSUMER: &str = "demo";
const SEED: u64 = 1;
const WIDTH_WITHOUT_TERMINAL: usize = 100;
const MESSAGES_MAX: usize = 1_024;
const ORDER_PRIORITY: u32 = 50;
const PROBLEMS_SHOWN: usize = 20;
/// As the shell says it: 128 and the number of the signal.
const INTERRUPTED: u8 = 130;

/// By then the devices have joined.
const FIRST_ORDER_AFTER: Duration = Duration::from_secs(9);
const ORDER_PERIOD: Duration = Duration::from_secs(10);
/// Two reports of a valve, one to take the order and one to acknowledge it, and some air.
const ORDER_NEEDS: Duration = Duration::from_secs(12);
/// Three attempts of two reports each.
const SETTLE_MAX: Duration = Duration::from_secs(30);
const STRAGGLERS_MAX: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_secs(1);
const LOOK_PERIOD: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_of_more_seconds_than_there_will_be_has_no_end() {
        let started = Instant::now();

        assert_eq!(end_after(started, Some(60)), Some(started + Duration::from_secs(60)));
        assert_eq!(end_after(started, Some(u64::MAX)), None);
        assert_eq!(end_after(started, None), None);
    }
}
