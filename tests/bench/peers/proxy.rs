//! The proxies, each on the core for it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::load::Target;
use super::process::{self, Measured, Pool};

/// A running proxy.
pub struct Proxy {
    pub name: &'static str,
    pub target: Target,
    process: Measured,
}

impl Proxy {
    pub fn cpu(&self) -> Duration {
        self.process.cpu()
    }

    pub fn resident_kib(&self) -> f64 {
        self.process.resident_kib()
    }

    /// The memory that `work` takes at its peak, on top of what was there, in KiB.
    pub async fn peak_kib<T>(&self, work: impl Future<Output = T>) -> (T, f64) {
        self.process.forget_peak();
        let before = self.resident_kib();
        let done = work.await;
        (done, self.process.peak_kib() - before)
    }
}

/// A command on the core of the proxy.
fn pinned(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command
        .args(["-c", super::PROXY_CORE, program])
        .stdin(Stdio::null());
    command
}

/// A port that is free now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn upstream(pool: &Pool) -> &str {
    pool.base_url
        .trim_start_matches("http://")
        .trim_end_matches("/v1")
}

fn is_installed(program: &str) -> bool {
    Command::new(program)
        .arg("-v")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

pub fn nginx(pool: &Pool) -> Option<Proxy> {
    let program = ["/usr/sbin/nginx", "nginx"]
        .into_iter()
        .find(|program| is_installed(program))?;
    let port = free_port();
    let upstream = upstream(pool);
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr error;\n\
         events {{ worker_connections 20000; }}\n\
         http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n\
         client_max_body_size 100m; client_body_buffer_size 8m; keepalive_requests 100000000;\n\
         upstream account {{ server {upstream}; keepalive 256; keepalive_requests 100000000; }}\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://account; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $host; proxy_buffering off; proxy_read_timeout 2h; }} }} }}\n"
    );
    std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
    let mut command = pinned(program);
    command
        .arg("-p")
        .arg(folder.path())
        .arg("-c")
        .arg(folder.path().join("nginx.conf"));
    Some(started("nginx", command, port, pool, folder))
}

pub fn haproxy(pool: &Pool) -> Option<Proxy> {
    let program = ["/usr/sbin/haproxy", "haproxy"]
        .into_iter()
        .find(|program| is_installed(program))?;
    let port = free_port();
    let upstream = upstream(pool);
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "global\n  maxconn 9000\n  nbthread 1\ndefaults\n  mode http\n  option http-no-delay\n  timeout connect 10s\n  timeout client 2h\n  timeout server 2h\n\
         frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\nbackend b\n  http-reuse always\n  server account {upstream}\n"
    );
    std::fs::write(folder.path().join("haproxy.cfg"), config).unwrap();
    let mut command = pinned(program);
    command.arg("-f").arg(folder.path().join("haproxy.cfg"));
    Some(started("HAProxy", command, port, pool, folder))
}

fn started(
    name: &'static str,
    mut command: Command,
    port: u16,
    pool: &Pool,
    folder: tempfile::TempDir,
) -> Proxy {
    let process = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = format!("127.0.0.1:{port}");
    let begin = Instant::now();
    while std::net::TcpStream::connect(&address).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{name} did not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    Proxy {
        name,
        target: Target::new(&address, &pool.key),
        process: Measured::new(process, folder),
    }
}

/// As it comes: durability `process`, usage rows, log lines at `info` into a file.
pub fn moorage(pool: &Pool) -> Option<Proxy> {
    Some(build("Moorage", pool, process::PROGRAM))
}

/// Another build of it, to compare with.
pub fn other_build(pool: &Pool, program: &str) -> Proxy {
    build("other build", pool, program)
}

fn build(name: &'static str, pool: &Pool, program: &str) -> Proxy {
    let gateway = process::Process::start(pool, pinned(program));
    Proxy {
        name,
        target: Target::new(&gateway.base_url, process::CLIENT_KEY),
        process: gateway.process,
    }
}
