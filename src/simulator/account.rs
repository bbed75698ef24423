//! What one simulated account knows: its responses, its seal, its cache, and how it was told to fail.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::cache::{Cached, PromptCache};
use super::canned::Canned;
use super::codex::Plan;
use super::fault::Fault;
use super::journal::Journal;
use super::login::LoginServer;
use super::refusal::Refusal;
use super::things::Things;
use super::{AccountConfig, SimulatorConfig};
use crate::clock::now_ms;

/// Responses that are kept; the oldest are forgotten.
const RESPONSES_MAX: usize = 20_000;

/// A response that can be continued.
#[derive(Debug)]
pub(super) struct Kept {
    /// The one that it followed.
    parent: Option<Arc<Kept>>,
    /// What its request added, and what it answered.
    pub(super) text: String,
    /// Turns of the user so far.
    pub(super) turns: usize,
    /// The whole object, to be retrieved.
    pub(super) object: Value,
    /// The items of its request.
    pub(super) input: Vec<Value>,
}

impl Kept {
    /// Whether a developer has said something.
    pub(super) fn is_instructed(&self) -> bool {
        let here = self.input.iter().any(|item| item["role"] == "developer");
        here || self.parent.as_ref().is_some_and(|parent| parent.is_instructed())
    }

    pub(super) fn new(
        parent: Option<Arc<Kept>>,
        text: String,
        turns: usize,
        object: Value,
        input: Vec<Value>,
    ) -> Kept {
        Kept {
            parent,
            text,
            turns,
            object,
            input,
        }
    }

    /// The text of the whole chain, oldest first.
    pub(super) fn context(self: &Arc<Kept>) -> String {
        let mut chain = vec![self];
        while let Some(parent) = chain.last().and_then(|last| last.parent.as_ref()) {
            chain.push(parent);
        }
        chain.iter().rev().map(|kept| kept.text.as_str()).collect()
    }
}

/// The state of one account.
#[derive(Debug)]
pub(super) struct State {
    pub(super) name: String,
    pub(super) api_key: String,
    pub(super) reply_delay: Duration,
    pub(super) delta_delay: Duration,
    pub(super) keeps_journal: bool,
    /// How long a WebSocket may live; `None` if the account speaks HTTP only.
    pub(super) socket_life: Option<Duration>,
    /// How many of them are open.
    pub(super) open_sockets: AtomicUsize,
    pub(super) canned: Canned,
    /// Of the backend of ChatGPT logins: who knows its tokens.
    pub(super) login: Option<Arc<LoginServer>>,
    /// Of the same: what its plan has left.
    pub(super) plan: Plan,
    next_id: AtomicU64,
    journal: Mutex<Journal>,
    domain: Arc<Domain>,
    /// The models that it has; any, if none is named.
    models: Vec<String>,
    pub(super) lists_models: bool,
    faults: Mutex<Faults>,
}

/// What the accounts of one state domain hold together.
#[derive(Debug)]
pub(super) struct Domain {
    /// What its seal is made with.
    name: String,
    memory: Mutex<Memory>,
    things: Mutex<Things>,
}

