//! Every cap, timeout and lifetime: what it bounds, why this value, and what happens at it.
//!
//! Those that an operator may need to change are the defaults of a setting; the
//! README's configuration table names them. The others are properties of the code.

use std::time::Duration;

/// A request body, after decompression. Codex sends whole histories with images inside, some
/// megabytes; the real API refuses far less than this. Larger: 413, `body_too_large`.
pub const REQUEST_BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The size from which a request is logged as a large payload. A turn of text is far smaller;
/// what is larger is usually a history that grows without end. At it: one warning in the log.
pub const LARGE_PAYLOAD_BYTES: usize = 1024 * 1024;

/// One event of an upstream's stream. The terminal event repeats the whole answer, which may hold
/// images; an event must be complete before its bytes go on. Larger: the stream is ended as cut.
pub const EVENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The bytes of events that are held back while an attempt may still be moved. Only
/// `response.created`, `response.in_progress` and events of unknown types are held, a few
/// kilobytes each unless the instructions are long. At it: they are released.
pub const HELD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long those events are held back. Long enough for an overloaded upstream to say so, short
/// enough that a client sees life. At it: they are released, and the attempt can no longer move.
pub const HOLD_BACK: Duration = Duration::from_secs(2);

/// An error body of an upstream that Moorage reads to decide what to do. Real ones are under a
/// kilobyte, Cloudflare's pages a few. At it: the rest is dropped, and the client gets what was read.
pub const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;

/// One value that is read out of an answer (an id, a model, the usage object). At it: the value
/// counts as absent. Ids of up to a few hundred characters are seen in the field.
pub const ANSWER_VALUE_BYTES_MAX: usize = 16 * 1024;

/// Log lines that wait to be written, each some hundred bytes and its place in a queue. A second of
/// full load is half of it. At it: lines are dropped, so that no request waits for a terminal.
pub const LOG_LINES_MAX: usize = 16 * 1024;

/// An id or name that a client or an upstream uses as a reference. Wrapped ids reach some hundred
/// characters. Longer in a request: 400, `invalid_reference`; longer in an answer: not recorded.
pub const REFERENCE_BYTES_MAX: usize = 2048;

/// A name that is written into a row: a model, a service tier. Real ones have some dozen
/// characters. Longer: passed on, and not recorded.
pub const NAME_BYTES_MAX: usize = 256;

/// A figure of an answer, in tokens. The largest contexts have some millions; the sums of all rows must
/// not overflow, or no sum could be made any more. Larger, or below zero: unknown.
pub const TOKENS_MAX: i64 = 1_000_000_000;

/// Item ids that are recorded per response. An answer has a few; this bounds what a broken
/// upstream can make us write. At it: further items are not recorded.
pub const ITEMS_PER_RESPONSE_MAX: usize = 256;

/// Ids that one request points with. A long conversation by references alone has some hundred.
/// At it: 400, `invalid_reference`; each of them is looked up, so there must be an end.
pub const REFERENCES_PER_REQUEST_MAX: usize = 4096;

/// The newest sealed items of a request by which its owner is looked for. All of a conversation are
/// usually of one owner; the window is wide enough to find where it changed. At it: older ones are
/// not looked up.
pub const SEALED_ITEMS_READ: usize = 32;

/// The newest items that are sent whole with their ids, and looked up. One would do, were all of
/// them recorded. At it: older ones are not looked up.
pub const ITEM_IDS_READ: usize = 4;

/// How deep a body may be nested in which ids are looked for. What people write is a dozen deep,
/// schemas some dozen. At it: 400, `invalid_reference`.
pub const BODY_DEPTH_MAX: usize = 512;

/// The reasons that a row keeps for where its request went: a dozen references with their owners.
/// Longer: cut.
pub const REASONS_BYTES_MAX: usize = 400;

/// How long accounts are asked who holds an id that nobody knows. Retrieving takes a fraction of a
/// second. At it: whoever has not answered does not hold it.
pub const ASKING: Duration = Duration::from_secs(5);

/// Accounts, of different state domains, that are asked for one id. A home has fewer. At it: the
/// others are not asked.
pub const ASKED_MAX: usize = 16;

