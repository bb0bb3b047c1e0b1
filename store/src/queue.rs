//! The queue in front of the writer.
//!
//! A plain queue under a mutex and not a channel, because the writer wants to sleep through a batch that is filling up: whoever adds
//! wakes it when it has nothing to do or when the batch is full, not ten thousand times a second. A writer is a thread or a task; each
//! has its own way to sleep.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::job::Job;
use crate::journal::{Submission, TrySubmitError};
use crate::{StoreError, StoreOptions};

/// What the writer does next.
pub(crate) enum Turn {
    Journal(Vec<Submission>),
    Jobs,
    Close,
}

pub(crate) struct Queue<J: ?Sized> {
    state: Mutex<State<J>>,
    /// Wakes the writer.
    work: Bell,
    /// Wakes whoever waits for room.
    room: Bell,
    steps_max: usize,
    gather: Duration,
}

struct State<J: ?Sized> {
    submissions: VecDeque<Submission>,
    jobs: VecDeque<Box<J>>,
    /// Nothing more is taken; what is here is finished.
    closing: bool,
}

impl<J: Job + ?Sized> Queue<J> {
    pub(crate) fn new(options: &StoreOptions) -> Self {
        Self {
            state: Mutex::new(State { submissions: VecDeque::new(), jobs: VecDeque::new(), closing: false }),
            work: Bell::default(),
            room: Bell::default(),
            steps_max: options.group_max_steps.max(1),
            gather: Duration::from_millis(options.group_max_delay_ms),
        }
    }

    pub(crate) fn try_push(&self, submission: Submission) -> Result<(), TrySubmitError> {
        let mut state = self.state.lock();
        if state.closing {
            return Err(TrySubmitError::Closed(submission));
        }
        if state.submissions.len() >= SUBMISSIONS_MAX {
            return Err(TrySubmitError::Full(submission));
        }
        self.push_locked(&mut state, submission);
        Ok(())
    }

