//! Where a request would go, and why: by the same plan as in earnest, and without sending anything.

use http::HeaderName;
use serde_json::{Value, json};

use crate::account::Usability;
use crate::affinity::{
    self, AccountView, Accounts, ConnectionId, Decision, Owner, Plan, Reference, Strip, Terms,
};
use crate::error::Error;

use super::references::{self, Located};
use super::{Gateway, Question, read_envelope};

/// Explains a request to the gateway that runs.
///
/// # Errors
/// If the request would be refused for what it is, or the database cannot be read.
pub async fn explain(gateway: &Gateway, question: &Question) -> Result<Value, Error> {
    let envelope = read_envelope(question)?;
    let located = references::locate(gateway, question, &envelope).await?;
    let accounts = gateway.view_for(question, &envelope);
    let is_open = |id| Some(gateway.has_connection(id));
    Ok(explained(question, &located, &accounts, &is_open))
}

/// Explains a request from a database, with `accounts` for a model in it, and
/// `owners` to look the references up.
///
/// # Errors
/// If the request would be refused for what it is, or one of the two says so.
pub fn explain_from<E>(
    session_headers: &[HeaderName],
    question: &Question,
    accounts: impl FnOnce(Option<&str>) -> Result<Accounts, E>,
    owners: impl FnOnce(&[Reference]) -> Result<Vec<Option<Owner>>, E>,
) -> Result<Result<Value, Error>, E> {
    let envelope = match read_envelope(question) {
        Ok(envelope) => envelope,
        Err(error) => return Ok(Err(error)),
    };
    let pointers = references::pointers(session_headers, question, &envelope);
    let references: Vec<Reference> = pointers.iter().map(|pointer| pointer.reference).collect();
    let located = Located::new(pointers, owners(&references)?);
    let accounts = accounts(envelope.model.as_deref())?;
    // Only the gateway itself knows its connections.
    Ok(Ok(explained(question, &located, &accounts, &|_| None)))
}

/// Whether a connection is open, where that is known.
type IsOpen<'a> = &'a dyn Fn(ConnectionId) -> Option<bool>;

fn explained(question: &Question, located: &Located, accounts: &Accounts, is_open: IsOpen<'_>) -> Value {
    let terms = Terms {
        one_scope: question.one_scope,
        without_reasoning: false,
    };
    let plan = affinity::plan(&located.found, accounts, terms);
    json!({
        "endpoint": question.endpoint.name,
        "decision": word(&plan.decision),
        "account": chosen(&plan.decision, accounts),
        "affinity_by": plan.by.map(|by| by.as_str()),
        "says": sentence(&plan, located, accounts, is_open),
        "stripped": (plan.strip != Strip::Nothing).then_some("reasoning"),
        "reasons": affinity::short(&plan, &located.found, accounts),
        "references": references_told(&plan, located, accounts, is_open),
        "accounts": accounts_told(&plan, accounts),
    })
}

fn word(decision: &Decision) -> &'static str {
    match decision {
        Decision::Pinned(_) => "pinned",
        Decision::Preferred(_) => "preferred",
        Decision::Free => "free",
        Decision::OwnerGone(_) => "owner_gone",
        Decision::Unknown(_) => "unknown",
        Decision::Conflict(..) => "conflict",
    }
}

/// The account that comes first; `None` where the least loaded is taken, or none.
fn chosen<'a>(decision: &Decision, accounts: &'a Accounts) -> Option<&'a str> {
    let first = match decision {
        Decision::Pinned(members) => *members.first()?,
        Decision::Preferred(account) => *account,
        _ => return None,
    };
    accounts.name(first)
}

