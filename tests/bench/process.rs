//! The processes that are measured, and what the system says of them.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// The key of the gateway's only client.
pub const CLIENT_KEY: &str = "mk-bench-of-more-than-twenty-characters";

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_moorage");

/// A process with its folder. It ends when it is dropped.
pub struct Measured {
    process: Child,
    _folder: TempDir,
}

impl Measured {
    pub fn new(process: Child, folder: TempDir) -> Measured {
        Measured {
            process,
            _folder: folder,
        }
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).unwrap()
    }

    /// Processor time so far, of all its threads, in user and system.
    pub fn cpu(&self) -> Duration {
        let stat = self.read("stat");
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
        self.status_kib("VmRSS:")
    }

    /// The most that it had since [`Measured::forget_peak`].
    pub fn peak_kib(&self) -> f64 {
        self.status_kib("VmHWM:")
    }

    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").unwrap();
    }

    fn status_kib(&self, name: &str) -> f64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap()
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn without_environment(mut command: Command) -> Command {
    for name in ["CONFIG", "DATABASE", "LISTEN", "LOG", "LOG_FORMAT"] {
        command.env_remove(format!("MOORAGE_{name}"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// A simulated account in a process of its own.
pub struct Pool {
    _process: Measured,
    pub base_url: String,
    pub key: String,
}

impl Pool {
    pub fn start() -> Pool {
        let mut command = without_environment(Command::new(PROGRAM));
        let mut process = command
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
            _process: Measured::new(process, tempfile::tempdir().unwrap()),
            base_url: words[5].to_owned(),
            key: words[7].to_owned(),
        }
    }
}

/// A gateway in front of the pool, with its bookkeeping as it comes.
pub struct Process {
    pub process: Measured,
    pub base_url: String,
}

impl Process {
    /// Starts the program that `command` names, as it comes.
    pub fn start(pool: &Pool, command: Command) -> Process {
        Process::start_with(pool, command, "")
    }

    /// Starts it with settings of its own.
    pub fn start_with(pool: &Pool, command: Command, settings: &str) -> Process {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write(&path("account.key"), &pool.key);
        write(&path("client.key"), CLIENT_KEY);
        let database = match settings.contains("database = ") {
            true => "",
            false => "database = \"moorage.db\"\n",
        };
        let toml = format!(
            "{settings}{database}[[account]]\nname = \"sim\"\nbase_url = {:?}\napi_key_file = {:?}\n[[client_key]]\nname = \"bench\"\nkey_file = {:?}\n",
            pool.base_url,
            path("account.key"),
            path("client.key")
        );
        write(&path("moorage.toml"), &toml);
        let mut command = without_environment(command);
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
            process: Measured::new(process, folder),
            base_url: base_url.unwrap(),
        }
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