    pub(crate) fn push_blocking(&self, submission: Submission) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        while state.submissions.len() >= SUBMISSIONS_MAX && !state.closing {
            self.room.threads.wait(&mut state);
        }
        if state.closing {
            return Err(StoreError::Closed);
        }
        self.push_locked(&mut state, submission);
        Ok(())
    }

    pub(crate) async fn push(&self, mut submission: Submission) -> Result<(), StoreError> {
        loop {
            let room = self.room.tasks.notified();
            match self.try_push(submission) {
                Ok(()) => return Ok(()),
                Err(TrySubmitError::Closed(_)) => return Err(StoreError::Closed),
                Err(TrySubmitError::Full(back)) => submission = back,
            }
            room.await;
        }
    }

    pub(crate) async fn push_job(&self, job: Box<J>) -> Result<(), StoreError> {
        loop {
            let room = self.room.tasks.notified();
            {
                let mut state = self.state.lock();
                if state.closing {
                    return Err(StoreError::Closed);
                }
                if state.jobs.len() < JOBS_MAX {
                    state.jobs.push_back(job);
                    if state.jobs.len() == 1 || state.jobs.len() == JOBS_FULL {
                        self.work.ring_one();
                    }
                    return Ok(());
                }
            }
            room.await;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().submissions.len()
    }

    /// Lets the writer finish what is here and end. Idempotent.
    pub(crate) fn close(&self) {
        self.state.lock().closing = true;
        // The writer may be on its way to sleep, which `notify_one` remembers.
        self.work.ring_one();
        self.room.ring_all();
    }

    /// Whether it was asked to close.
    pub(crate) fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    /// What the writer calls when it is gone: whatever waits is dropped, so that its owner learns of it.
    pub(crate) fn end(&self) -> usize {
        self.close();
        let mut state = self.state.lock();
        let (submissions, jobs) = (std::mem::take(&mut state.submissions), std::mem::take(&mut state.jobs));
        drop(state);
        for job in jobs {
            job.finish(Err(StoreError::Closed));
        }
        submissions.len()
    }

    /// Waits on this thread for the next turn.
    ///
    /// The journal goes first and the jobs get every other turn. A lone submission is taken at once; under load commits start no closer
    /// than the gathering time, unless a batch is full.
    pub(crate) fn next_blocking(&self, pace: &Pace) -> Turn {
        let mut state = self.state.lock();
        loop {
            match self.look(&mut state, pace, Instant::now()) {
                Look::Turn(turn) => return turn,
                Look::Sleep(Some(until)) => {
                    self.work.threads.wait_until(&mut state, until.into_std());
                }
                Look::Sleep(None) => self.work.threads.wait(&mut state),
            }
        }
    }

    /// Waits for the next turn like [`Self::next_blocking`], as a task.
    pub(crate) async fn next(&self, pace: &Pace) -> Turn {
        loop {
            let look = self.look(&mut self.state.lock(), pace, Instant::now());
            match look {
                Look::Turn(turn) => return turn,
                Look::Sleep(until) => self.work.sleep(until).await,
            }
        }
    }

    fn look(&self, state: &mut MutexGuard<'_, State<J>>, pace: &Pace, now: Instant) -> Look {
        if state.closing {
            return Look::Turn(if !state.submissions.is_empty() {
                Turn::Journal(self.take(state))
            } else if !state.jobs.is_empty() {
                Turn::Jobs
            } else {
                Turn::Close
            });
        }
        let journal = due(state.submissions.len(), self.steps_max, pace.journal_at, self.gather, now);
        let jobs = due(state.jobs.len(), JOBS_FULL, pace.jobs_at, JOBS_GATHER.min(self.gather), now);
        let jobs_turn = jobs.is_some_and(|at| at <= now);
        let journal_turn = journal.is_some_and(|at| at <= now);
        if journal_turn && !(jobs_turn && pace.last == Last::Journal) {
            return Look::Turn(Turn::Journal(self.take(state)));
        }
        if jobs_turn {
            return Look::Turn(Turn::Jobs);
        }
        Look::Sleep([journal, jobs].into_iter().flatten().min())
    }

    /// The next job of a turn that is under way; `None` ends the turn.
    ///
    /// `elapsed` is how long the turn has taken: it ends early when the journal waits.
    pub(crate) fn next_job(&self, elapsed: Duration) -> Option<Box<J>> {
        let mut state = self.state.lock();
        let enough = if state.submissions.is_empty() { JOBS_TURN_MAX } else { self.gather.max(JOBS_GATHER) };
        if elapsed >= enough {
            return None;
        }
        let job = state.jobs.pop_front();
        if state.jobs.len() == JOBS_MAX - 1 {
            self.room.ring_all();
        }
        job
    }

    /// Waits on this thread before a commit is tried again. False: the store is closing and waiting longer helps nobody.
    pub(crate) fn pause_blocking(&self, duration: Duration) -> bool {
        let started = Instant::now();
        let mut state = self.state.lock();
        while !state.closing {
            let left = duration.saturating_sub(started.elapsed());
            if self.work.threads.wait_for(&mut state, left).timed_out() {
                return true;
            }
        }
        false
    }

    /// Waits like [`Self::pause_blocking`], as a task.
    pub(crate) async fn pause(&self, duration: Duration) -> bool {
        let until = Instant::now().checked_add(duration);
        while !self.is_closing() {
            if until.is_some_and(|until| Instant::now() >= until) {
                return true;
            }
            self.work.sleep(until).await;
        }
        false
    }

    fn push_locked(&self, state: &mut State<J>, submission: Submission) {
        state.submissions.push_back(submission);
        let len = state.submissions.len();
        if len == 1 || len == self.steps_max {
            self.work.ring_one();
        }
    }

    fn take(&self, state: &mut State<J>) -> Vec<Submission> {
        let was_full = state.submissions.len() >= SUBMISSIONS_MAX;
        let count = state.submissions.len().min(self.steps_max);
        let batch = state.submissions.drain(..count).collect();
        if was_full {
            self.room.ring_all();
        }
        batch
    }
}

/// What the writer finds.
enum Look {
    /// Nothing to do before a time, or before somebody rings.
    Sleep(Option<Instant>),
    Turn(Turn),
}

