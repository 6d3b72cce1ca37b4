//! The test binary itself, started again as a service, for what only a process shows.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

const SERVICE: &str = "TESTKIT_SERVICE";

/// A service in a process of its own; dropped, it is killed.
pub struct Process {
    pub child: Child,
    pub addr: SocketAddr,
    /// Held: the test runner of the service prints after a minute, and ends if nobody can read it.
    _printed: BufReader<ChildStdout>,
}

impl Process {
    /// Starts the test `test`, which serves what [`Process::service`] names and prints `listening ADDR`.
    pub fn start(test: &str, service: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(SERVICE, service)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut printed = BufReader::new(child.stdout.take().unwrap());
        let addr = printed
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.rsplit("listening ").next()?.parse().ok())
            .unwrap();
        Self {
            child,
            addr,
            _printed: printed,
        }
    }

    /// The service that this process was started for; otherwise the test has nothing to do.
    pub fn service() -> Option<String> {
        std::env::var(SERVICE).ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
