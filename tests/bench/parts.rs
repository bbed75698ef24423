//! The parts that own the time of a request: `cargo bench --bench parts`.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moorage::account::{Account, AccountId, Credential, Kind, StateDomain, Switch, Usability};
use moorage::affinity::{
    AccountView, Accounts, ConversationId, Found, Owner, Reference, ReferenceKind, Terms, plan,
};
use moorage::request::Envelope;
use moorage::response::events::{Splitter, events};
use moorage::store::requests::Row;
use moorage::store::{Durability, Remember, Store, Work};
use uuid::Uuid;

/// A request with a history of so many bytes.
fn request(bytes: usize) -> Vec<u8> {
    let turn = r#"{"role":"user","content":"What does the tide do?"},{"role":"assistant","content":"It comes in, it goes out, and the \"lines\" hold."},"#;
    let history = turn.repeat(bytes.div_ceil(turn.len()));
    let last = r#"{"role":"user","content":"And then?"}"#;
    format!(r#"{{"model":"sim-large","stream":true,"input":[{history}{last}]}}"#).into_bytes()
}

fn span_reader(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("span reader");
    for bytes in [2_000, 100_000, 5_000_000] {
        let body = request(bytes);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(bytes), &body, |bencher, body| {
            bencher.iter(|| Envelope::read(black_box(body)).unwrap());
        });
    }
}

fn event_splitter(criterion: &mut Criterion) {
    let delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":7,\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,\"delta\":\"The tide\",\"logprobs\":[]}\n\n";
    let stream = Bytes::from(delta.repeat(72));
    let mut group = criterion.benchmark_group("event splitter");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    for piece in [delta.len(), 1_000, 16_000] {
        group.bench_with_input(BenchmarkId::from_parameter(piece), &piece, |bencher, piece| {
            bencher.iter(|| {
                let mut splitter = Splitter::default();
                for start in (0..stream.len()).step_by(*piece) {
                    let end = stream.len().min(start + piece);
                    let whole = splitter.push(stream.slice(start..end)).unwrap();
                    for event in events(&whole) {
                        black_box(event.meaning());
                    }
                }
            });
        });
    }
}

fn planner(criterion: &mut Criterion) {
    let here = (1..=8)
        .map(|id| AccountView {
            account: Arc::new(account(id)),
            usability: Usability::Usable,
            offers_model: None,
        })
        .collect();
    let accounts = Accounts {
        here,
        gone: [].into(),
    };
    let kinds = [
        ReferenceKind::Response,
        ReferenceKind::Session,
        ReferenceKind::CacheKey,
    ];
    let found = kinds.map(|kind| Found {
        reference: Reference::new("scope", kind, b"value"),
        owner: Some(owner()),
        position: 0,
    });
    criterion.bench_function("planner", |bencher| {
        bencher.iter(|| plan(black_box(&found), black_box(&accounts), Terms::default()))
    });
}

fn account(id: i64) -> Account {
    Account {
        id: AccountId(id),
        name: format!("account-{id}"),
        kind: Kind::OpenAi,
        base_url: String::new(),
        state_domain: StateDomain(format!("account/{id}")),
        weight: 1,
        max_concurrent: None,
        priority: 0,
        credential: Credential::None,
        switch: Switch::On,
        revision: 0,
    }
}

fn owner() -> Owner {
    Owner {
        detour_since_ms: None,
        connection: None,
        account: AccountId(1),
        conversation: ConversationId(Uuid::nil()),
        expires_at_ms: i64::MAX,
    }
}

/// What a response writes: its row, and the references of its id and of one item.
fn work(store: &Store) -> Work {
    let id = store.next_request_id(moorage::clock::now_ms());
    let mut row = Row::new(id, id, "/responses");
    row.conversation = Some(ConversationId(Uuid::now_v7()));
    row.response_id = Some(format!("resp_{id:032x}"));
    let seconds = 1_795_000_000 + id / 5_000;
    let remember = |kind| {
        let id = format!("resp_{seconds:08x}{}", Uuid::new_v4().simple());
        Remember {
            digest: Reference::new("scope", kind, id.as_bytes()).digest,
            owner: owner(),
        }
    };
    Work {
        remember: vec![remember(ReferenceKind::Response), remember(ReferenceKind::Item)],
        row: Some(Box::new(row)),
        ..Work::default()
    }
}

fn store_commit(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("moorage.db");
    let connection = moorage::store::open_writable(&path, Durability::Process).unwrap();
    let account = "INSERT INTO accounts (id, name, kind, base_url, state_domain, source, created_at_ms) VALUES (1, 'a', 'openai', 'x', 'a', 'file', 0)";
    connection.execute(account, []).unwrap();
    let _inside = runtime.enter();
    let store = Store::open(&path, Durability::Process, Default::default()).unwrap();
    let mut group = criterion.benchmark_group("store commit");
    for waiting in [1, 64] {
        group.throughput(Throughput::Elements(waiting));
        group.bench_with_input(
            BenchmarkId::from_parameter(waiting),
            &waiting,
            |bencher, waiting| {
                bencher.iter(|| {
                    let all = (0..*waiting).map(|_| store.write(work(&store)));
                    let written = runtime.block_on(futures_util::future::join_all(all));
                    assert!(written.iter().all(Result::is_ok));
                });
            },
        );
    }
}

criterion_group!(parts, span_reader, event_splitter, planner, store_commit);
criterion_main!(parts);