/// Ids that were asked for and not found, kept in memory. At it: further ones are asked for again.
pub const UNFOUND_MAX: usize = 4096;

/// How long an id that was not found is not asked for again: longer than a client's quick retries.
pub const UNFOUND_TTL: Duration = Duration::from_secs(30);

/// How often the lists of models are fetched again; also how long an
/// account is believed that it does not have a model. New models come every few weeks.
pub const MODELS_REFRESH: Duration = Duration::from_secs(10 * 60);

/// Lists of models that are kept in the shape that Codex asks for, one a version and account. A home
/// has a few versions. At it: all of them are fetched again.
pub const MODEL_LISTS_MAX: usize = 64;

/// Models that accounts said they do not have, kept in memory. At it: further ones are asked again.
pub const REFUSED_MODELS_MAX: usize = 4096;

/// One page of a list of an account, or its list of models. OpenAI's longest have some hundred
/// kilobytes. Larger: the list is refused.
pub const LIST_PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Items that a list of all accounts has where the client names no number, as OpenAI's have.
pub const LIST_LIMIT: usize = 20;

/// Items that such a list has at most. At it: there is a next page.
pub const LIST_LIMIT_MAX: usize = 1000;

/// Items that are fetched of one account at once: as many as OpenAI gives.
pub const LIST_PAGE: usize = 100;

/// Pages that are fetched for one page of all accounts. It bounds what a client can make the accounts
/// do: with it, ten thousand items are skipped. At it: the page ends early, and says that there is
/// more; one that could not begin is an error.
pub const LIST_FETCHES_MAX: usize = 200;

/// A field of a multipart form, or the head of a part. Real ones have some hundred bytes. Larger:
/// the form is refused.
pub const FORM_FIELD_BYTES_MAX: usize = 64 * 1024;

/// Fields in front of the first file of a form, which are held until they are read. Real ones have a
/// kilobyte. At it: the form is refused.
pub const FORM_HEAD_BYTES_MAX: u64 = 1024 * 1024;

/// The body of an upload that is passed on while it comes. OpenAI takes files of 512 MB, and 8 GB
/// in parts. Larger: the upload is cut, 413.
pub const UPLOAD_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// The time to connect to an upstream. A home line needs a tenth of it. At it: the attempt failed,
/// nothing was sent, another account may be tried.
pub const UPSTREAM_CONNECT: Duration = Duration::from_secs(10);

/// The time from a sent request to the head of its answer. Long reasoning without a stream takes
/// many minutes before the first byte. At it: 504, `upstream_timeout`.
pub const UPSTREAM_FIRST_BYTE: Duration = Duration::from_secs(15 * 60);

/// The time between two pieces of an answer. Reasoning can be silent for minutes on a stream. At
/// it: the stream is ended with `response.failed`, the outcome is `timeout`.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(5 * 60);

/// How long an idle connection to an upstream is kept: shorter than what servers in the field keep
/// theirs, so that we are seldom the one who writes into a closing socket.
pub const UPSTREAM_POOL_IDLE: Duration = Duration::from_secs(50);

/// What is read from an upstream at once. Events are smaller; a longer answer is read in pieces, each
/// passed on before the next. It is what an open stream keeps, whether it is used or not.
pub const UPSTREAM_READ_BYTES: usize = 8 * 1024;

/// The silence after which a comment line goes into an open stream, so that home routers and
/// reverse proxies do not take it for dead. Their usual patience is 60 seconds or more.
pub const STREAM_COMMENT: Duration = Duration::from_secs(15);

/// The time between two pings of a WebSocket, on both sides: shorter than home routers forget a
/// connection that says nothing.
pub const SOCKET_PING: Duration = Duration::from_secs(20);

/// Pings that may stay without any sign of life. At it: the peer is taken for dead, and its
/// connection is closed.
pub const SOCKET_SILENCE_PINGS: u32 = 4;

/// Requests of one WebSocket that run at once, as in the real API. At it: more wait.
pub const SOCKET_IN_FLIGHT_MAX: usize = 16;

/// Lanes with a name that a WebSocket has in its life, as in the real API. At it: 400,
/// `websocket_stream_limit_reached`.
pub const SOCKET_LANES_MAX: usize = 32;