/// Wakes threads and tasks alike.
#[derive(Default)]
struct Bell {
    threads: Condvar,
    tasks: Notify,
}

impl Bell {
    fn ring_one(&self) {
        self.threads.notify_one();
        self.tasks.notify_one();
    }

    fn ring_all(&self) {
        self.threads.notify_all();
        self.tasks.notify_waiters();
    }

    /// Sleeps as a task until a time or the next ring; one that came before counts.
    async fn sleep(&self, until: Option<Instant>) {
        match until {
            // Whatever woke it, the caller looks again.
            Some(until) => drop(tokio::time::timeout_at(until, self.tasks.notified()).await),
            None => self.tasks.notified().await,
        }
    }
}

/// When the last turns began.
pub(crate) struct Pace {
    pub(crate) journal_at: Option<Instant>,
    pub(crate) jobs_at: Option<Instant>,
    pub(crate) last: Last,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Last {
    Jobs,
    Journal,
}

/// When a turn should begin; `None`: nothing waits.
fn due(waiting: usize, full: usize, last: Option<Instant>, gather: Duration, now: Instant) -> Option<Instant> {
    match waiting {
        0 => None,
        n if n >= full => Some(now),
        _ => Some(last.and_then(|last| last.checked_add(gather)).unwrap_or(now)),
    }
}

/// Submissions that may wait: at 10,000 a second, 0.4 s.
pub(crate) const SUBMISSIONS_MAX: usize = 4096;
const JOBS_MAX: usize = 1024;
/// So many jobs make a transaction worth its commit.
const JOBS_FULL: usize = 32;
const JOBS_GATHER: Duration = Duration::from_millis(2);
/// How long a turn of jobs may go on while the journal is empty.
const JOBS_TURN_MAX: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pace(last: Last) -> Pace {
        Pace { journal_at: None, jobs_at: None, last }
    }

    fn nothing() -> Box<dyn Job> {
        Box::new(crate::job::Work::<(), ()>::new(()).0)
    }

    fn queue() -> Queue<dyn Job> {
        Queue::new(&StoreOptions { group_max_steps: 4, ..StoreOptions::default() })
    }

    #[tokio::test]
    async fn the_journal_goes_first_and_jobs_get_every_other_turn() {
        let queue = queue();
        for _ in 0..6 {
            queue.try_push(Submission::default()).unwrap();
        }
        queue.push_job(nothing()).await.unwrap();

        assert!(matches!(queue.next_blocking(&pace(Last::Jobs)), Turn::Journal(batch) if batch.len() == 4));
        assert!(matches!(queue.next_blocking(&pace(Last::Journal)), Turn::Jobs));
        assert!(queue.next_job(Duration::ZERO).is_some());
        assert!(matches!(queue.next_blocking(&pace(Last::Journal)), Turn::Journal(batch) if batch.len() == 2));
    }

    #[tokio::test]
    async fn a_turn_of_jobs_ends_early_when_the_journal_waits() {
        let queue = queue();
        for _ in 0..3 {
            queue.push_job(nothing()).await.unwrap();
        }
        assert!(queue.next_job(Duration::from_millis(10)).is_some());

        queue.try_push(Submission::default()).unwrap();

        assert!(queue.next_job(Duration::from_millis(10)).is_none());
        assert!(queue.next_job(Duration::from_millis(1)).is_some());
    }

