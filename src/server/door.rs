//! Who may come in through the page and the admin API: under which names, from whose pages, and
//! how often somebody may be wrong about the key.

mod strangers;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use super::{Front, errors};
use crate::limits;

pub use strangers::Strangers;

/// The address at the other end of a connection, put into each of its requests. What a header says
/// about it is never believed.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

impl Peer {
    /// Who sent a request; this machine where there is no address.
    pub fn of(request: &Extensions) -> Peer {
        let peer = request.get::<Peer>();
        peer.copied().unwrap_or(Peer(IpAddr::V4(Ipv4Addr::LOCALHOST)))
    }

    /// Addresses that are given out together count as one: the 64 bits of a network in IPv6.
    fn network(self) -> IpAddr {
        match self.0.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            address => address,
        }
    }
}

/// What the door knows.
#[derive(Debug, Default)]
pub struct Door {
    allowed_hosts: Vec<String>,
    allowed_origins: Vec<String>,
    wrong: Mutex<HashMap<IpAddr, Wrong>>,
    /// Those who come to `/v1` without a valid client key.
    pub(super) strangers: Strangers,
}

/// How often somebody was wrong about the key.
#[derive(Debug, Clone, Copy, Default)]
struct Wrong {
    times: u32,
    last_at_ms: i64,
    wait_until_ms: i64,
}

impl Door {
    /// A door for this machine's own names and addresses, and these names besides; with these
    /// origins allowed to call `/v1`.
    pub fn new(allowed_hosts: Vec<String>, allowed_origins: Vec<String>) -> Door {
        Door {
            allowed_hosts: allowed_hosts
                .into_iter()
                .map(|host| host.to_ascii_lowercase())
                .collect(),
            allowed_origins,
            wrong: Mutex::default(),
            strangers: Strangers::default(),
        }
    }

    /// The origins whose pages may call `/v1`.
    pub fn allowed_origins(&self) -> impl Iterator<Item = HeaderValue> {
        let origins = self.allowed_origins.iter();
        origins.filter_map(|origin| HeaderValue::from_str(origin).ok())
    }

    /// Whether there are any.
    pub fn allows_origins(&self) -> bool {
        !self.allowed_origins.is_empty()
    }

    /// Whether a request names this machine as it is called. A page of somebody else's whose name
    /// was rebound to this address still names itself. An address in figures cannot be rebound.
    fn knows_host(&self, host: &str) -> bool {
        let Some(authority) = host
            .parse::<Authority>()
            .ok()
            .filter(|authority| !authority.as_str().contains('@'))
        else {
            return false;
        };
        let name = authority.host().to_ascii_lowercase();
        let is_address = name.parse::<Ipv4Addr>().is_ok()
            || name
                .strip_prefix('[')
                .and_then(|name| name.strip_suffix(']'))
                .is_some_and(|name| name.parse::<Ipv6Addr>().is_ok());
        is_address || name == "localhost" || self.allowed_hosts.contains(&name)
    }

    fn wrong(&self) -> MutexGuard<'_, HashMap<IpAddr, Wrong>> {
        // Each entry is whole between any two calls.
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long somebody has to wait before the next key is looked at.
    pub(super) fn must_wait(&self, peer: Peer, now_ms: i64) -> Option<Duration> {
        let mut wrong = self.wrong();
        if let Some(wrong) = wrong.get(&peer.network()) {
            let wait_ms = u64::try_from(wrong.wait_until_ms - now_ms).ok()?;
            return (wait_ms > 0).then(|| Duration::from_millis(wait_ms));
        }
        if wrong.len() >= limits::WRONG_ADMIN_KEYS_ADDRESSES {
            wrong.retain(|_, wrong| !wrong.is_forgotten(now_ms));
        }
        (wrong.len() >= limits::WRONG_ADMIN_KEYS_ADDRESSES).then_some(limits::WRONG_ADMIN_KEYS_WAIT)
    }

    /// Somebody was wrong about the key.
    pub(super) fn was_wrong(&self, peer: Peer, now_ms: i64) {
        let mut wrong = self.wrong();
        let wrong = wrong.entry(peer.network()).or_default();
        if wrong.is_forgotten(now_ms) {
            *wrong = Wrong::default();
        }
        wrong.times = wrong.times.saturating_add(1);
        wrong.last_at_ms = now_ms;
        let Some(too_often) = wrong.times.checked_sub(limits::WRONG_ADMIN_KEYS) else {
            return;
        };
        let wait = Duration::from_secs(1 << too_often.min(16)).min(limits::WRONG_ADMIN_KEYS_WAIT);
        wrong.wait_until_ms = now_ms + i64::try_from(wait.as_millis()).unwrap_or(0);
        tracing::warn!(peer = %peer.0, times = wrong.times, "wrong admin keys");
    }

    /// Somebody was right about it.
    pub(super) fn was_right(&self, peer: Peer) {
        self.wrong().remove(&peer.network());
    }
}

impl Wrong {
    fn is_forgotten(&self, now_ms: i64) -> bool {
        let kept_ms = i64::try_from(limits::WRONG_ADMIN_KEYS_WAIT.as_millis()).unwrap_or(0);
        now_ms >= self.wait_until_ms.max(self.last_at_ms) + kept_ms
    }
}

/// The host that a request names, where it names one and only one.
fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let mut named = headers.get_all(header::HOST).iter();
    let host = named.next()?.to_str().ok()?;
    let is_one = named.next().is_none();
    // A whole address in the first line must name the same.
    let in_line = uri.authority().map_or(host, |authority| authority.as_str());
    (is_one && in_line.eq_ignore_ascii_case(host)).then_some(host)
}

