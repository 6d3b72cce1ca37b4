//! The command line of the probe; `README.md` documents it.

mod decode;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use decode::Provider;
use serde_json::json;
use stream_probe::checks::{self, CHECKS};
use stream_probe::{Client, Finding, Kind, News, Options, Payload, Publish, Report, Target, Terminal, Trust, Verdict};

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
		/// Decode the answer of a model: one object per model event, exit code 1 unless the answer is complete
		#[arg(long, value_enum)]
		provider: Option<Provider>,
	},
	/// List all checks
	List {
		/// Output as JSON
		#[arg(long)]
		json: bool,
	},
	/// Describe one check: its question, what it looks for, what to read
	Explain {
		/// Id of the check
		id: String,
	},
}

#[derive(Args)]
struct Probe {
	/// URL of the endpoint: http, https, ws or wss
	url: String,
	/// Header of every request, credentials among them: "Name: value"
	#[arg(short = 'H', long = "header", value_name = "HEADER")]
	headers: Vec<String>,
	/// Cookie header
	#[arg(long)]
	cookie: Option<String>,
	/// Origin that the service accepts
	#[arg(long)]
	origin: Option<String>,
	/// HTTP method (sse: GET, or POST with --data; llm: POST)
	#[arg(short = 'X', long)]
	method: Option<String>,
	/// Request body, sent as JSON if it is; @FILE reads it from a file
	#[arg(short = 'd', long = "data", value_name = "BODY")]
	data: Option<String>,
	/// Time limit for the run, in seconds
	#[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
	budget: f64,
	/// Checks to run: ids, or beginnings of ids with *, separated by commas
	#[arg(long, value_delimiter = ',', value_name = "IDS")]
	only: Vec<String>,
	/// Checks to leave out, as in --only
	#[arg(long, value_delimiter = ',', value_name = "IDS")]
	skip: Vec<String>,
	/// Shell command that makes the service send an event (STREAM_PROBE_N counts the calls)
	#[arg(long, value_name = "CMD")]
	publish: Option<String>,
	/// Process of the service, for its descriptors and memory (Linux)
	#[arg(long)]
	pid: Option<u32>,
	/// Permission to stop --pid with SIGTERM at the end
	#[arg(long, requires = "pid")]
	shutdown: bool,
	/// Longest silence without a heartbeat, in seconds (sse and llm: 15, ws: 55)
	#[arg(long, value_name = "SECONDS")]
	heartbeat: Option<f64>,
	/// Number of connects and disconnects; 0: none
	#[arg(long, default_value_t = 50, value_name = "N")]
	connects: usize,
	/// sse: maximum of open streams that the service allows, in all or for this caller
	#[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
	limit: Option<u16>,
	/// Reader of the stream in production
	#[arg(long, value_enum)]
	client: Option<ClientArg>,
	/// Promise of resume: events without ids are a failure
	#[arg(long)]
	resumable: bool,
	/// ws: subprotocols to offer, separated by commas
	#[arg(long, value_delimiter = ',', value_name = "NAMES")]
	subprotocol: Vec<String>,
	/// ws: text message that the service accepts
	#[arg(long, value_name = "TEXT")]
	message: Option<String>,
	/// ws: the same, binary, in hexadecimal digits
	#[arg(long, value_name = "HEX", conflicts_with = "message")]
	message_hex: Option<String>,
	/// ws: message that the service expects first on every connection
	#[arg(long, value_name = "TEXT")]
	hello: Option<String>,
	/// ws: the same, binary, in hexadecimal digits
	#[arg(long, value_name = "HEX", conflicts_with = "hello")]
	hello_hex: Option<String>,
	/// ws: time after which the service promises to drop a silent peer, in seconds
	#[arg(long, value_name = "SECONDS")]
	idle: Option<f64>,
	/// llm: address on which the probe plays the provider (OpenAI or Anthropic)
	#[arg(long, value_name = "ADDR:PORT")]
	upstream: Option<SocketAddr>,
	/// llm: terminal event of the service: event:NAME, data:TEXT, a JSON field as FIELD=VALUE or .FIELD, or a NAME
	#[arg(long, value_name = "END")]
	terminal: Option<String>,
	/// Report as JSON on standard output
	#[arg(long)]
	json: bool,
	/// File for the report as JUnit XML
	#[arg(long, value_name = "FILE")]
	junit: Option<PathBuf>,
	/// File for the failures as SARIF 2.1.0, for code scanning
	#[arg(long, value_name = "FILE")]
	sarif: Option<PathBuf>,
	/// https and wss: PEM file of the only authorities to believe
	#[arg(long, value_name = "FILE", conflicts_with = "insecure")]
	cacert: Option<PathBuf>,
	/// https and wss: any certificate is believed
	#[arg(long)]
	insecure: bool,
	/// Warnings fail the run too
	#[arg(long)]
	strict: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ClientArg {
	Eventsource,
	Fetch,
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

fn run(kind: Kind, probe: Probe) -> Result<u8, Box<dyn std::error::Error>> {
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

/// The options that would let the probe see more.
fn missing(kind: Kind, options: &Options) -> Vec<&'static str> {
	let no_publish = matches!(options.publish, Publish::None);
	let all: &[(bool, &str)] = match kind {
		Kind::Sse => &[
			(no_publish, "--publish CMD"),
			(options.pid.is_none(), "--pid PID"),
			(options.limit.is_none(), "--limit N"),
			(options.client == Client::Unknown, "--client KIND"),
		],
		Kind::Ws => &[
			(options.message.is_none(), "--message TEXT"),
			(no_publish, "--publish CMD"),
			(options.cookie.is_none(), "--cookie or -H"),
			(options.origin.is_none(), "--origin ORIGIN"),
			(options.subprotocols.is_empty(), "--subprotocol NAMES"),
			(options.idle.is_none(), "--idle SECONDS"),
			(options.pid.is_none(), "--pid PID"),
		],
		Kind::Llm => &[(options.upstream.is_none(), "--upstream ADDR:PORT")],
	};
	all.iter().filter(|(missing, _)| *missing).map(|(_, option)| *option).collect()
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

fn options(kind: Kind, probe: &Probe) -> Result<Options, Box<dyn std::error::Error>> {
	let seconds = |value: f64| Duration::try_from_secs_f64(value);
	let mut options = Options::new(Target::parse(&probe.url)?);
	if probe.insecure {
		options.target.trust = Trust::Anybody;
	} else if let Some(path) = &probe.cacert {
		let pem = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
		options.target.trust = Trust::Authorities(pem);
	}
	for header in &probe.headers {
		let (name, value) =
			header.split_once(':').ok_or_else(|| format!("{header:?} is not a header: write \"Name: value\""))?;
		if header.contains(['\r', '\n']) {
			return Err(format!("{header:?} has a line break").into());
		}
		options.headers.push((name.trim().to_owned(), value.trim().to_owned()));
	}
	options.body = match probe.data.as_deref() {
		None => None,
		Some(data) => Some(match data.strip_prefix('@') {
			Some(path) => std::fs::read(path).map_err(|error| format!("{path}: {error}"))?,
			None => data.as_bytes().to_vec(),
		}),
	};
	for name in probe.only.iter().chain(&probe.skip) {
		let known = |check: &&checks::Check| check.kind == kind && stream_probe::matches(name, check.id);
		if !CHECKS.iter().copied().any(|check| known(&check)) {
			let star = format!("{name}*");
			let meant = |check: &&checks::Check| check.kind == kind && stream_probe::matches(&star, check.id);
			let hint = match CHECKS.iter().copied().find(|check| meant(check)) {
				Some(_) => format!("write {star}"),
				None => "stream-probe list shows all".to_owned(),
			};
			return Err(format!("no check of `{}` is named {name:?}: {hint}", kind.name()).into());
		}
	}
	let named = |names: &[String], id| names.iter().any(|name| stream_probe::matches(name, id));
	let runs = |check: &checks::Check| {
		check.kind == kind && (probe.only.is_empty() || named(&probe.only, check.id)) && !named(&probe.skip, check.id)
	};
	if !CHECKS.iter().copied().any(runs) {
		return Err("--only and --skip leave no check to run".into());
	}
	let default = match kind {
		Kind::Llm => "POST",
		_ if options.body.is_some() => "POST",
		_ => "GET",
	};
	options.method = probe.method.clone().unwrap_or_else(|| default.to_owned());
	options.cookie.clone_from(&probe.cookie);
	options.origin.clone_from(&probe.origin);
	options.budget = seconds(probe.budget)?;
	options.only.clone_from(&probe.only);
	options.skip.clone_from(&probe.skip);
	if let Some(command) = &probe.publish {
		options.publish = Publish::Command(command.clone());
	}
	options.pid = probe.pid;
	options.shutdown = probe.shutdown;
	options.heartbeat = probe.heartbeat.map(seconds).transpose()?;
	options.connects = probe.connects;
	options.limit = probe.limit.map(usize::from);
	options.client = match probe.client {
		None => Client::Unknown,
		Some(ClientArg::Eventsource) => Client::EventSource,
		Some(ClientArg::Fetch) => Client::Fetch,
	};
	options.resumable = probe.resumable;
	options.subprotocols.clone_from(&probe.subprotocol);
	options.message = payload(probe.message.as_deref(), probe.message_hex.as_deref())?;
	options.hello = payload(probe.hello.as_deref(), probe.hello_hex.as_deref())?;
	options.idle = probe.idle.map(seconds).transpose()?;
	options.upstream = probe.upstream;
	options.terminal = probe.terminal.as_deref().map(Terminal::parse);
	Ok(options)
}

fn payload(text: Option<&str>, hex: Option<&str>) -> Result<Option<Payload>, String> {
	match (text, hex) {
		(_, Some(hex)) => Payload::hex(hex)
			.map(Some)
			.ok_or_else(|| format!("{hex:?} is not a binary message: write two hexadecimal digits for each byte")),
		(text, None) => Ok(text.map(Payload::from)),
	}
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
		eprintln!("stream-probe: no check is named {id:?}; see: stream-probe list");
		return ExitCode::from(2);
	};
	say(&format!("{} ({})", check.id, check.level.name()));
	say(&format!("requires:  {}", check.title));
	say(&format!("looks for: {}", check.looks_for));
	say(&format!("run it:    stream-probe {} URL --only {}", check.kind.name(), check.id));
	say(&format!("read:      book/src/{}.md", check.chapter));
	ExitCode::SUCCESS
}