    #[test]
    fn a_thread_that_finds_no_room_goes_on_when_the_writer_has_taken_a_batch() {
        let queue = queue();
        for _ in 0..SUBMISSIONS_MAX {
            queue.push_blocking(Submission::default()).unwrap();
        }
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.push_blocking(Submission::default()));
            assert!(matches!(queue.next_blocking(&pace(Last::Jobs)), Turn::Journal(batch) if batch.len() == 4));
            waiting.join().unwrap().unwrap();
        });
        assert_eq!(queue.len(), SUBMISSIONS_MAX - 3);
    }

    /// How long a writer sleeps that has begun turns just now, when `add` brings it so many things, one after the other.
    async fn slept(queue: &Queue<dyn Job>, count: usize, add: impl AsyncFn()) -> Duration {
        let begun = Instant::now();
        let pace = Pace { journal_at: Some(begun), jobs_at: Some(begun), last: Last::Jobs };
        let mut next = std::pin::pin!(queue.next(&pace));
        for _ in 0..count {
            assert!(futures_util::poll!(&mut next).is_pending());
            add().await;
        }
        next.await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_gathers_a_batch_and_is_woken_by_its_first_and_by_its_last() {
        let gather = Duration::from_millis(StoreOptions::default().group_max_delay_ms);
        for (count, expected) in [(1, gather), (3, gather), (4, Duration::ZERO)] {
            let queue = queue();
            let push = async || queue.try_push(Submission::default()).unwrap();
            assert_eq!(slept(&queue, count, push).await, expected, "{count} submissions");
        }
        for (count, expected) in [(1, JOBS_GATHER), (JOBS_FULL - 1, JOBS_GATHER), (JOBS_FULL, Duration::ZERO)] {
            let queue = queue();
            let push = async || queue.push_job(nothing()).await.unwrap();
            assert_eq!(slept(&queue, count, push).await, expected, "{count} jobs");
        }
    }

    #[tokio::test]
    async fn a_task_that_finds_no_room_waits_until_a_batch_is_taken() {
        let queue = queue();
        for _ in 0..SUBMISSIONS_MAX {
            queue.push(Submission::default()).await.unwrap();
        }
        let mut waiting = std::pin::pin!(queue.push(Submission::default()));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        queue.next(&pace(Last::Jobs)).await;
        waiting.await.unwrap();
        assert_eq!(queue.len(), SUBMISSIONS_MAX - 3);
    }

    #[tokio::test]
    async fn a_job_that_finds_no_room_waits_until_one_is_taken() {
        let queue = queue();
        for _ in 0..JOBS_MAX {
            queue.push_job(nothing()).await.unwrap();
        }
        let mut waiting = std::pin::pin!(queue.push_job(nothing()));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(queue.next_job(Duration::ZERO).is_some());
        waiting.await.unwrap();

        queue.close();

        assert!(matches!(queue.push_job(nothing()).await, Err(StoreError::Closed)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_lasts_as_long_as_it_should_or_until_the_queue_is_closed() {
        let queue = queue();
        let begun = Instant::now();
        assert!(queue.pause(Duration::from_secs(1)).await);
        assert_eq!(begun.elapsed(), Duration::from_secs(1));

        let mut pause = std::pin::pin!(queue.pause(Duration::from_secs(1)));
        assert!(futures_util::poll!(&mut pause).is_pending());
        queue.close();
        assert!(!pause.await && !queue.pause_blocking(Duration::from_secs(1)));
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_writer_that_is_gone_counts_what_it_left_and_answers_the_jobs() {
        let queue = queue();
        for _ in 0..3 {
            queue.try_push(Submission::default()).unwrap();
        }
        let (job, answer) = crate::job::Work::<(), ()>::new(());
        queue.push_job(Box::new(job)).await.unwrap();

        assert_eq!(queue.end(), 3);

        assert!(matches!(answer.await, Ok(Err(StoreError::Closed))));
        assert!(queue.is_closing() && queue.len() == 0);
    }

    #[test]
    fn a_full_queue_gives_the_submission_back_and_a_closed_one_takes_nothing() {
        let queue = queue();
        for _ in 0..SUBMISSIONS_MAX {
            queue.try_push(Submission::default()).unwrap();
        }
        assert!(matches!(queue.try_push(Submission::default()), Err(TrySubmitError::Full(_))));
        assert_eq!(queue.len(), SUBMISSIONS_MAX);

        queue.close();

        assert!(matches!(queue.try_push(Submission::default()), Err(TrySubmitError::Closed(_))));
        assert!(matches!(queue.push_blocking(Submission::default()), Err(StoreError::Closed)));
        assert!(matches!(queue.next_blocking(&pace(Last::Jobs)), Turn::Journal(batch) if batch.len() == 4));
    }
}
