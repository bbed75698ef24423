//! The one writer: a thread that takes work from a channel and commits in groups.
//!
//! One transaction for all that waits, then every waiter goes on. The more there is to write, the
//! larger the groups become, and the cheaper each piece of work.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::StoreError;
use super::checkpoint::Checkpoints;
use super::fold::{self, Fold};
use super::recent::Recent;
use super::requests::Row;
use super::settling::Settling;
use super::sweep::{self, Lifetimes};
use crate::account::{AccountId, Standing};
use crate::affinity::Owner;
use crate::limits;
use crate::metrics::Metrics;
use crate::quota::Quota;

/// A reference to write down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remember {
    /// See [`crate::affinity::Reference`].
    pub digest: [u8; 16],
    /// Where it points.
    pub owner: Owner,
}

impl Remember {
    pub(super) fn as_pair(&self) -> (&[u8; 16], &Owner) {
        (&self.digest, &self.owner)
    }
}

/// Where an account stands, with the number of the change: an older one does not overwrite a newer.
#[derive(Debug, Clone)]
pub struct StandingRow {
    /// Whose it is.
    pub account: AccountId,
    /// The account's revision that it belongs to.
    pub revision: i64,
    /// Rises with every change of the account.
    pub sequence: i64,
    /// The standing.
    pub standing: Standing,
}

/// What has changed of an account, but for its standing.
#[derive(Debug, Clone)]
pub struct AccountRow {
    /// Whose it is.
    pub account: AccountId,
    /// Whose turn it is.
    pub rotation: Option<u64>,
    /// What its upstream said about its quota.
    pub quota: Option<Quota>,
}

/// What is written in one step: all of it or nothing.
#[derive(Debug, Default)]
pub struct Work {
    /// References whose owner is known now.
    pub remember: Vec<Remember>,
    /// A reference that its owner does not know any more.
    pub forget: Option<[u8; 16]>,
    /// The row, as it stands.
    pub row: Option<Box<Row>>,
    /// Where an account stands now.
    pub standing: Option<Box<StandingRow>>,
    /// What else has changed of accounts.
    pub accounts: Vec<AccountRow>,
}

impl Work {
    /// Gives the number of the last of its references.
    fn write(&self, connection: &Connection, fold: Fold) -> rusqlite::Result<Option<i64>> {
        let mut last = None;
        if !self.remember.is_empty() {
            let mut statement =
                connection.prepare_cached(include_str!("../../sql/queries/remember_reference.sql"))?;
            for Remember { digest, owner } in &self.remember {
                let conversation = owner.conversation.0.as_bytes();
                statement.execute(params![
                    digest,
                    owner.account.0,
                    conversation,
                    owner.expires_at_ms,
                    owner.detour_since_ms,
                    owner.connection.map(|connection| connection.0)
                ])?;
            }
            last = Some(connection.last_insert_rowid());
        }
        if let Some(digest) = &self.forget {
            for query in [
                include_str!("../../sql/queries/forget_recent_reference.sql"),
                include_str!("../../sql/queries/forget_settled_reference.sql"),
            ] {
                connection.prepare_cached(query)?.execute([digest])?;
            }
        }
        if let Some(row) = &self.row {
            fold::write_row(connection, fold, row)?;
        }
        if let Some(changed) = &self.standing {
            let (word, until_ms, reason) = changed.standing.status.columns();
            let mut statement =
                connection.prepare_cached(include_str!("../../sql/queries/set_account_status.sql"))?;
            statement.execute(params![
                changed.account.0,
                changed.revision,
                changed.sequence,
                word,
                until_ms,
                reason,
                serde_json::json!(changed.standing.limited_models).to_string()
            ])?;
        }
        for changed in &self.accounts {
            if let Some(rotation) = changed.rotation {
                let mut statement =
                    connection.prepare_cached(include_str!("../../sql/queries/set_account_rotation.sql"))?;
                statement.execute(params![
                    changed.account.0,
                    i64::try_from(rotation).unwrap_or(i64::MAX)
                ])?;
            }
            if let Some(quota) = &changed.quota {
                let mut statement =
                    connection.prepare_cached(include_str!("../../sql/queries/set_account_quota.sql"))?;
                statement.execute(params![changed.account.0, quota.to_json()])?;
            }
        }
        Ok(last)
    }

    fn remembered(&self) -> impl Iterator<Item = (&[u8; 16], &Owner)> {
        self.remember.iter().map(Remember::as_pair)
    }
}

type Done<T> = oneshot::Sender<Result<T, StoreError>>;

enum Job {
    Write(Work, Option<Done<()>>),
    /// What is swept at what time, and whether the sweep begins.
    Sweep(Lifetimes, i64, bool, Done<bool>),
    Fold(i64, Done<bool>),
}