/// Lets in only requests that name this machine as it is called.
pub(super) async fn check_host(State(front): State<Front>, request: Request, next: Next) -> Response {
    match host(request.headers(), request.uri()) {
        Some(host) if front.door.knows_host(host) => next.run(request).await,
        _ => errors::unknown_host(),
    }
}

/// Whether a browser says that the request comes from a page of this very server. Clients that are
/// no browsers say nothing, and have no cookie that another page could use.
pub(super) fn is_of_own_page(headers: &HeaderMap, uri: &Uri, says_so: bool) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let fetched = text(HeaderName::from_static("sec-fetch-site"));
    let origin = text(header::ORIGIN);
    let origin_is_own = origin.map(|origin| {
        let (_, authority) = origin.split_once("://").unwrap_or(("", ""));
        host(headers, uri).is_some_and(|host| authority.eq_ignore_ascii_case(host))
    });
    let fetched_is_own = fetched.map(|site| site == "same-origin" || (site == "none" && !says_so));
    match (origin_is_own, fetched_is_own) {
        (Some(false), _) | (_, Some(false)) => false,
        (None, None) => !says_so,
        _ => true,
    }
}

/// What browsers may do with an answer of the page or the admin API: nothing but show it here.
pub(super) async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Whether a path means what it names: whoever passes another one on, or reads it anew, could land
/// somewhere else.
pub(super) fn is_plain(path: &str) -> bool {
    // Most paths have no dot and no percent at all.
    if memchr::memchr3(b'.', b'%', b'\\', path.as_bytes()).is_none() {
        return !path.contains("//");
    }
    let decoded = path.to_ascii_lowercase().replace("%2e", ".");
    let hides = ["%2f", "%5c", "%00", "\\", "//"];
    !hides.iter().any(|hidden| decoded.contains(hidden))
        && decoded.split('/').all(|part| part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> Peer {
        Peer(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
    }

    #[test]
    fn a_name_that_was_rebound_is_not_known() {
        let door = Door::new(vec!["Moorage.lan".into()], Vec::new());
        for known in [
            "127.0.0.1:8440",
            "localhost",
            "LOCALHOST:1",
            "[::1]:8440",
            "192.168.1.5",
            "moorage.LAN:80",
        ] {
            assert!(door.knows_host(known), "{known}");
        }
        for unknown in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "moorage.lan.evil",
            "evil.example@localhost:1/",
            "localhost evil",
        ] {
            assert!(!door.knows_host(unknown), "{unknown}");
        }
    }

    #[test]
    fn wrong_keys_slow_down_only_whoever_sends_them() {
        let door = Door::default();
        for _ in 1..limits::WRONG_ADMIN_KEYS {
            door.was_wrong(peer(1), 0);
            assert_eq!(door.must_wait(peer(1), 0), None);
        }
        let mut waits = Vec::new();
        for _ in 0..8 {
            door.was_wrong(peer(1), 0);
            waits.push(door.must_wait(peer(1), 0).unwrap().as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(door.must_wait(peer(2), 0), None);
        assert_eq!(door.must_wait(peer(1), 60_000), None);
        door.was_right(peer(1));
        door.was_wrong(peer(1), 0);
        assert_eq!(door.must_wait(peer(1), 0), None);
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_ends() {
        let door = Door::default();
        for number in 0..limits::WRONG_ADMIN_KEYS_ADDRESSES as u32 {
            door.was_wrong(Peer(IpAddr::V4(Ipv4Addr::from_bits(number))), 0);
        }
        let other = Peer(IpAddr::V4(Ipv4Addr::new(250, 0, 0, 1)));
        assert!(door.must_wait(other, 0).is_some());
        let later = limits::WRONG_ADMIN_KEYS_WAIT.as_millis() as i64;
        assert_eq!(door.must_wait(other, later), None);
    }

    #[test]
    fn the_addresses_of_one_network_count_as_one() {
        let of = |text: &str| Peer(text.parse().unwrap()).network();
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn a_path_means_what_it_says() {
        for plain in [
            "/",
            "/v1/responses",
            "/v1/files/a.b",
            "/style.css",
            "/v1/x%20y",
            "/v1/..a",
        ] {
            assert!(is_plain(plain), "{plain}");
        }
        for odd in [
            "/v1/../admin",
            "/v1/..",
            "/v1/%2e%2E/admin",
            "/v1/.%2e/admin",
            "/./admin",
            "//admin",
            "/v1//admin",
            "/v1/..%2fadmin",
            "/v1/x%5c..%5cadmin",
            "/v1\\admin",
            "/v1/x%00",
        ] {
            assert!(!is_plain(odd), "{odd}");
        }
    }

    #[test]
    fn other_peoples_pages_are_told_apart() {
        let uri: Uri = "/admin/api/v1/accounts".parse().unwrap();
        let own = |headers: &[(&'static str, &'static str)], says_so| {
            let mut map = HeaderMap::new();
            map.insert("host", HeaderValue::from_static("127.0.0.1:8440"));
            for (name, value) in headers {
                map.insert(*name, HeaderValue::from_static(value));
            }
            is_of_own_page(&map, &uri, says_so)
        };
        assert!(own(&[], false));
        assert!(!own(&[], true));
        assert!(own(&[("origin", "http://127.0.0.1:8440")], true));
        assert!(own(&[("sec-fetch-site", "same-origin")], true));
        assert!(own(&[("sec-fetch-site", "none")], false));
        for (name, value) in [
            ("origin", "http://127.0.0.1:3000"),
            ("origin", "null"),
            ("origin", "https://evil.example"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "cross-site"),
        ] {
            assert!(!own(&[(name, value)], false), "{name}: {value}");
        }
        let mixed = [
            ("sec-fetch-site", "same-origin"),
            ("origin", "http://evil.example"),
        ];
        assert!(!own(&mixed, true));
    }
}
