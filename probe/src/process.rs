//! Processes: the service's (`--pid`, on Linux only), and the command that makes it send an event (`--publish`).

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;

use crate::patience::within;

/// The number of open file descriptors; `None` for a process that cannot be seen, or that has ended.
pub(crate) fn open_files(pid: u32) -> Option<usize> {
	let count = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
	(count > 0).then_some(count)
}

/// Whether the process has ended, as far as the system shows it.
pub(crate) fn has_ended(pid: u32) -> bool {
	match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
		// The state is the first field after the name in parentheses.
		Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
		Err(_) => std::path::Path::new("/proc/self").exists(),
	}
}

/// Resident memory in KiB.
pub(crate) fn resident_kib(pid: u32) -> Option<u64> {
	let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
	let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
	line.split_whitespace().nth(1)?.parse().ok()
}

/// Sends SIGTERM; false when that was not possible.
pub(crate) async fn terminate(pid: u32) -> bool {
	tokio::process::Command::new("kill")
		.args(["-TERM", &pid.to_string()])
		.stdout(Stdio::null())
		.stderr(Stdio::null())
		.status()
		.await
		.is_ok_and(|status| status.success())
}

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

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of a command's output is kept as evidence, in bytes.
const KEPT: u64 = 4096;

/// The publishing of one run.
pub(crate) struct Publisher {
	publish: Publish,
	count: AtomicUsize,
	hung: AtomicBool,
	printed: Mutex<String>,
}

impl Publisher {
	pub(crate) fn new(publish: &Publish) -> Self {
		Self {
			publish: publish.clone(),
			count: AtomicUsize::new(0),
			hung: AtomicBool::new(false),
			printed: Mutex::default(),
		}
	}

	/// Whether the probe can make the service send.
	pub(crate) fn is_some(&self) -> bool {
		!matches!(self.publish, Publish::None)
	}

	/// Whether the last call did not return in time.
	pub(crate) fn hung(&self) -> bool {
		self.hung.load(Ordering::Relaxed)
	}

	/// Makes the service send once; `Err` says why it did not work.
	pub(crate) async fn once(&self) -> Result<(), String> {
		self.within(PATIENCE).await
	}

	/// The same with a time limit of its own.
	pub(crate) async fn within(&self, patience: Duration) -> Result<(), String> {
		let n = self.count.fetch_add(1, Ordering::Relaxed) + 1;
		let published = match &self.publish {
			Publish::None => return Err("needs --publish".to_owned()),
			Publish::Call(call) => {
				let call = Arc::clone(call);
				let called = tokio::task::spawn_blocking(move || call(n));
				match within(patience, called).await {
					Ok(Ok(())) => Some(Ok(())),
					Ok(Err(error)) => Some(Err(format!("--publish failed: {error}"))),
					Err(_) => None,
				}
			}
			Publish::Command(command) => within(patience, self.command(command, n)).await.ok(),
		};
		self.hung.store(published.is_none(), Ordering::Relaxed);
		published
			.unwrap_or_else(|| Err(format!("--publish hung: call {n} had not returned after {} s", patience.as_secs())))
	}

	async fn command(&self, command: &str, n: usize) -> Result<(), String> {
		let mut shell = tokio::process::Command::new("sh");
		shell
			.args(["-c", command])
			.env("STREAM_PROBE_N", n.to_string())
			.stdin(Stdio::null())
			.stdout(Stdio::piped())
			.stderr(Stdio::piped())
			.kill_on_drop(true);
		#[cfg(unix)]
		shell.process_group(0);
		let failed = |error| format!("--publish: {error}");
		let mut child = shell.spawn().map_err(failed)?;
		let _group = Group(child.id());
		let (out, err) = (child.stdout.take(), child.stderr.take());
		let mut reading = std::pin::pin!(async { tokio::join!(kept(out), kept(err)) });
		let mut texts = None;
		let status = loop {
			tokio::select! {
				status = child.wait() => break status,
				read = &mut reading, if texts.is_none() => texts = Some(read),
			}
		};
		if texts.is_none() {
			// Something in the background may hold the pipes: nobody waits for it.
			texts = within(Duration::from_millis(300), reading).await.ok();
		}
		let (out, err) = texts.unwrap_or_default();
		let printed = format!("{out}{err}").trim().to_owned();
		let shown = match printed.as_str() {
			"" => String::new(),
			text => format!(", and printed {}", crate::report::quote(text.as_bytes())),
		};
		*self.printed.lock().unwrap_or_else(PoisonError::into_inner) = printed;
		match status.map_err(failed)? {
			status if status.success() => Ok(()),
			status => Err(format!("--publish failed with {status}{shown}")),
		}
	}

	/// Why a success of the command proves nothing, if so: an HTTP client that exits with 0 for every status.
	pub(crate) fn doubt(&self) -> Option<String> {
		let Publish::Command(command) = &self.publish else {
			return None;
		};
		let words: Vec<&str> =
			command.split(|c: char| c.is_whitespace() || matches!(c, ';' | '|' | '&' | '(' | ')')).collect();
		let uses = |name: &str| words.iter().any(|word| word.rsplit('/').next() == Some(name));
		let short = |word: &str| word.starts_with('-') && !word.starts_with("--");
		let fails = words.iter().any(|word| word.starts_with("--fail") || (short(word) && word.contains('f')));
		let advice = if uses("curl") && !fails {
			"curl without -f exits with 0 for every status"
		} else if (uses("http") || uses("https")) && !words.contains(&"--check-status") {
			"HTTPie without --check-status exits with 0 for every status"
		} else {
			return None;
		};
		let printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
		Some(match printed.as_str() {
			"" => advice.to_owned(),
			text => format!("{advice}, and printed {}", crate::report::quote(text.as_bytes())),
		})
	}
}

/// The beginning of what a child prints, read to its end so that the child never waits.
async fn kept(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
	let Some(mut pipe) = pipe else {
		return String::new();
	};
	let mut bytes = Vec::new();
	// A pipe that fails has nothing more to show.
	drop((&mut pipe).take(KEPT).read_to_end(&mut bytes).await);
	drop(tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await);
	String::from_utf8_lossy(&bytes).into_owned()
}

/// The process group of a command: what it started ends with the call, and with the run.
struct Group(Option<u32>);

impl Drop for Group {
	fn drop(&mut self) {
		#[cfg(unix)]
		if let Some(pid) = self.0 {
			// Ended or not: where nothing is left, kill finds no process.
			let kill = std::process::Command::new("kill")
				.args(["-KILL", "--", &format!("-{pid}")])
				.stdout(Stdio::null())
				.stderr(Stdio::null())
				.status();
			drop(kill);
		}
	}
}
