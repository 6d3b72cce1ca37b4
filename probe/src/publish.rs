//! What makes the service send an event (`--publish`).

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How to make the service send.
#[derive(Clone, Default)]
pub enum Publish {
    /// The probe cannot.
    #[default]
    None,
    /// A shell command; `STREAM_PROBE_N` in its environment counts from 1.
    Command(String),
    /// A function, for tests in process; it is given the count.
    Call(Arc<dyn Fn(usize) + Send + Sync>),
}

static COUNT: AtomicUsize = AtomicUsize::new(0);

impl Publish {
    /// Whether the probe can make the service send.
    pub fn is_some(&self) -> bool {
        !matches!(self, Publish::None)
    }

    /// Makes the service send once; `Err` says why it did not work.
    pub(crate) async fn once(&self) -> Result<(), String> {
        let n = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
        match self {
            Publish::None => Err("no --publish was given".to_owned()),
            Publish::Call(call) => {
                call(n);
                Ok(())
            }
            Publish::Command(command) => {
                let child = tokio::process::Command::new("sh")
                    .args(["-c", command])
                    .env("STREAM_PROBE_N", n.to_string())
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .kill_on_drop(true)
                    .status();
                match tokio::time::timeout(Duration::from_secs(10), child).await {
                    Ok(Ok(status)) if status.success() => Ok(()),
                    Ok(Ok(status)) => Err(format!("the --publish command ended with {status}")),
                    Ok(Err(error)) => Err(format!("the --publish command: {error}")),
                    Err(_) => Err("the --publish command took longer than 10 s".to_owned()),
                }
            }
        }
    }
}
