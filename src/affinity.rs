//! Where a request goes, and why: a plain function over what the request points with, who owns
//! that, and how the pool looks now. No I/O, no clock.

mod reasons;
mod reference;

use std::sync::Arc;

use crate::account::{Account, AccountId, StateDomain, Usability};

pub use reasons::{Verdict, short, verdicts};
pub use reference::{ConnectionId, ConversationId, Found, Owner, Reference, ReferenceKind, Strength};

/// How an account looks to the planner.
#[derive(Debug, Clone)]
pub struct AccountView {
    /// Which one, and who else holds its state.
    pub account: Arc<Account>,
    /// Whether it can be used now.
    pub usability: Usability,
    /// Whether it has the model of the request; `None` where that is not known.
    pub offers_model: Option<bool>,
}

impl AccountView {
    fn id(&self) -> AccountId {
        self.account.id
    }

    /// An account that does not come back by itself is no home.
    fn comes_back(&self) -> bool {
        self.usability != Usability::Never
    }
}

/// An account that was removed. What it held lives on where its state is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// Which one.
    pub id: AccountId,
    /// What people called it.
    pub name: String,
    /// Who else holds its state.
    pub state_domain: StateDomain,
}

/// All accounts, as the planner sees them.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    /// Those that are there.
    pub here: Vec<AccountView>,
    /// Those that were removed.
    pub gone: Arc<[Gone]>,
}

impl Accounts {
    fn view(&self, id: AccountId) -> Option<&AccountView> {
        self.here.iter().find(|account| account.id() == id)
    }

    /// Where the state of an account is, also of one that was removed.
    pub fn state_domain(&self, id: AccountId) -> Option<&StateDomain> {
        let here = self.view(id).map(|here| &here.account.state_domain);
        let gone = || self.gone.iter().find(|gone| gone.id == id);
        here.or_else(|| gone().map(|gone| &gone.state_domain))
    }

    /// What people call an account, or called it.
    pub fn name(&self, id: AccountId) -> Option<&str> {
        let here = self.view(id).map(|here| here.account.name.as_str());
        let gone = || self.gone.iter().find(|gone| gone.id == id);
        here.or_else(|| gone().map(|gone| gone.name.as_str()))
    }

    /// Whether an account is there.
    pub fn is_here(&self, id: AccountId) -> bool {
        self.view(id).is_some()
    }

    /// Those that hold this state, the one that made it before the others.
    fn members(&self, owner: AccountId) -> Vec<&AccountView> {
        let domain = self.state_domain(owner);
        let shares = |account: &&AccountView| Some(&account.account.state_domain) == domain;
        let mut members: Vec<&AccountView> = self.here.iter().filter(shares).collect();
        members.sort_by_key(|account| account.id() != owner);
        members
    }
}

/// What the planner is told besides references and accounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// All client keys are of one scope: an id that nobody knows can be nobody else's.
    pub one_scope: bool,
    /// Sealed reasoning is left out, because its owner cannot serve or an upstream cannot read it.
    pub without_reasoning: bool,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Only these accounts may serve, the first before the others: they hold the state.
    Pinned(Vec<AccountId>),
    /// This account before all others: its cache is warm.
    Preferred(AccountId),
    /// Any account.
    Free,
    /// The account that holds the state is not there any more, and nobody shares its state.
    OwnerGone(AccountId),
    /// A hard reference that nobody knows, where several accounts could hold it: its position.
    Unknown(usize),
    /// Two hard references that name different state domains: their positions.
    Conflict(usize, usize),
}

/// Which sealed reasoning is left out, because the chosen accounts cannot read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strip {
    /// None.
    Nothing,
    /// That of the input items up to this one.
    Through(usize),
    /// All.
    All,
}