/// The share of the room for requests that even the smallest takes. The room of a WebSocket is one
/// body of the largest size, for all its requests that run or wait. When it is full, nothing more is
/// read from the client until one has ended.
pub const SOCKET_ROOM_BYTES: usize = 16 * 1024;

/// Events that wait to be written to a WebSocket, or to be taken from one. A client that reads slowly
/// slows the upstream.
pub const SOCKET_FRAMES_MAX: usize = 16;

/// The same in bytes, towards a client; but one event may always wait, however large it is.
pub const SOCKET_OUT_BYTES: u32 = 1024 * 1024;

/// What is read from a WebSocket at once, and kept for each, whether it is used or not.
pub const SOCKET_READ_BYTES: usize = 4 * 1024;

/// WebSockets that are open to one account. A home has some dozen sessions. At it: further clients of
/// WebSocket mode are served over HTTP.
pub const SOCKETS_PER_ACCOUNT_MAX: usize = 256;

/// How long the upgrade of a connection to an account may take. At it: the attempt failed, and
/// nothing was sent.
pub const SOCKET_HANDSHAKE: Duration = Duration::from_secs(15);

/// How long a WebSocket to an account is used: shorter than the 60 minutes after which upstreams
/// close it. At it: the next turn goes over a new one.
pub const SOCKET_AGE: Duration = Duration::from_secs(55 * 60);

/// WebSockets to one account that are kept for clients over HTTP, one a chain. A home has some dozen
/// conversations. At it: the one that was not used for the longest time is closed; and if all are busy,
/// a new chain goes over HTTP, where it cannot be gone on from.
pub const KEPT_SOCKETS_PER_ACCOUNT_MAX: usize = 64;

/// How long such a WebSocket is kept without use: as long as a person reads an answer and writes the
/// next question. At it: it is closed, and its chain with it.
pub const SOCKET_IDLE: Duration = Duration::from_secs(15 * 60);

/// How often idle ones are looked for, and how often at most where they are kept for a short time.
pub const KEPT_LOOK: Duration = Duration::from_secs(10);

/// See [`KEPT_LOOK`].
pub const KEPT_LOOK_MIN: Duration = Duration::from_millis(50);

/// How long an account that refused an upgrade is believed to speak HTTP only. At it: it is asked
/// again.
pub const HTTP_ONLY_FOR: Duration = Duration::from_secs(60 * 60);

/// How long closing a WebSocket in good order may take. At it: it is cut.
pub const SOCKET_FAREWELL: Duration = Duration::from_secs(5);

/// How many attempts one exchange makes at most. More than one or two are made only while accounts
/// turn out to be limited, which each of them says at once. At it: the client is told to come back.
pub const ATTEMPTS_MAX: u32 = 8;

/// How long a request waits for the cooldown of the account it is pinned to, or for a free place
/// on a full one. SDKs give up at ten minutes, people much sooner. At it: 429 with `Retry-After`.
pub const PIN_WAIT: Duration = Duration::from_secs(10);

/// Attempts of one exchange that its row tells one by one: as many as are made, and those after sealed
/// reasoning was left out. At it: further ones are only counted.
pub const ATTEMPTS_KEPT_MAX: usize = 16;

/// How much of an upstream's error code an attempt keeps. Real ones have some dozen characters. At it:
/// the rest is left out.
pub const ATTEMPT_CODE_CHARS_MAX: usize = 128;

/// The cooldown after a 429 that names no time: short, because the account is simply tried again.
pub const COOLDOWN_UNSTATED: Duration = Duration::from_secs(5);

/// The shortest cooldown. An upstream that says `Retry-After: 0` while it refuses would else be asked
/// again as fast as the network allows. A shorter one counts as this long.
pub const COOLDOWN_MIN: Duration = Duration::from_secs(1);

/// How much a shortest cooldown is drawn out, so that those who wait for several accounts do not all
/// come back in one moment. A quarter of it spreads them, and is not felt. It is never exceeded.
pub const COOLDOWN_JITTER: Duration = Duration::from_millis(250);

/// How long an account with no quota left rests before it is tried again, if the upstream named
/// no time. Money is added by people, who notice within minutes.
pub const EXHAUSTED_PROBE: Duration = Duration::from_secs(10 * 60);

