//! The processes that are measured, and what the system says of them.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// The key of the gateway's only client.
pub const CLIENT_KEY: &str = "mk-bench";

fn moorage() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorage"));
    for name in ["CONFIG", "DATABASE", "LISTEN", "LOG", "LOG_FORMAT"] {
        command.env_remove(format!("MOORAGE_{name}"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// A simulated account in a process of its own.
pub struct Pool {
    process: Child,
    pub base_url: String,
    pub key: String,
}

impl Pool {
    pub fn start() -> Pool {
        let mut process = moorage()
            .args(["simulate", "--accounts", "1", "--no-journal"])
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let line = out
            .lines()
            .map(Result::unwrap)
            .find(|line| line.starts_with("simulated account"))
            .unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        Pool {
            process,
            base_url: words[5].to_owned(),
            key: words[7].to_owned(),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A gateway in front of the pool, with its bookkeeping as it comes.
pub struct Process {
    process: Child,
    pub base_url: String,
    _folder: TempDir,
}

impl Process {
    pub fn gateway(pool: &Pool) -> Process {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write(&path("account.key"), &pool.key);
        write(&path("client.key"), CLIENT_KEY);
        let toml = format!(
            "database = \"moorage.db\"\n[[account]]\nname = \"sim\"\nbase_url = {:?}\napi_key_file = {:?}\n[[client_key]]\nname = \"bench\"\nkey_file = {:?}\n",
            pool.base_url,
            path("account.key"),
            path("client.key")
        );
        write(&path("moorage.toml"), &toml);
        let mut command = moorage();
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(path("moorage.toml"));
        command.stderr(std::fs::File::create(path("log")).unwrap());
        let mut process = command.spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let base_url = out.lines().find_map(|line| {
            let line = line.unwrap();
            Some(format!("{}/v1", line.strip_prefix("moorage listening on ")?))
        });
        Process {
            process,
            base_url: base_url.unwrap(),
            _folder: folder,
        }
    }

    fn status(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).unwrap()
    }

    /// Processor time so far, of all its threads, in user and system.
    pub fn cpu(&self) -> Duration {
        let stat = self.status("stat");
        let after_name = stat.rsplit_once(") ").unwrap().1;
        let fields: Vec<&str> = after_name.split(' ').collect();
        let ticks: u64 = fields[11..13]
            .iter()
            .map(|field| field.parse::<u64>().unwrap())
            .sum();
        // Linux counts in hundredths of a second towards programs.
        Duration::from_millis(ticks * 10)
    }

    pub fn resident_kib(&self) -> f64 {
        let status = self.status("status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