/// Where a request goes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where to.
    pub decision: Decision,
    /// Which reference decided; `None` if nothing did.
    pub by: Option<ReferenceKind>,
    /// Who owns the deciding reference, also if that was removed; a hard one that nobody knows has
    /// no owner.
    pub owner: Option<AccountId>,
    /// What must be left out there.
    pub strip: Strip,
    /// Accounts that are not asked because they do not have the model, while others do.
    pub without_model: Vec<AccountId>,
}

impl Plan {
    /// Whether something known decided.
    pub fn is_known(&self) -> bool {
        self.owner.is_some()
    }

    /// Whether only one account may serve, so that there is nowhere else to go.
    pub fn is_alone(&self) -> bool {
        matches!(&self.decision, Decision::Pinned(members) if members.len() < 2)
    }

    /// Whether the pin can be given up, by leaving out what only its owner can read.
    pub fn yields(&self) -> bool {
        self.by.is_some_and(|by| by.strength() == Strength::Firm)
    }
}

/// Decides. `found` is in the order of [`ReferenceKind`], sealed content newest first; the first
/// that is known decides, and a hard one decides even if it is not. A hard reference is never given
/// up for a softer one.
pub fn plan(found: &[Found], accounts: &Accounts, terms: Terms) -> Plan {
    hard(found, accounts, terms)
        .or_else(|| firm(found, accounts, terms))
        .unwrap_or_else(|| soft(found, accounts, terms))
}

fn hard(found: &[Found], accounts: &Accounts, terms: Terms) -> Option<Plan> {
    let hard = || {
        found
            .iter()
            .enumerate()
            .filter(|(_, found)| found.kind().is_hard())
    };
    let unknown = hard().find(|(_, found)| found.kind().must_be_known() && found.owner.is_none());
    let mut known = hard().filter_map(|(index, found)| Some((index, found.kind(), found.owner?)));
    // With other scopes nothing unknown is passed on beside what is known: it could be theirs.
    let known = known.by_ref().filter(|_| terms.one_scope || unknown.is_none());
    let mut known = known.fuse();
    if let Some((first, by, owner)) = known.next() {
        let other = known.find(|(_, _, other)| !same_home(&owner, other, accounts));
        let decision = match other {
            Some((other, ..)) => Decision::Conflict(first, other),
            None => pin(owner.account, accounts),
        };
        return Some(Plan {
            decision,
            by: Some(by),
            owner: Some(owner.account),
            strip: strip(found, accounts.state_domain(owner.account), accounts, terms),
            without_model: Vec::new(),
        });
    }
    let (first, unknown) = unknown?;
    let only = accounts.here.first();
    Some(Plan {
        decision: pin_unknown(first, &accounts.here, terms),
        by: Some(unknown.kind()),
        owner: None,
        strip: strip(
            found,
            only.map(|only| &only.account.state_domain),
            accounts,
            terms,
        ),
        without_model: Vec::new(),
    })
}

/// The newest reasoning decides: what was sealed before it, elsewhere, has been left out before.
fn firm(found: &[Found], accounts: &Accounts, terms: Terms) -> Option<Plan> {
    if terms.without_reasoning {
        return None;
    }
    let firm = |found: &&Found| found.kind().strength() == Strength::Firm && found.owner.is_some();
    let newest = found.iter().find(firm)?;
    let owner = newest.owner?.account;
    let serves = accounts.members(owner).iter().any(|account| account.comes_back());
    serves.then(|| Plan {
        decision: pin(owner, accounts),
        by: Some(newest.kind()),
        owner: Some(owner),
        strip: strip(found, accounts.state_domain(owner), accounts, terms),
        without_model: Vec::new(),
    })
}