/// The longest cooldown that an upstream's word is taken for; weekly windows fit. A longer one is
/// probably a mistake in units, and would lock the account for good.
pub const COOLDOWN_MAX: Duration = Duration::from_secs(8 * 24 * 3600);

/// Ids under which one response is told after its first. A gateway that renames a response does it once.
/// At it: further ones are not known, and a client that follows one gets an honest error.
pub const RESPONSE_IDS_MAX: usize = 4;

/// Models of one account that are limited at once. A pool asks for a dozen. At it: a further limit
/// is not noted, so that its account is simply asked again.
pub const LIMITED_MODELS_MAX: usize = 64;

/// Quota windows that are kept of one account. Real upstreams tell two or three, and some more for
/// single features. At it: further ones are not kept.
pub const QUOTA_WINDOWS_MAX: usize = 16;

/// Faults of transport or server in a row, after which an account is left alone for a moment. Some
/// happen in any network; more in a row are seldom chance. At it: its breaker opens.
pub const BREAKER_FAULTS: u32 = 5;

/// How long a breaker stays open at first, in milliseconds: long enough to spare a server that
/// restarts, shorter than a pinned request waits. Then one request probes.
pub const BREAKER_OPEN_MS: i64 = 1000;

/// How long a breaker stays open at most, in milliseconds. It doubles with every probe that fails;
/// at the bound it is probed twice a minute.
pub const BREAKER_OPEN_MS_MAX: i64 = 30_000;

/// How soon a request looks again at an account that is being probed, in milliseconds. A probe is
/// as long as an answer's beginning; looking costs nothing.
pub const BREAKER_LOOK_MS: i64 = 250;

/// Requests that wait for a free place on an account. Each holds its body meanwhile. At it: 429,
/// `account_busy`, at once.
pub const QUEUE_MAX: usize = 1024;

/// How long all attempts of one exchange may take together, up to the last one's beginning. SDKs
/// give up at ten minutes. At it: no further attempt is made, and the client gets the last error.
pub const ATTEMPTS_TIME: Duration = Duration::from_secs(60);

/// How often the gateway looks whether a command has changed accounts or keys: a person waits for
/// it. It is one read of one row.
pub const ROSTER_LOOK: Duration = Duration::from_millis(500);

/// How long a command waits for the running gateway to take a change over. It needs a second. At
/// it: the command says so, and the change waits in the database.
pub const ROSTER_APPLIED: Duration = Duration::from_secs(10);

/// How often rotation and quota are written down, where they have changed. What a kill loses of
/// them is whose turn it was.
pub const STANDING_SAVE: Duration = Duration::from_secs(1);

/// How long a login on the page is valid: a month of a person's own machine.
pub const ADMIN_SESSION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Logins that are valid at once. A person has a few browsers. At it: the oldest one ends.
pub const ADMIN_SESSIONS_MAX: u32 = 32;

/// Wrong admin keys that one address may send before it has to wait. People mistype some times. At
/// it: 429 with `Retry-After`, doubling from one second with every further one.
pub const WRONG_ADMIN_KEYS: u32 = 5;

/// The longest wait after wrong admin keys, and how long they are remembered.
pub const WRONG_ADMIN_KEYS_WAIT: Duration = Duration::from_secs(60);

/// Addresses whose wrong admin keys are remembered. At it: those whose wait is over are forgotten,
/// and if there are none, everybody unknown waits.
pub const WRONG_ADMIN_KEYS_ADDRESSES: usize = 4096;

/// Requests without a valid client key that one address may send in [`WRONG_CLIENT_KEYS_WINDOW`] for a
/// row each. A client that was set up wrongly tries a few times. At it: 429 with `Retry-After`, and no
/// row; whoever has a valid key is served all the same.
pub const WRONG_CLIENT_KEYS: u32 = 20;

/// See [`WRONG_CLIENT_KEYS`]. It begins with the first of them.
pub const WRONG_CLIENT_KEYS_WINDOW: Duration = Duration::from_secs(60);

/// Addresses whose wrong client keys are counted. At it: those whose time is over are forgotten, and if
/// there are none, a wrong key of any other gets 429.
pub const WRONG_CLIENT_KEYS_ADDRESSES: usize = 4096;

