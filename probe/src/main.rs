//! The command line of the probe; `README.md` documents it.

mod decode;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use decode::Provider;
use serde_json::json;
use stream_probe::checks::{self, CHECKS};
use stream_probe::command::{Probe, missing, options};
use stream_probe::{Finding, Kind, News, Report, Verdict};

// `decode --provider` is the pattern `llm/providers`, whose files name their siblings by these paths.
include!(concat!(env!("OUT_DIR"), "/llm.rs"));
mod sse {
	pub(crate) use stream_probe::wire;
}

/// Runs the streaming checklist against a live endpoint.
#[derive(Parser)]
#[command(
	version,
	after_help = "Exit code: 0 nothing failed; 1 a check failed, or the run was aborted; 2 usage, or nothing listens; 130 interrupted."
)]
struct Cli {
	#[command(subcommand)]
	command: Command,
}

#[derive(Subcommand)]
enum Command {
	/// Probe a Server-Sent Events endpoint
	Sse(Probe),
	/// Probe a WebSocket endpoint
	Ws(Probe),
	/// Probe an endpoint that streams the tokens of a model
	Llm(Probe),
	/// Read a recorded body from standard input, write one JSON object per event
	Decode {
		/// Provider of a recorded answer: one object per model event, exit code 1 unless the answer is complete
		#[arg(long, value_enum)]
		provider: Option<Provider>,
	},
	/// List all checks
	List {
		/// JSON instead of text
		#[arg(long)]
		json: bool,
	},
	/// Describe one check: its question, what it looks for, what to read
	Explain {
		/// Id of the check
		id: String,
	},
}

fn main() -> ExitCode {
	let cli = Cli::parse();
	let (kind, probe) = match cli.command {
		Command::Sse(probe) => (Kind::Sse, probe),
		Command::Ws(probe) => (Kind::Ws, probe),
		Command::Llm(probe) => (Kind::Llm, probe),
		Command::Decode { provider: None } => return done(decode::events(std::io::stdin().lock())),
		Command::Decode { provider: Some(provider) } => {
			return match decode::model_events(provider, std::io::stdin().lock()) {
				Ok(true) => ExitCode::SUCCESS,
				Ok(false) => ExitCode::FAILURE,
				Err(error) => done(Err(error)),
			};
		}
		Command::List { json } => return done(list(json)),
		Command::Explain { id } => return explain(&id),
	};
	match run(kind, probe) {
		Ok(code) => ExitCode::from(code),
		Err(error) => {
			eprintln!("stream-probe: {error}");
			ExitCode::from(2)
		}
	}
}

fn run(kind: Kind, probe: Probe) -> Result<u8, Box<dyn std::error::Error + Send + Sync>> {
	let options = options(kind, &probe)?;
	// Before the run: a report that cannot be written is known now, not after it.
	for path in [&probe.junit, &probe.sarif].into_iter().flatten() {
		std::fs::write(path, "").map_err(|error| format!("{}: {error}", path.display()))?;
	}
	let human = !probe.json;
	let begin = format!("{} {}", kind.name(), options.target);
	let missing = missing(kind, &options);
	let progress = move |news: News<'_>| match news {
		_ if !human => {}
		News::Endpoint(text) => {
			say(&format!("{begin}: {text}"));
			if !missing.is_empty() {
				say(&format!("to see more, give: {}", missing.join(", ")));
			}
			say("");
		}
		News::Verdict(finding) if finding.verdict == Verdict::CouldNotTell => {}
		News::Verdict(finding) => say(&paint(finding)),
	};
	let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
	let interrupted = async {
		// Without the signal's handler Ctrl-C ends the process as ever.
		if tokio::signal::ctrl_c().await.is_err() {
			std::future::pending::<()>().await;
		}
	};
	let work = stream_probe::run_until(kind, &options, Some(Box::new(progress)), interrupted);
	let report = runtime.block_on(work)?;
	// Readers in the background end with the process.
	runtime.shutdown_background();
	if let Some(path) = &probe.junit {
		std::fs::write(path, report.junit(probe.strict)).map_err(|error| format!("{}: {error}", path.display()))?;
	}
	if let Some(path) = &probe.sarif {
		std::fs::write(path, format!("{:#}\n", report.sarif()))
			.map_err(|error| format!("{}: {error}", path.display()))?;
	}
	show(&report, &probe);
	Ok(report.exit_code(probe.strict))
}

/// Writes a line; a reader that has gone is no error.
fn say(line: &str) {
	drop(writeln!(std::io::stdout().lock(), "{line}"));
}

fn show(report: &Report, probe: &Probe) {
	if probe.json {
		say(&format!("{:#}", report.json(probe.strict)));
		return;
	}
	let open = report.open();
	if !open.is_empty() {
		say("\ncould not tell:");
	}
	for (why, ids) in open {
		say(&format!("  {why}\n    {}", ids.join(", ")));
	}
	if let Some(why) = report.broken_off() {
		say(&format!("\nABORTED: {why}"));
	}
	say(&format!("\n{}: {}", report.url, report.summary()));
}

fn paint(finding: &Finding) -> String {
	let line = finding.line();
	if !std::io::stdout().is_terminal() {
		return line;
	}
	let word = finding.word();
	let color = match word.trim() {
		"passed" => "32",
		"FAILED" => "31",
		"WARNING" => "33",
		_ => "2",
	};
	format!("\x1b[{color}m{word}\x1b[0m{}", &line[word.len()..])
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn done(result: Outcome) -> ExitCode {
	match result {
		Ok(()) => ExitCode::SUCCESS,
		// As with `list | head`: the reader has seen enough.
		Err(error)
			if error
				.downcast_ref::<std::io::Error>()
				.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) =>
		{
			ExitCode::SUCCESS
		}
		Err(error) => {
			eprintln!("stream-probe: {error}");
			ExitCode::from(2)
		}
	}
}

fn list(as_json: bool) -> Outcome {
	let mut out = std::io::stdout().lock();
	if as_json {
		let all: Vec<_> = CHECKS
			.iter()
			.map(|check| {
				json!({
					"id": check.id,
					"probe": check.kind.name(),
					"level": check.level.name(),
					"title": check.title,
					"looks_for": check.looks_for,
					"fix": check.fix,
					"chapter": check.chapter,
				})
			})
			.collect();
		writeln!(out, "{:#}", serde_json::Value::from(all))?;
		return Ok(());
	}
	for check in CHECKS {
		writeln!(out, "{:<30} {:<6}  {}", check.id, check.level.name(), check.title)?;
	}
	Ok(())
}

fn explain(id: &str) -> ExitCode {
	let Some(check) = checks::find(id) else {
		eprintln!(
			"stream-probe: no check is named {id:?}; see: stream-probe list (other ids of the checklist need a review of the code)"
		);
		return ExitCode::from(2);
	};
	say(&format!("{} ({})", check.id, check.level.name()));
	say(&format!("requires:  {}", check.title));
	say(&format!("looks for: {}", check.looks_for));
	say(&format!("fix:       {}", check.fix));
	say(&format!("run it:    stream-probe {} URL --only {}", check.kind.name(), check.id));
	say(&format!("read:      chapter {0} of the book (book/src/{0}.md)", check.chapter));
	ExitCode::SUCCESS
}