fn soft(found: &[Found], accounts: &Accounts, terms: Terms) -> Plan {
    let here = &accounts.here;
    let some_may = here.iter().any(|account| account.offers_model != Some(false));
    let lacks = |account: &&AccountView| some_may && account.offers_model == Some(false);
    let preferred = found.iter().find_map(|soft| {
        let owner = soft.owner.filter(|_| soft.kind().strength() == Strength::Soft)?;
        let serves = |account: &&AccountView| account.comes_back() && !lacks(account);
        accounts
            .view(owner.account)
            .filter(serves)
            .map(|_| (owner.account, soft.kind()))
    });
    Plan {
        decision: preferred.map_or(Decision::Free, |(account, _)| Decision::Preferred(account)),
        by: preferred.map(|(_, kind)| kind),
        owner: preferred.map(|(account, _)| account),
        strip: strip(found, None, accounts, terms),
        without_model: here.iter().filter(lacks).map(AccountView::id).collect(),
    }
}

fn same_home(one: &Owner, other: &Owner, accounts: &Accounts) -> bool {
    let domain = |owner: &Owner| accounts.state_domain(owner.account);
    one.account == other.account || domain(one).is_some_and(|one| domain(other) == Some(one))
}

fn pin(owner: AccountId, accounts: &Accounts) -> Decision {
    let members = accounts.members(owner);
    match members.is_empty() {
        true => Decision::OwnerGone(owner),
        false => Decision::Pinned(members.into_iter().map(AccountView::id).collect()),
    }
}

/// With one state domain, and one scope, there is only one place where the state can be and nobody
/// else whose it could be: the upstream says whether it is. Otherwise a guess could land in front
/// of an account that never heard of it, or in somebody else's conversation.
fn pin_unknown(position: usize, accounts: &[AccountView], terms: Terms) -> Decision {
    let Some(first) = accounts.first() else {
        return Decision::Free;
    };
    let one_domain = accounts
        .iter()
        .all(|account| account.account.state_domain == first.account.state_domain);
    match one_domain && terms.one_scope {
        true => Decision::Pinned(accounts.iter().map(AccountView::id).collect()),
        false => Decision::Unknown(position),
    }
}

/// What must be left out where the accounts of this domain serve; `None` where any may.
///
/// Input items are a history: what stands before an item that was sealed elsewhere is as old or
/// older, and leaving out all of it makes the same prefix at every turn.
fn strip(found: &[Found], home: Option<&StateDomain>, accounts: &Accounts, terms: Terms) -> Strip {
    let mut reasoning = found
        .iter()
        .filter(|found| found.kind() == ReferenceKind::Reasoning);
    if terms.without_reasoning {
        return reasoning.next().map_or(Strip::Nothing, |_| Strip::All);
    }
    // Without a home: whoever could read it would have been chosen if it could serve.
    let readable = |owner: Owner| home.is_some() && accounts.state_domain(owner.account) == home;
    reasoning
        .filter(|found| found.owner.is_some_and(|owner| !readable(owner)))
        .map(|found| found.position)
        .max()
        .map_or(Strip::Nothing, Strip::Through)
}

/// The conversation that a request belongs to: inherited from what it points at, or new.
///
/// A chain and a session are a conversation by definition, and so is what was sealed or said in one.
/// A prefix tells which conversation a client goes on with only if the request holds history;
/// without, it is the first turn of a new one that happens to begin alike. A cache key may be one
/// for a whole program, a file is used in many conversations: they say nothing.
pub fn conversation(found: &[Found], has_history: bool) -> Option<ConversationId> {
    found.iter().find_map(|found| {
        let tells = match found.kind() {
            ReferenceKind::Path
            | ReferenceKind::Response
            | ReferenceKind::Conversation
            | ReferenceKind::Item
            | ReferenceKind::Compaction
            | ReferenceKind::Reasoning
            | ReferenceKind::ItemId
            | ReferenceKind::Session => true,
            ReferenceKind::Prefix => has_history,
            ReferenceKind::File
            | ReferenceKind::VectorStore
            | ReferenceKind::Container
            | ReferenceKind::Mentioned
            | ReferenceKind::CacheKey
            | ReferenceKind::Objects => false,
        };
        found.owner.filter(|_| tells).map(|owner| owner.conversation)
    })
}

#[cfg(test)]
mod tests;