/// The body of a request to the admin API. They are small forms. Larger: 413.
pub const ADMIN_BODY_BYTES_MAX: usize = 64 * 1024;

/// The time in which such a body must be there whole: a fraction of a second on any line. Slower: 413.
pub const ADMIN_BODY: Duration = Duration::from_secs(10);

/// States of turns of which is known whose they are. A client has one at a time. At it: those that are
/// old are forgotten, and if there are none, a further one is not sent back.
pub const TURN_STATES_MAX: usize = 4096;

/// How long such a state is known: longer than a turn, in which an agent works for minutes.
pub const TURN_STATE_TTL: Duration = Duration::from_secs(4 * 3600);

/// The file that holds a ChatGPT login. Codex CLI's have some kilobytes. Longer: what is behind it is
/// not read, so that the file counts as unreadable.
pub const AUTH_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How long a gateway waits for the lock beside such a file. Whoever has it renews the login, which is
/// bounded by [`LOGIN_RENEWAL`]. At it: there is no token now, and the next request tries again.
pub const AUTH_FILE_LOCK: Duration = Duration::from_secs(30);

/// How often, and after what pause, the file is read again when it is half a file, or when its refresh
/// token was refused: Codex CLI takes no lock, and may just be writing what it renewed. After that, there
/// is no token now, or the login has ended.
pub const AUTH_FILE_LOOKS: u32 = 5;

/// See [`AUTH_FILE_LOOKS`].
pub const AUTH_FILE_LOOK: Duration = Duration::from_millis(200);

/// How long before its end an access token is renewed: as long as Codex CLI does, so that neither takes
/// the other by surprise.
pub const LOGIN_RENEWED_AHEAD: Duration = Duration::from_secs(300);

/// How long a renewal may take. It needs a second; the requests of its account wait for it. At it:
/// there is no token now.
pub const LOGIN_RENEWAL: Duration = Duration::from_secs(20);

/// How long after a renewal that failed the next one is tried. A place in trouble is not asked by every
/// request; meanwhile they are told what the last one was told.
pub const LOGIN_RENEWAL_PAUSE: Duration = Duration::from_secs(2);

/// How often one attempt is sent again with another access token: once with the one that somebody else
/// has renewed meanwhile, once with one that was renewed here. Refused again, the login has ended.
pub const LOGIN_TRIES: u32 = 3;

/// How often the gateway looks whether a person has logged in again where a login had ended: a person
/// waits for it. It is a look at the date of a file, and only while there is such a login.
pub const LOGIN_LOOK: Duration = Duration::from_secs(1);

/// How soon a login that was found is tried again if its upstream could not say whether it is good. One
/// that is in trouble is not asked at every look.
pub const LOGIN_LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Responses and other hard references: as long as the upstream keeps them, 30 days.
pub const RESPONSE_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// Session names, cache keys and prefixes, after their last use: longer than a prompt cache lives.
pub const SESSION_TTL: Duration = Duration::from_secs(4 * 3600);

/// The steps of a lifetime in which expiries are told: its end may come late by one of them, ten
/// minutes in 30 days.
pub const EXPIRY_STEPS: u32 = 4096;

/// How long a preference may be served elsewhere before it moves there: as long as a prompt cache
/// lives without use. Before it, the cache at home is still warm; after it, the other one is warmer.
pub const DETOUR_MAX: Duration = Duration::from_secs(30 * 60);

/// Conversations, files and other things with ids, after their last use. The upstream keeps them
/// until they are deleted. At it: the id is unknown, and asked for.
pub const OBJECT_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

/// How much of a soft reference's life must have passed before its expiry is written again: a
/// share of 1/8. It keeps a busy session from writing at every turn.
pub const SESSION_REFRESH_DIVISOR: u32 = 8;

/// How long a usage row is kept before it is folded into the hourly sums.
pub const USAGE_RETENTION: Duration = Duration::from_secs(90 * 24 * 3600);

/// How many usage rows are kept, whatever their age: about 4 GB. At it: the oldest are removed; the
/// hourly sums stay.
pub const USAGE_ROWS_MAX: u64 = 10_000_000;

/// How often rows that have ended are added to the hourly sums. The page adds up the rest itself.
pub const FOLD_INTERVAL: Duration = Duration::from_secs(2);

