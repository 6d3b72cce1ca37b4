//! A child process that cannot outlive this one.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::process::{Child, ChildStdin, Command};

/// A shell holds a pipe to us: when it closes, because we dropped it or because we are gone, the program gets SIGTERM.
const GUARD: &str =
    "exec 3<&0; \"$@\" 3<&- & child=$!; (cat <&3; kill -TERM $child) >/dev/null 2>&1 & wait $child";

/// A program under guard.
pub(crate) struct Guarded {
    name: &'static str,
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Guarded {
    /// Starts `command`; what it prints goes to `log`, or to our own output.
    pub(crate) fn start(
        name: &'static str,
        command: &[&str],
        log: Option<&Path>,
    ) -> io::Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", GUARD, "sh"]).args(command);
        if let Some(log) = log {
            let log = File::create(log)?;
            shell.stdout(log.try_clone()?).stderr(log);
        }
        // A group of its own: Ctrl-C in the terminal is for us, and we end the others in order.
        let mut shell = shell.stdin(Stdio::piped()).process_group(0).spawn()?;
        let pipe = shell.stdin.take();
        Ok(Self { name, shell, pipe })
    }

    /// Fails when the program has ended.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        match self.shell.try_wait() {
            Ok(None) => Ok(()),
            ended => Err(format!("{} has ended: {ended:?}", self.name)),
        }
    }

    /// Asks the program to end, and waits for it.
    pub(crate) async fn stop(&mut self) -> io::Result<ExitStatus> {
        self.pipe = None;
        match tokio::time::timeout(Duration::from_secs(20), self.shell.wait()).await {
            Ok(status) => status,
            Err(_) => Err(io::Error::other(format!("{} does not end", self.name))),
        }
    }
}

/// Polls until something listens on `addr`.
pub(crate) async fn listening(program: &mut Guarded, addr: SocketAddr) -> Result<(), String> {
    for _ in 0..500 {
        program.check()?;
        if tokio::net::TcpStream::connect(addr).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(format!("{} does not listen on {addr}", program.name))
}

/// A loopback port that nobody listens on, below those that the system gives to clients: no connection takes it before the
/// program binds it.
pub(crate) fn free_port() -> io::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 1_700).unwrap_or(0);
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let addr = SocketAddr::from(([127, 0, 0, 1], 31_000 + (first + next % 1_700) % 1_700));
        match TcpListener::bind(addr) {
            Ok(_) => return Ok(addr),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && next < 1_700 => {}
            Err(e) => return Err(e),
        }
    }
}
