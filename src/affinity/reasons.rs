//! Why a request goes where it goes: which references were found, who owns each, and what spoke for
//! or against each account. The same words in the row, in `explain` and on the page.

use std::fmt::Write as _;

use super::{AccountView, Accounts, Decision, Found, Plan, ReferenceKind, Strip};
use crate::account::{AccountId, Usability};
use crate::limits;

/// What was thought of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds the state.
    Holds,
    /// It shares the state of the one that holds it.
    Shares,
    /// Its cache is warm.
    Warm,
    /// It may serve; the least loaded of these is taken.
    May,
    /// It serves only if the preferred one does not.
    InReserve,
    /// Another account holds the state.
    HoldsNothing,
    /// It does not have the model, and others do.
    WithoutModel,
}

impl Verdict {
    /// Whether the account may serve.
    pub fn may_serve(self) -> bool {
        !matches!(self, Verdict::HoldsNothing | Verdict::WithoutModel)
    }

    /// The words for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Holds => "holds the state",
            Verdict::Shares => "shares the state of the one that holds it",
            Verdict::Warm => "its cache is warm",
            Verdict::May => "may serve",
            Verdict::InReserve => "serves if the preferred one does not",
            Verdict::HoldsNothing => "does not hold the state",
            Verdict::WithoutModel => "does not have the model",
        }
    }
}

/// What was thought of each account, in their order.
pub fn verdicts(plan: &Plan, accounts: &[AccountView]) -> Vec<Verdict> {
    let of = |account: &AccountView| {
        let id = account.account.id;
        match &plan.decision {
            Decision::Pinned(members) if !plan.is_known() => match members.contains(&id) {
                true => Verdict::May,
                false => Verdict::HoldsNothing,
            },
            Decision::Pinned(_) if plan.owner == Some(id) => Verdict::Holds,
            Decision::Pinned(members) if members.contains(&id) => Verdict::Shares,
            Decision::Pinned(_) => Verdict::HoldsNothing,
            Decision::OwnerGone(_) | Decision::Unknown(_) | Decision::Conflict(..) => Verdict::HoldsNothing,
            _ if plan.without_model.contains(&id) => Verdict::WithoutModel,
            Decision::Preferred(preferred) if *preferred == id => Verdict::Warm,
            Decision::Preferred(_) => Verdict::InReserve,
            Decision::Free => Verdict::May,
        }
    };
    accounts.iter().map(of).collect()
}

/// The reasons in one line, as the row keeps them; `None` where nothing spoke for or against
/// anything. Names only what decides or differs: each kind of reference with its owner, and the
/// accounts that could not be used.
pub fn short(plan: &Plan, found: &[Found], accounts: &Accounts) -> Option<String> {
    let mut line = String::new();
    let mut last: Option<(ReferenceKind, Option<AccountId>)> = None;
    for reference in found {
        let owner = reference.owner.map(|owner| owner.account);
        // Many items of one owner are one reason.
        if last == Some((reference.kind(), owner)) {
            continue;
        }
        last = Some((reference.kind(), owner));
        separate(&mut line);
        line.push_str(reference.kind().as_str());
        line.push_str("->");
        line.push_str(match owner {
            None => "unknown",
            Some(owner) => accounts.name(owner).unwrap_or(NAMELESS),
        });
        if owner.is_some_and(|owner| !accounts.is_here(owner)) {
            line.push_str(" (removed)");
        }
        if line.len() > limits::REASONS_BYTES_MAX {
            break;
        }
    }
    for account in &accounts.here {
        let why = match account.usability {
            _ if plan.without_model.contains(&account.account.id) => "without the model",
            Usability::UsableAt(_) => "limited",
            Usability::Never => "out of use",
            Usability::Usable => continue,
        };
        separate(&mut line);
        // Writing into a text cannot fail.
        write!(line, "{} {why}", account.account.name).ok();
    }
    if plan.strip != Strip::Nothing {
        separate(&mut line);
        line.push_str("stripped=reasoning");
    }
    line.truncate(line.floor_char_boundary(limits::REASONS_BYTES_MAX));
    (!line.is_empty()).then_some(line)
}

fn separate(line: &mut String) {
    if !line.is_empty() {
        line.push_str("; ");
    }
}

/// An account whose row is not there either.
const NAMELESS: &str = "an account";