/// How old a row is when it is added: nearly all have ended by then, and one that ends later costs
/// a little more to write. While there are many rows they are added earlier.
pub const FOLD_LAG: Duration = Duration::from_secs(5 * 60);

/// Rows that may wait to be added to the sums: the page adds them up in some ten milliseconds.
pub const UNFOLDED_ROWS_MAX: u32 = 20_000;

/// Rows of hours that belong to two days, where days do not begin with an hour of UTC: so many are added
/// up one by one, in some ten milliseconds. At it: those hours are told whole, and the answer says so.
pub const TORN_HOURS_ROWS_MAX: u32 = 20_000;

/// Rows that one batch adds to the sums: a millisecond of the writer's time.
pub const FOLD_BATCH_ROWS: u32 = 250;

/// The pause between two such batches.
pub const FOLD_PAUSE: Duration = Duration::from_millis(10);

/// How often the sweep looks for what has expired.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// Rows that one batch of the sweep removes: a millisecond of the writer's time, which is what a
/// client's commit may have to wait for it. With 500 rows one request in a hundred took 12 ms more.
pub const SWEEP_BATCH_ROWS: u32 = 50;

/// The pause between two batches of the sweep while no client asks anything.
pub const SWEEP_PAUSE: Duration = Duration::from_millis(5);

/// The pause while clients ask. What costs them time is less the batch than that what it changed has to
/// be written back to the disk: so there are few of them, a thousand rows a second, which is some
/// hundred times as many as come in.
pub const SWEEP_PAUSE_BUSY: Duration = Duration::from_millis(50);

/// Pages that one batch of the sweep gives back to the file system: a millisecond, as for rows.
pub const SWEEP_BATCH_PAGES: i64 = 32;

/// The share of its used pages, as one part in so many, that a database keeps free for what is
/// written next. Beyond it, pages are given back to the file system.
pub const FREE_PAGES_DIVISOR: i64 = 8;

/// Work that waits for the writer. At it: whoever has more waits, which slows the clients, not
/// the writer.
pub const WRITER_QUEUE_MAX: usize = 8192;

/// Work that one transaction takes. It bounds how long the first of a group waits for the last.
pub const WRITER_GROUP_MAX: usize = 512;

/// Work that is kept in memory while the database cannot be written: about 100 MB at the worst.
/// At it: the oldest is dropped, and the log says so.
pub const UNWRITTEN_MAX: usize = 100_000;

/// Pages that the writer keeps in memory. What it writes next is mostly where it wrote last; SQLite's
/// own 2 MiB are full after some hours. At it: pages are read again.
pub const WRITER_CACHE_KIB: i64 = 8 * 1024;

/// How often the writer tries again while the database cannot be written.
pub const UNWRITTEN_RETRY: Duration = Duration::from_secs(1);

/// The size of the write-ahead log from which it is written back into the database: large enough
/// that a page that changes often is written back once, small enough to be read through quickly.
pub const WAL_BYTES: u64 = 8 * 1024 * 1024;

/// The size of the write-ahead log from which those who read from it are waited for, so that it can be
/// begun anew: it comes to that only where readers never pause.
pub const WAL_WAIT_BYTES: u64 = 4 * WAL_BYTES;

/// How long that wait is at most. Clients' commits wait with it; the page's queries are shorter. At it:
/// the log goes on growing, and they are waited for again when it has grown by half.
pub const WAL_WAIT: Duration = Duration::from_millis(250);

/// Pages that a copy of the database takes in one step: a mebibyte, after which it can be stopped and
/// says how far it is.
pub const BACKUP_STEP_PAGES: i32 = 256;

/// How much SQLite does, in its own small steps, between two looks whether the check of a copy is to
/// stop: some milliseconds.
pub const BACKUP_CHECK_STEPS: i32 = 1_000_000;

/// The age of the last copy from which the doctor recommends another one.
pub const BACKUP_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long SQLite waits for another process that holds the write lock.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// References kept in memory in front of SQLite, about 100 bytes each. At it: the least recently
/// written half is dropped; those are read from SQLite.
pub const RECENT_REFERENCES_MAX: usize = 32_768;