/// The handle of the writer's thread.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    trouble: Arc<Mutex<Option<String>>>,
    runtime: tokio::runtime::Handle,
    thread: Mutex<Option<JoinHandle<()>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        checkpoints: Checkpoints,
        recent: Arc<Recent>,
        settling: Settling,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Writer> {
        let (sender, jobs) = mpsc::channel(limits::WRITER_QUEUE_MAX);
        let trouble = Arc::new(Mutex::new(None));
        let runtime = tokio::runtime::Handle::current();
        let thread = WriterThread {
            connection,
            checkpoints,
            jobs,
            recent,
            settling,
            metrics,
            backlog: VecDeque::new(),
            retry_at: Instant::now(),
            trouble: trouble.clone(),
            runtime: runtime.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || thread.run())?;
        Ok(Writer {
            jobs: Mutex::new(Some(sender)),
            trouble,
            runtime,
            thread: Mutex::new(Some(thread)),
        })
    }

    fn sender(&self) -> Option<mpsc::Sender<Job>> {
        locked(&self.jobs).clone()
    }

    pub(super) async fn write(&self, work: Work) -> Result<(), StoreError> {
        let (done, written) = oneshot::channel();
        self.send(Job::Write(work, Some(done)))?;
        written.await.map_err(|_| StoreError::Closed)?
    }

    pub(super) async fn sweep(
        &self,
        lifetimes: Lifetimes,
        now_ms: i64,
        begins: bool,
    ) -> Result<bool, StoreError> {
        let (done, swept) = oneshot::channel();
        self.send(Job::Sweep(lifetimes, now_ms, begins, done))?;
        swept.await.map_err(|_| StoreError::Closed)?
    }

    pub(super) async fn fold(&self, before_id: i64) -> Result<bool, StoreError> {
        let (done, folded) = oneshot::channel();
        self.send(Job::Fold(before_id, done))?;
        folded.await.map_err(|_| StoreError::Closed)?
    }

    /// Hands a job over. It is not lost if the caller goes away while the queue is full.
    fn send(&self, job: Job) -> Result<(), StoreError> {
        let sender = self.sender().ok_or(StoreError::Closed)?;
        match sender.try_send(job) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(StoreError::Closed),
            Err(mpsc::error::TrySendError::Full(job)) => {
                self.runtime.spawn(async move { sender.send(job).await.ok() });
                Ok(())
            }
        }
    }

    pub(super) fn write_later(&self, work: Work) {
        self.send(Job::Write(work, None)).ok();
    }

    pub(super) fn trouble(&self) -> Option<String> {
        locked(&self.trouble).clone()
    }

    pub(super) fn close(&self) {
        drop(locked(&self.jobs).take());
        if let Some(thread) = locked(&self.thread).take() {
            thread.join().ok();
        }
    }
}

struct WriterThread {
    connection: Connection,
    checkpoints: Checkpoints,
    jobs: mpsc::Receiver<Job>,
    recent: Arc<Recent>,
    settling: Settling,
    metrics: Arc<Metrics>,
    /// What could not be written, oldest first.
    backlog: VecDeque<Work>,
    /// When it is tried again.
    retry_at: Instant,
    trouble: Arc<Mutex<Option<String>>>,
    runtime: tokio::runtime::Handle,
}

