//! Real brokers on loopback ports, each with a folder of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::eventually;
use super::proxy::free_port;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Redis,
    Nats,
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
        broker.resume().await;
        broker
    }

    pub fn url(&self) -> String {
        match self.kind {
            Kind::Redis => format!("redis://{}/", self.addr),
            Kind::Nats => format!("nats://{}", self.addr),
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
            Kind::Nats => {
                let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/proxies");
                let mut command = Command::new(venv.join("bin/nats-server"));
                command
                    .args(["-js", "-a", "127.0.0.1", "-p", &port, "-sd"])
                    .arg(self.folder.path());
                command
            }
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
        let addr = self.addr;
        eventually("the broker to listen", || {
            std::net::TcpStream::connect(addr).is_ok()
        })
        .await;
    }

    /// Ends the process without ceremony.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends `STOP` or `CONT` to the process.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("the broker runs").id();
        let kill = format!("kill -{name} {pid}");
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}