/// References that come together before they settle: at a page of about 80, so many that a page is
/// written once for several of them, and so few that the start reads them in milliseconds. At it: they
/// settle, a batch after each commit.
pub const SETTLE_REFERENCES: usize = 7 * 1024;

/// References that settle in one step: a fraction of a millisecond, in which a commit may wait.
pub const SETTLE_BATCH: usize = 128;

/// References that have settled and are deleted in one step where they were before: they stand
/// behind each other, so more of them go in the same time.
pub const SETTLE_BATCH_DELETED: u32 = 1024;

/// Threads for those who look at the history, each with a connection: one person's page asks three
/// things at once, and a slow one does not hold up the others.
pub const LOOKS: usize = 3;

/// Queries of the history that wait for such a thread. A page asks a few. At it: 503.
pub const LOOKS_WAITING_MAX: usize = 64;

/// How far these threads stand back: as far as can be.
pub const LOOKS_NICE: i32 = 19;

/// Pages that each of these connections keeps: the hourly sums of two months. At it: pages are read
/// again from the operating system's memory.
pub const LOOKS_CACHE_KIB: i64 = 8 * 1024;

/// Read-only connections to SQLite for all others. Their reads take microseconds.
pub const READERS: u32 = 4;

/// Open client connections. A home server has a few clients with some connections each; each
/// costs a file descriptor and some kilobytes. At it: new ones wait in the listen queue.
pub const CONNECTIONS_MAX: usize = 8192;

/// The time a client has to send the head of a request. Slower: the connection is closed.
pub const REQUEST_HEAD: Duration = Duration::from_secs(30);

/// How long a client may take nothing of what is there for it: a program that was suspended in the middle of
/// a stream, or a machine that has gone without a word. Longer than a person looks at something else. At
/// it: its connection is cut, and what it held on its account is free; the outcome is `client_gone`.
pub const CLIENT_STALL: Duration = Duration::from_secs(15 * 60);

/// The time between two pieces of a request body. Slower: 408, `request_timeout`.
pub const REQUEST_BODY_IDLE: Duration = Duration::from_secs(60);

/// How long running exchanges may go on after the first signal to stop. At it: they are cut.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);

/// Lines of one list on the page or in the admin API.
pub const PAGE_ROWS_MAX: u32 = 1000;

/// Rows that are looked at for one page of a list of requests: some ten milliseconds. At it: the
/// page has what was found, and says where to go on.
pub const LIST_LOOKS_MAX: u32 = 10_000;

/// Pages that are looked through for a list as CSV: some seconds, behind everybody else, for what is rare
/// among two million rows. At it: the list has what was found, and ends.
pub const CSV_PAGES_MAX: u32 = 200;

/// As [`LIST_LOOKS_MAX`] for a list of conversations, where each look asks an index.
pub const LIST_CONVERSATION_LOOKS_MAX: u32 = 5_000;

/// Steps of a range of time in the admin API, as bars on the page. At it: 400, `too_many_steps`.
pub const RANGE_STEPS_MAX: i64 = 1500;

/// The longest range of time whose steps are shorter than an hour: those are made of rows.
pub const RANGE_OF_ROWS_MAX: Duration = Duration::from_secs(6 * 3600);

const _: () = assert!(WRITER_GROUP_MAX <= WRITER_QUEUE_MAX);
// What has not settled is found nowhere but in memory.
const _: () = assert!(2 * (SETTLE_REFERENCES + 2 * ITEMS_PER_RESPONSE_MAX) <= RECENT_REFERENCES_MAX / 2);
const _: () = assert!(HELD_BYTES_MAX <= EVENT_BYTES_MAX);
const _: () = assert!(TOKENS_MAX < i64::MAX / (100 * USAGE_ROWS_MAX as i64));
const _: () = assert!(UPSTREAM_IDLE.as_secs() <= UPSTREAM_FIRST_BYTE.as_secs());
// Clients of WebSocket mode find room beside them.
const _: () = assert!(KEPT_SOCKETS_PER_ACCOUNT_MAX < SOCKETS_PER_ACCOUNT_MAX);
const _: () = assert!(STREAM_COMMENT.as_secs() < UPSTREAM_IDLE.as_secs());
const _: () = assert!(SESSION_TTL.as_secs() < RESPONSE_TTL.as_secs());
