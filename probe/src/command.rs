//! The arguments of a run: of the command line, and of a page that offers the same.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, ValueEnum};

use crate::checks::{self, CHECKS};
use crate::{Client, Kind, Options, Payload, Publish, Target, Terminal, Trust};

/// Longer than the idle limits of 30 and 60 s that proxies and load balancers have by default.
const LONG: Duration = Duration::from_secs(65);

/// The arguments of `sse`, `ws` and `llm`.
#[derive(Args)]
pub struct Probe {
	/// URL of the endpoint: http, https, ws or wss
	pub url: String,
	/// Header of every request, credentials among them: "Name: value"; {n} in the value is a new number for each request
	#[arg(short = 'H', long = "header", value_name = "HEADER")]
	pub headers: Vec<String>,
	/// Cookie header
	#[arg(long)]
	pub cookie: Option<String>,
	/// Origin that the service accepts
	#[arg(long)]
	pub origin: Option<String>,
	/// HTTP method (sse: GET, or POST with --data; llm: POST)
	#[arg(short = 'X', long)]
	pub method: Option<String>,
	/// Request body, sent as JSON if it is; @FILE reads it from a file
	#[arg(short = 'd', long = "data", value_name = "BODY")]
	pub data: Option<String>,
	/// Time limit for the run, in seconds
	#[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
	pub budget: f64,
	/// sse: 65 s of waiting after the last check, for a cut at 30 or 60 s (the budget is then at least 100 s)
	#[arg(long)]
	pub long: bool,
	/// Checks to run: ids, or beginnings of ids with *, separated by commas
	#[arg(long, value_delimiter = ',', value_name = "IDS")]
	pub only: Vec<String>,
	/// Checks to leave out, as in --only
	#[arg(long, value_delimiter = ',', value_name = "IDS")]
	pub skip: Vec<String>,
	/// Shell command that makes the service send an event (STREAM_PROBE_N counts the calls)
	#[arg(long, value_name = "CMD")]
	pub publish: Option<String>,
	/// Process of the service, for its descriptors and memory (Linux)
	#[arg(long)]
	pub pid: Option<u32>,
	/// Permission to stop --pid with SIGTERM at the end
	#[arg(long, requires = "pid")]
	pub shutdown: bool,
	/// Longest silence without a heartbeat, in seconds (sse and llm: 15, ws: 55)
	#[arg(long, value_name = "SECONDS")]
	pub heartbeat: Option<f64>,
	/// Number of connects and disconnects; 0: none
	#[arg(long, default_value_t = 50, value_name = "N")]
	pub connects: usize,
	/// sse: maximum of open streams that the service allows, in all or for this caller
	#[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
	pub limit: Option<u16>,
	/// Reader of the stream in production
	#[arg(long, value_enum)]
	pub client: Option<ClientArg>,
	/// Promise of resume: an event without an id fails the run
	#[arg(long)]
	pub resumable: bool,
	/// ws: subprotocols to offer, separated by commas
	#[arg(long, value_delimiter = ',', value_name = "NAMES")]
	pub subprotocol: Vec<String>,
	/// ws: text message that the service accepts
	#[arg(long, value_name = "TEXT")]
	pub message: Option<String>,
	/// ws: binary message that the service accepts, in hexadecimal digits
	#[arg(long, value_name = "HEX", conflicts_with = "message")]
	pub message_hex: Option<String>,
	/// ws: message that the service expects first on every connection; several, in order, if given again
	#[arg(long, value_name = "TEXT")]
	pub hello: Vec<String>,
	/// ws: binary message that the service expects first, as for --hello, in hexadecimal digits
	#[arg(long, value_name = "HEX", conflicts_with = "hello")]
	pub hello_hex: Vec<String>,
	/// ws: time after which the service promises to drop a silent peer, in seconds
	#[arg(long, value_name = "SECONDS")]
	pub idle: Option<f64>,
	/// llm: address on which the probe plays the provider (OpenAI or Anthropic)
	#[arg(long, value_name = "ADDR:PORT")]
	pub upstream: Option<SocketAddr>,
	/// llm: a terminal event of complete answers: event:NAME, data:TEXT, a JSON field as FIELD=VALUE or .FIELD, or a NAME (repeatable)
	#[arg(long, value_name = "END")]
	pub terminal: Vec<String>,
	/// Report as JSON on standard output
	#[arg(long)]
	pub json: bool,
	/// File for the report as JUnit XML
	#[arg(long, value_name = "FILE")]
	pub junit: Option<PathBuf>,
	/// File for the failures as SARIF 2.1.0, for code scanning
	#[arg(long, value_name = "FILE")]
	pub sarif: Option<PathBuf>,
	/// https and wss: PEM file of the only authorities to accept
	#[arg(long, value_name = "FILE", conflicts_with = "insecure")]
	pub cacert: Option<PathBuf>,
	/// https and wss: acceptance of any certificate
	#[arg(long)]
	pub insecure: bool,
	/// Exit code 1 for warnings too
	#[arg(long)]
	pub strict: bool,
}

