//! Runs the streaming checklist against a live endpoint and says what the wire shows.
//!
//! [`checks::CHECKS`] is the list; [`run`] does the work; `README.md` of this crate documents the
//! command and its JSON. The parser of event streams is the project's own pattern, `sse/wire`.

mod checklist;
pub mod checks;
pub mod command;
mod http1;
mod http2;
mod leak;
mod llm;
mod options;
mod patience;
mod process;
mod report;
mod sse;
mod target;
mod wire_log;
mod ws;

// `wire`, the parser of the pattern.
include!(concat!(env!("OUT_DIR"), "/wire.rs"));

use std::time::Duration;

pub use checks::Kind;
pub use options::{Client, Options, Payload, Terminal};
pub use process::Publish;
pub use report::{Ended, Finding, News, Progress, Report, Run, Verdict, matches};
pub use target::{Target, Trust, Unreachable};

/// What the verdicts after the last wait may take beyond the budget.
const GRACE: Duration = Duration::from_secs(5);
/// The same with SIGTERM, which is the last thing to see.
const SHUTDOWN: Duration = Duration::from_secs(20);

/// Runs all checks of `kind` that the options ask for.
///
/// # Errors
/// When the service cannot be connected to.
pub async fn run(kind: Kind, options: &Options, progress: Option<Progress>) -> Result<Report, Unreachable> {
	run_until(kind, options, progress, std::future::pending()).await
}

/// As [`run`], until `stop` completes: the report then has the verdicts that were found.
///
/// # Errors
/// When the service cannot be connected to.
pub async fn run_until(
	kind: Kind,
	options: &Options,
	progress: Option<Progress>,
	stop: impl Future<Output = ()>,
) -> Result<Report, Unreachable> {
	let run = Run::new(kind, options, progress);
	// Boxed: unoptimized, their futures are too large for the stack of a task that polls several.
	let work = async {
		match kind {
			Kind::Sse => Box::pin(sse::probe(options, &run)).await,
			Kind::Ws => Box::pin(ws::probe(options, &run)).await,
			Kind::Llm => Box::pin(llm::probe(options, &run)).await,
		}
	};
	// The checks keep to the budget; this one ends whatever does not. SIGTERM comes after the budget.
	let limit = options.budget + if options.shutdown { SHUTDOWN } else { GRACE };
	let interrupted = tokio::select! {
		biased;
		() = run.aborted() => false,
		done = work => {
			done?;
			false
		}
		() = stop => true,
		() = tokio::time::sleep(limit) => match run.answered() {
			true => false,
			false => return Err(Unreachable::late(&options.target, limit)),
		},
	};
	Ok(run.finish(&options.target.to_string(), interrupted))
}