impl Domain {
    pub(super) fn of(name: &str) -> Domain {
        Domain {
            name: name.to_owned(),
            memory: Mutex::default(),
            things: Mutex::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Memory {
    responses: HashMap<String, Arc<Kept>>,
    /// Responses in the background: how often each was asked for, and whether it was cancelled.
    background: HashMap<String, Progress>,
    order: VecDeque<String>,
    items: HashSet<String>,
    cache: PromptCache,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    polls: u32,
    is_cancelled: bool,
}

#[derive(Debug, Default)]
struct Faults {
    queued: VecDeque<Fault>,
    always: Option<Fault>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(super) fn new(
        account: &AccountConfig,
        config: &SimulatorConfig,
        login: Option<Arc<LoginServer>>,
        domain: Arc<Domain>,
    ) -> State {
        State {
            name: account.name.clone(),
            api_key: account.api_key.clone(),
            reply_delay: config.reply_delay,
            delta_delay: config.delta_delay,
            keeps_journal: config.journal,
            socket_life: account.has_websocket.then_some(config.socket_life),
            open_sockets: AtomicUsize::new(0),
            canned: Canned::default(),
            login,
            plan: Plan::default(),
            next_id: AtomicU64::new(1),
            journal: Mutex::default(),
            domain,
            models: account.models.clone(),
            lists_models: account.lists_models,
            faults: Mutex::default(),
        }
    }

    pub(super) fn things(&self) -> MutexGuard<'_, Things> {
        locked(&self.domain.things)
    }

    /// The models that it lists.
    pub(super) fn models(&self) -> Vec<String> {
        match self.models.is_empty() {
            true => vec!["sim-large".to_owned(), "sim-small".to_owned()],
            false => self.models.clone(),
        }
    }

    pub(super) fn check_model(&self, model: Option<&str>) -> Result<(), Refusal> {
        match model {
            Some(model) if !self.models.is_empty() && !self.models.iter().any(|known| known == model) => {
                Err(Refusal::no_model(model))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        locked(&self.journal)
    }

    /// A new id with this prefix. Those of two accounts, and of two runs, are never the same. Like
    /// the real ones they begin with the second in which they were made.
    pub(super) fn id(&self, prefix: &str) -> String {
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        let seconds = now_ms() / 1000;
        format!(
            "{prefix}_{seconds:08x}{}{number:06x}",
            uuid::Uuid::new_v4().simple()
        )
    }

    pub(super) fn script(&self, fault: Fault) {
        locked(&self.faults).queued.push_back(fault);
    }

    pub(super) fn forget_faults(&self) {
        *locked(&self.faults) = Faults::default();
    }

    pub(super) fn always(&self, fault: Option<Fault>) {
        let mut faults = locked(&self.faults);
        faults.queued.clear();
        faults.always = fault;
    }

    /// How all requests are to fail: also those that nobody in front of a test has made.
    pub(super) fn lasting_fault(&self) -> Option<Fault> {
        locked(&self.faults).always.clone()
    }

    /// How the next request is to fail.
    pub(super) fn next_fault(&self) -> Option<Fault> {
        let mut faults = locked(&self.faults);
        faults.queued.pop_front().or_else(|| faults.always.clone())
    }

    /// How the next upgrade to WebSocket is to be refused, or accepted late, if it is.
    pub(super) fn upgrade_fault(&self) -> Option<Fault> {
        let mut faults = locked(&self.faults);
        if faults.queued.front().is_some_and(|fault| fault.upgrade.is_some()) {
            return faults.queued.pop_front();
        }
        faults.always.clone().filter(|fault| fault.upgrade.is_some())
    }

    pub(super) fn kept(&self, id: &str) -> Option<Arc<Kept>> {
        locked(&self.domain.memory).responses.get(id).cloned()
    }

    pub(super) fn keep(&self, id: &str, kept: Arc<Kept>) {
        let mut memory = locked(&self.domain.memory);
        for item in kept.object["output"].as_array().into_iter().flatten() {
            memory.items.extend(item["id"].as_str().map(str::to_owned));
        }
        if memory.order.len() >= RESPONSES_MAX
            && let Some(oldest) = memory.order.pop_front()
        {
            memory.responses.remove(&oldest);
        }
        memory.order.push_back(id.to_owned());
        memory.responses.insert(id.to_owned(), kept);
    }

    /// Lets a response run in the background: it goes on whenever it is asked for.
    pub(super) fn run_in_background(&self, id: &str) {
        locked(&self.domain.memory)
            .background
            .insert(id.to_owned(), Progress::default());
    }

    /// The status of a response in the background now; `None` for any other. It runs when it is asked
    /// for the first time, and has ended the second time.
    pub(super) fn progress(&self, id: &str) -> Option<&'static str> {
        let mut memory = locked(&self.domain.memory);
        let progress = memory.background.get_mut(id)?;
        progress.polls += 1;
        Some(match (progress.is_cancelled, progress.polls) {
            (true, _) => "cancelled",
            (false, 1) => "in_progress",
            (false, _) => "completed",
        })
    }

    /// Cancels a response in the background; tells whether it is one.
    pub(super) fn cancel(&self, id: &str) -> bool {
        let mut memory = locked(&self.domain.memory);
        let progress = memory.background.get_mut(id);
        progress.map(|progress| progress.is_cancelled = true).is_some()
    }

    pub(super) fn forget(&self, id: &str) -> bool {
        locked(&self.domain.memory).responses.remove(id).is_some()
    }

    pub(super) fn knows_item(&self, id: &str) -> bool {
        locked(&self.domain.memory).items.contains(id)
    }

    pub(super) fn cached(&self, key: Option<&str>, context: &str) -> Cached {
        locked(&self.domain.memory).cache.pass(key, context.as_bytes())
    }

    /// Reasoning that only this account can open, and those that share its state.
    pub(super) fn seal(&self) -> String {
        let nonce = *uuid::Uuid::new_v4().as_bytes();
        let tag = self.tag(&nonce);
        format!("gAAAA{}", URL_SAFE_NO_PAD.encode([&nonce[..], &tag].concat()))
    }

    /// Whether it was made here.
    pub(super) fn opens(&self, sealed: &str) -> bool {
        let decoded = sealed
            .strip_prefix("gAAAA")
            .and_then(|sealed| URL_SAFE_NO_PAD.decode(sealed).ok());
        let parts = decoded.as_ref().and_then(|bytes| bytes.split_first_chunk::<16>());
        parts.is_some_and(|(nonce, tag)| tag == self.tag(nonce))
    }

    fn tag(&self, nonce: &[u8; 16]) -> [u8; 32] {
        let digest = Sha256::new()
            .chain_update("the seal of ")
            .chain_update(&self.domain.name)
            .chain_update(nonce);
        digest.finalize().into()
    }
}
