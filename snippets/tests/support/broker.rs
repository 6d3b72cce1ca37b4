//! Real brokers on loopback ports, each with a folder of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::eventually;
use testkit::proxy::free_port;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Writes each command to disk before it answers.
    Redis,
    /// As it is installed: a snapshot from time to time.
    RedisByDefault,
    Nats,
    Postgres,
}

/// A broker that can be stopped and started again with its data.
pub struct Broker {
    kind: Kind,
    pub addr: SocketAddr,
    folder: TempDir,
    child: Option<Child>,
}

impl Broker {
    pub async fn start(kind: Kind) -> Self {
        let mut broker = Self {
            kind,
            addr: free_port(),
            folder: tempfile::tempdir().unwrap(),
            child: None,
        };
        if kind == Kind::Postgres {
            postgres::create(broker.folder.path());
        }
        broker.resume().await;
        broker
    }

    pub fn url(&self) -> String {
        match self.kind {
            Kind::Redis | Kind::RedisByDefault => format!("redis://{}/", self.addr),
            Kind::Nats => format!("nats://{}", self.addr),
            Kind::Postgres => format!("postgres://postgres@{}/postgres", self.addr),
        }
    }

    /// Starts the process (again), with what it kept on disk.
    pub async fn resume(&mut self) {
        let port = self.addr.port().to_string();
        let mut command = match self.kind {
            Kind::Redis => {
                let mut command = Command::new("redis-server");
                command.args(["--port", &port, "--bind", "127.0.0.1", "--save", ""]);
                command.args(["--appendonly", "yes", "--appendfsync", "always"]);
                command
            }
            Kind::RedisByDefault => {
                let mut command = Command::new("redis-server");
                command.args(["--port", &port, "--bind", "127.0.0.1"]);
                command
            }
            Kind::Nats => {
                let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/proxies");
                let mut command = Command::new(venv.join("bin/nats-server"));
                command
                    .args(["-js", "-a", "127.0.0.1", "-p", &port, "-sd"])
                    .arg(self.folder.path());
                command
            }
            Kind::Postgres => postgres::command(self.folder.path(), &port),
        };
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let child = command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| {
                panic!("{:?} does not start ({e}): ./check installs it", self.kind)
            });
        self.child = Some(child);
        let (addr, kind) = (self.addr, self.kind);
        eventually("the broker to listen", || match kind {
            Kind::Postgres => postgres::is_ready(addr),
            _ => std::net::TcpStream::connect(addr).is_ok(),
        })
        .await;
    }

    /// Ends the process without ceremony.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            if self.kind == Kind::Postgres {
                // To the first process alone SIGKILL would leave the others; SIGQUIT is its own crash.
                send("QUIT", &child.id().to_string());
            } else {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }

    /// Sends `STOP` or `CONT` to the process.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("the broker runs").id();
        let mut pids = vec![pid.to_string()];
        if self.kind == Kind::Postgres {
            pids.extend(postgres::children(pid));
        }
        send(name, &pids.join(" "));
        if name == "STOP" {
            for pid in &pids {
                until_stopped(pid);
            }
        }
    }
}

/// A signal is on its way when `kill` returns: on a busy machine a thread may still answer something.
fn until_stopped(pid: &str) {
    let stopped = || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
        tasks.into_iter().flatten().flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // "pid (name) state …"
            stat.rsplit(") ")
                .next()
                .is_none_or(|rest| rest.is_empty() || rest.starts_with('T'))
        })
    };
    let began = std::time::Instant::now();
    while !stopped() {
        assert!(began.elapsed() < super::PATIENCE, "{pid} does not stop");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn send(signal: &str, pids: &str) {
    let kill = format!("kill -{signal} {pids}");
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.unwrap().success(), "{kill}");
}

/// Postgres refuses to run as root, and serves each connection with a process of its own.
mod postgres {
    use std::net::SocketAddr;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};
    use std::sync::OnceLock;

    use tempfile::TempDir;

    const NOBODY: u32 = 65_534;

    fn program(name: &str) -> PathBuf {
        // Debian keeps them out of the PATH, by version.
        let versions = std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten();
        let found = versions
            .map(|version| version.path().join("bin").join(name))
            .find(|file| file.exists());
        found.unwrap_or_else(|| name.into())
    }

    /// A command that does not run as root.
    fn unprivileged(name: &str) -> Command {
        if !rustix::process::getuid().is_root() {
            return Command::new(program(name));
        }
        let mut command = Command::new("setpriv");
        let user = NOBODY.to_string();
        command
            .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
            .arg(program(name));
        command
    }

    fn give_away(folder: &Path) {
        if rustix::process::getuid().is_root() {
            std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    /// A database, copied from one that is made once.
    pub(super) fn create(folder: &Path) {
        static TEMPLATE: OnceLock<TempDir> = OnceLock::new();
        let template = TEMPLATE.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            give_away(folder.path());
            let output = unprivileged("initdb")
                .args([
                    "--auth=trust",
                    "--username=postgres",
                    "--no-sync",
                    "--wal-segsize=1",
                    "--locale=C",
                    "--encoding=UTF8",
                    "-D",
                ])
                .arg(folder.path().join("data"))
                .output()
                .unwrap_or_else(|e| panic!("initdb does not start ({e}): ./check installs it"));
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            folder
        });
        give_away(folder);
        let copied = Command::new("cp")
            .arg("-a")
            .arg(template.path().join("data"))
            .arg(folder)
            .status();
        assert!(copied.unwrap().success());
    }

    pub(super) fn command(folder: &Path, port: &str) -> Command {
        let mut command = unprivileged("postgres");
        command
            .arg("-D")
            .arg(folder.join("data"))
            .args(["-F", "-h", "127.0.0.1", "-p", port]);
        command.args([
            "-c",
            "unix_socket_directories=",
            "-c",
            "shared_buffers=16MB",
        ]);
        command
    }

    pub(super) fn is_ready(addr: SocketAddr) -> bool {
        let mut command = Command::new(program("pg_isready"));
        command.args(["-q", "-h", "127.0.0.1", "-p", &addr.port().to_string()]);
        command
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    pub(super) fn children(parent: u32) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // "pid (name) state ppid …"
            let ppid = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.split(' ').nth(1));
            if ppid == Some(&parent.to_string()) {
                found.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        found
    }
}

/// A plain connection. The client's default of 500 ms for an answer is too short for a busy machine.
#[cfg(feature = "redis")]
pub async fn redis_connection(broker: &Broker) -> redis::aio::MultiplexedConnection {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(super::PATIENCE))
        .set_response_timeout(Some(super::PATIENCE));
    let client = redis::Client::open(broker.url()).unwrap();
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    connection.await.unwrap()
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}