fn sentence(plan: &Plan, located: &Located, accounts: &Accounts, is_open: IsOpen<'_>) -> String {
    let by = plan.by.map_or("nothing", |by| by.as_str());
    let account = chosen(&plan.decision, accounts).unwrap_or("nobody");
    if let Some((connection, id)) = located.on_connection() {
        if is_open(connection) == Some(false) {
            return format!(
                "Is refused with previous_response_not_found: the WebSocket that made '{id}' on '{account}' has ended, and only it knew that."
            );
        }
        return format!(
            "Goes to '{account}', but only over the WebSocket that made '{id}', and while that lasts; else it is refused with previous_response_not_found."
        );
    }
    match &plan.decision {
        Decision::Pinned(_) if !plan.is_known() => {
            format!("Goes to '{account}', the only place where {by} can be, though it is not known.")
        }
        Decision::Pinned(_) if plan.yields() => format!(
            "Goes to '{account}', which alone can read its {by}; if that cannot serve, the reasoning is left out and another account serves."
        ),
        Decision::Pinned(members) if !plan.owner.is_some_and(|owner| members.contains(&owner)) => {
            format!("Goes to '{account}', which shares the state of the removed account that held its {by}.")
        }
        Decision::Pinned(members) if members.len() > 1 => format!(
            "Goes to '{account}', which holds its {by}, or to another account of the same state domain."
        ),
        Decision::Pinned(_) => {
            format!("Goes to '{account}', which holds its {by}, or is refused; never elsewhere.")
        }
        Decision::Preferred(_) => format!(
            "Goes to '{account}', where the cache is warm by its {by}; if that cannot serve, to another account."
        ),
        Decision::Free => "Goes to the least loaded account: nothing known points anywhere.".to_owned(),
        Decision::OwnerGone(_) => {
            format!("Is refused: the account that holds its {by} was removed.")
        }
        Decision::Unknown(position) => format!(
            "The accounts are asked who holds {by} '{}', which this key does not know; if none does, or another key holds it, it is refused.",
            located.texts[*position]
        ),
        Decision::Conflict(first, second) => {
            let error = located.conflict(*first, *second, accounts);
            format!("Is refused with affinity_conflict: {error}.")
        }
    }
}

fn references_told(plan: &Plan, located: &Located, accounts: &Accounts, is_open: IsOpen<'_>) -> Vec<Value> {
    let decides = located
        .found
        .iter()
        .position(|found| Some(found.kind()) == plan.by && found.owner.is_some() == plan.is_known());
    let told = |(position, found): (usize, &affinity::Found)| {
        let owner = found.owner;
        let name = owner.and_then(|owner| accounts.name(owner.account));
        let domain = owner.and_then(|owner| accounts.state_domain(owner.account));
        json!({
            "kind": found.kind().as_str(),
            "strength": found.kind().strength().as_str(),
            "id": Some(&located.texts[position]).filter(|id| !id.is_empty()),
            "owner": name,
            "state_domain": domain.map(|domain| &domain.0),
            "conversation_id": owner.map(|owner| owner.conversation.0),
            "expires_at": owner.and_then(|owner| at(owner.expires_at_ms)),
            "only_on_its_connection": owner.map(|owner| owner.connection.is_some()),
            "connection_is_open": owner.and_then(|owner| owner.connection).and_then(is_open),
            "detour_since": owner.and_then(|owner| owner.detour_since_ms).and_then(at),
            "decides": Some(position) == decides,
        })
    };
    located.found.iter().enumerate().map(told).collect()
}

fn accounts_told(plan: &Plan, accounts: &Accounts) -> Vec<Value> {
    let verdicts = affinity::verdicts(plan, &accounts.here);
    let told = |(view, verdict): (&AccountView, affinity::Verdict)| {
        let (now, until) = match view.usability {
            Usability::Usable => ("usable", None),
            Usability::UsableAt(until_ms) => ("limited", at(until_ms)),
            Usability::Never => ("out of use", None),
        };
        json!({
            "account": view.account.name,
            "state_domain": view.account.state_domain.0,
            "may_serve": verdict.may_serve() && view.usability != Usability::Never,
            "why": verdict.as_str(),
            "now": now,
            "until": until,
        })
    };
    accounts.here.iter().zip(verdicts).map(told).collect()
}

fn at(time_ms: i64) -> Option<String> {
    let time = jiff::Timestamp::from_millisecond(time_ms).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string())
}