impl WriterThread {
    fn run(mut self) {
        while let Some(first) = self.next() {
            // Where threads share a core, whoever was about to hand something over does so now: the
            // group is larger, and each piece of work cheaper. Elsewhere this is nothing.
            std::thread::yield_now();
            let mut group = Vec::new();
            let mut next = first;
            while let Some(job) = next {
                group.push(job);
                let full = group.len() >= limits::WRITER_GROUP_MAX;
                next = if full { None } else { self.jobs.try_recv().ok() };
            }
            self.serve(group);
        }
        self.write_the_last();
        if !self.backlog.is_empty() {
            tracing::error!(
                lost = self.backlog.len(),
                "ended while the database could not be written"
            );
        }
        drop(self.checkpoints);
        self.connection
            .execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE);")
            .ok();
    }

    /// Clients have seen what is in the backlog: it is worth some patience.
    fn write_the_last(&mut self) {
        let begin = Instant::now();
        self.try_backlog();
        while !self.backlog.is_empty() && begin.elapsed() < limits::SHUTDOWN_GRACE {
            std::thread::sleep(limits::UNWRITTEN_RETRY);
            self.try_backlog();
        }
    }

    /// Waits for work. `None` at the end; `Some(None)` when it is time to try the backlog again,
    /// which comes in its turn however much work comes.
    fn next(&mut self) -> Option<Option<Job>> {
        if self.backlog.is_empty() {
            return self.jobs.blocking_recv().map(Some);
        }
        if Instant::now() < self.retry_at {
            let wait = async { tokio::time::timeout_at(self.retry_at, self.jobs.recv()).await };
            if let Ok(job) = self.runtime.block_on(wait) {
                return job.map(Some);
            }
        }
        self.write_backlog();
        Some(None)
    }

    fn serve(&mut self, group: Vec<Job>) {
        let mut works = Vec::with_capacity(group.len());
        let mut chores = Vec::new();
        for job in group {
            match job {
                Job::Write(work, done) => works.push((work, done)),
                chore => chores.push(chore),
            }
        }
        self.write(works);
        // Behind the clients: none of them waits for a chore that came before it.
        for chore in chores {
            self.do_chore(chore);
        }
    }

    fn do_chore(&mut self, chore: Job) {
        match chore {
            Job::Write(..) => {}
            Job::Sweep(lifetimes, now_ms, begins, done) => {
                let settles = self.settling.in_sweep(&mut self.connection, begins);
                let swept = settles
                    .and_then(|more| Ok(sweep::batch(&mut self.connection, lifetimes, now_ms)? || more));
                done.send(swept.map_err(StoreError::from)).ok();
            }
            Job::Fold(before_id, done) => {
                let folded = fold::batch(&mut self.connection, before_id, limits::FOLD_BATCH_ROWS);
                done.send(folded.map_err(StoreError::from)).ok();
            }
        }
        self.checkpoints.committed(&self.connection);
    }

    fn write(&mut self, works: Vec<(Work, Option<Done<()>>)>) {
        if works.is_empty() {
            return;
        }
        // While there is a backlog nobody waits for a database that cannot be written.
        if self.backlog.is_empty() {
            let begin = Instant::now();
            match commit(&mut self.connection, works.iter().map(|(work, _)| work)) {
                Ok(numbers) => {
                    self.metrics.commit.observe(begin.elapsed().as_secs_f64());
                    return self.committed(works, &numbers);
                }
                Err(error) => self.note_trouble(&error),
            }
        }
        self.keep(works);
    }

    fn committed(&mut self, works: Vec<(Work, Option<Done<()>>)>, numbers: &[Option<i64>]) {
        for ((work, done), last) in works.into_iter().zip(numbers) {
            self.publish(&work, *last);
            if let Some(done) = done {
                done.send(Ok(())).ok();
            }
        }
        self.checkpoints.committed(&self.connection);
        self.settle();
    }

    /// Behind the back of those who waited: they have their answer.
    fn settle(&mut self) {
        if let Err(error) = self.settling.after_commit(&mut self.connection) {
            tracing::debug!(%error, "references settle later");
        }
    }

    fn publish(&mut self, work: &Work, last: Option<i64>) {
        self.settling.committed(&work.remember, last);
        self.recent.written(work.remembered());
        if let Some(digest) = &work.forget {
            self.settling.forget(digest);
            self.recent.forget(digest);
        }
        if self.settling.is_full() {
            self.settle();
        }
    }

    fn keep(&mut self, works: Vec<(Work, Option<Done<()>>)>) {
        for (work, done) in works {
            self.recent.unwritten(work.remembered());
            if self.backlog.len() >= limits::UNWRITTEN_MAX
                && let Some(dropped) = self.backlog.pop_front()
            {
                self.recent.lost(dropped.remembered());
                tracing::error!(
                    "the database cannot be written, and memory for what is to be written is full: the oldest was dropped"
                );
            }
            self.backlog.push_back(work);
            if let Some(done) = done {
                done.send(Err(StoreError::Unwritten)).ok();
            }
        }
    }

    /// Does not wait for a lock: requests would wait with it.
    fn write_backlog(&mut self) {
        self.connection.busy_timeout(Duration::ZERO).ok();
        self.try_backlog();
        self.connection.busy_timeout(limits::BUSY_TIMEOUT).ok();
    }

    fn try_backlog(&mut self) {
        while !self.backlog.is_empty() {
            let count = self.backlog.len().min(limits::WRITER_GROUP_MAX);
            let numbers = match commit(&mut self.connection, self.backlog.range(..count)) {
                Ok(numbers) => numbers,
                Err(error) => return self.note_trouble(&error),
            };
            for (work, last) in self.backlog.drain(..count).zip(numbers).collect::<Vec<_>>() {
                self.publish(&work, last);
            }
            self.checkpoints.committed(&self.connection);
        }
        if locked(&self.trouble).take().is_some() {
            tracing::info!("the database can be written again, and what had waited is written");
        }
    }

    fn note_trouble(&mut self, error: &rusqlite::Error) {
        self.retry_at = Instant::now() + limits::UNWRITTEN_RETRY;
        let text = error.to_string();
        let before = locked(&self.trouble).replace(text.clone());
        if before.is_none() {
            tracing::error!(
                error = text,
                "the database cannot be written; what is to be written is kept in memory"
            );
        }
    }
}

/// One transaction for all. A piece of work that the schema refuses is left out and told in the
/// log; an error of the file or its lock fails the whole group. Gives for each piece the number of the
/// last of its references.
fn commit<'a>(
    connection: &mut Connection,
    works: impl ExactSizeIterator<Item = &'a Work>,
) -> rusqlite::Result<Vec<Option<i64>>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let fold = Fold::read(&transaction)?;
    let mut numbers = Vec::with_capacity(works.len());
    for work in works {
        numbers.push(match work.write(&transaction, fold) {
            Ok(last) => last,
            Err(error) if is_refusal(&error) => {
                tell_refusal(&error);
                None
            }
            Err(error) => return Err(error),
        });
    }
    transaction.commit()?;
    Ok(numbers)
}

/// The schema refuses what is to be written, and would again.
pub(super) fn is_refusal(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
    )
}

pub(super) fn tell_refusal(error: &rusqlite::Error) {
    tracing::error!(%error, "the database refused a row; this is a fault of Moorage");
}