/// What reads the stream in production.
#[derive(Clone, Copy, ValueEnum)]
pub enum ClientArg {
	/// The browser's EventSource.
	Eventsource,
	/// A client over fetch, or none in a browser.
	Fetch,
}

/// One argument, for a form.
pub struct Argument {
	/// Its long name, without the dashes.
	pub name: String,
	/// What its value is; `None` for a switch.
	pub value: Option<String>,
	/// What it is if it is not given.
	pub default: Option<String>,
	/// The values that it may have; empty: any.
	pub choices: Vec<String>,
	/// What it does.
	pub help: String,
}

#[derive(Parser)]
#[command(name = "stream-probe", disable_help_flag = true)]
struct Alone {
	#[command(flatten)]
	probe: Probe,
}

/// All arguments except the URL, as the command line documents them.
pub fn arguments() -> Vec<Argument> {
	let command = Alone::command();
	let named = command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg)));
	named
		.map(|(name, arg)| {
			let takes_value = arg.get_action().takes_values();
			let choices = arg.get_possible_values().into_iter().map(|value| value.get_name().to_owned());
			let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned());
			Argument {
				name: name.to_owned(),
				value: takes_value.then(|| arg.get_value_names().unwrap_or_default().join(" ").to_string()),
				default: takes_value.then(|| defaults.collect::<Vec<_>>().join(",")).filter(|text| !text.is_empty()),
				choices: if takes_value { choices.collect() } else { Vec::new() },
				help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
			}
		})
		.collect()
}

/// Reads arguments that did not come from a command line: names without dashes, and their values.
///
/// # Errors
/// What is wrong with an argument.
pub fn parse(url: &str, arguments: &[(String, Option<String>)]) -> Result<Probe, String> {
	let named = arguments.iter().map(|(name, value)| match value {
		Some(value) => format!("--{name}={value}"),
		None => format!("--{name}"),
	});
	let words = std::iter::once("stream-probe".to_owned()).chain(named).chain(["--".to_owned(), url.to_owned()]);
	Alone::try_parse_from(words).map(|alone| alone.probe).map_err(|error| {
		let text = error.to_string();
		let first = text.split("\n\n").next().unwrap_or_default().trim();
		first.strip_prefix("error: ").unwrap_or(first).to_owned()
	})
}

/// The options that would let the probe see more.
pub fn missing(kind: Kind, options: &Options) -> Vec<&'static str> {
	let no_publish = matches!(options.publish, Publish::None);
	let all: &[(bool, &str)] = match kind {
		Kind::Sse => &[
			(no_publish, "--publish CMD"),
			(options.pid.is_none(), "--pid PID"),
			(options.limit.is_none(), "--limit N"),
			(options.client == Client::Unknown, "--client KIND"),
			(options.long.is_zero(), "--long (cuts at 30 and 60 s)"),
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

/// The options of a run.
///
/// # Errors
/// What is wrong with an argument, and what to write instead.
pub fn options(kind: Kind, probe: &Probe) -> Result<Options, Box<dyn std::error::Error + Send + Sync>> {
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
		let known = |check: &&checks::Check| check.kind == kind && crate::matches(name, check.id);
		if !CHECKS.iter().copied().any(|check| known(&check)) {
			let star = format!("{name}*");
			let meant = |check: &&checks::Check| check.kind == kind && crate::matches(&star, check.id);
			let hint = match CHECKS.iter().copied().find(|check| meant(check)) {
				Some(_) => format!("write {star}"),
				None => "stream-probe list shows all".to_owned(),
			};
			return Err(format!("no check of `{}` is named {name:?}: {hint}", kind.name()).into());
		}
	}
	let named = |names: &[String], id| names.iter().any(|name| crate::matches(name, id));
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
	if probe.long && kind == Kind::Sse {
		options.long = LONG;
		options.budget = options.budget.max(LONG + Duration::from_secs(35));
	}
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
	let texts = probe.hello.iter().map(|text| payload(Some(text), None));
	let binary = probe.hello_hex.iter().map(|hex| payload(None, Some(hex)));
	options.hello = texts.chain(binary).filter_map(Result::transpose).collect::<Result<_, _>>()?;
	options.idle = probe.idle.map(seconds).transpose()?;
	options.upstream = probe.upstream;
	options.terminals = probe.terminal.iter().map(|text| Terminal::parse(text)).collect();
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
