//! The command line of the probe; `README.md` documents it.

use std::io::{IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;
use stream_probe::checks::{self, CHECKS};
use stream_probe::wire::{Limits, Parser as Events};
use stream_probe::{Client, Finding, Kind, Options, Publish, Report, Target, Trust};

/// Runs the streaming checklist against a live endpoint.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit code: 0 nothing failed, 1 a check failed, 2 usage or unreachable."
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
    /// Probe an endpoint that streams the tokens of a model (a POST)
    Llm(Probe),
    /// Read an event stream from standard input, write one JSON object per event
    Decode,
    /// List all checks
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what one check asks, looks for, and where to read on
    Explain {
        /// The id of the check
        id: String,
    },
}

#[derive(Args)]
struct Probe {
    /// http, https, ws or wss
    url: String,
    /// A header of every request, credentials among them: "Name: value"
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The Cookie header
    #[arg(long)]
    cookie: Option<String>,
    /// The Origin that the service is to accept
    #[arg(long)]
    origin: Option<String>,
    /// The HTTP method (sse: GET, llm: POST)
    #[arg(short = 'X', long)]
    method: Option<String>,
    /// The request body; @FILE reads it from a file
    #[arg(short = 'd', long = "data", value_name = "BODY")]
    data: Option<String>,
    /// How many seconds the run may take
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    budget: f64,
    /// Run only these checks: ids, or beginnings of ids with *, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "IDS")]
    only: Vec<String>,
    /// Leave these checks out
    #[arg(long, value_delimiter = ',', value_name = "IDS")]
    skip: Vec<String>,
    /// A shell command that makes the service send an event (STREAM_PROBE_N counts the calls)
    #[arg(long, value_name = "CMD")]
    publish: Option<String>,
    /// The service's process, to see its descriptors and memory (Linux)
    #[arg(long)]
    pid: Option<u32>,
    /// Allow the probe to stop --pid with SIGTERM at the end
    #[arg(long, requires = "pid")]
    shutdown: bool,
    /// The longest silence without a heartbeat, in seconds (sse and llm: 15, ws: 55)
    #[arg(long, value_name = "SECONDS")]
    heartbeat: Option<f64>,
    /// How often to connect and disconnect; 0: never
    #[arg(long, default_value_t = 50, value_name = "N")]
    connects: usize,
    /// sse: the service's limit on open streams, as this caller meets it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: Option<u16>,
    /// What reads the stream in production
    #[arg(long, value_enum)]
    client: Option<ClientArg>,
    /// The service promises resume: events without ids are a failure
    #[arg(long)]
    resumable: bool,
    /// ws: the subprotocols to offer, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    subprotocol: Vec<String>,
    /// ws: a text message that the service accepts
    #[arg(long)]
    message: Option<String>,
    /// ws: the message that the service expects first on every connection
    #[arg(long)]
    hello: Option<String>,
    /// ws: after how many seconds the service promises to drop a silent peer
    #[arg(long, value_name = "SECONDS")]
    idle: Option<f64>,
    /// llm: play the provider (OpenAI or Anthropic) on this address
    #[arg(long, value_name = "ADDR:PORT")]
    upstream: Option<SocketAddr>,
    /// llm: the name or the data of the service's terminal event
    #[arg(long)]
    terminal: Option<String>,
    /// Write the report as JSON to standard output
    #[arg(long)]
    json: bool,
    /// Write the report as JUnit XML to a file
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write the failures as SARIF 2.1.0 to a file, for code scanning
    #[arg(long, value_name = "FILE")]
    sarif: Option<PathBuf>,
    /// https and wss: believe the certificates of the authorities in this PEM file, and no others
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    cacert: Option<PathBuf>,
    /// https and wss: believe every certificate
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
        Command::Decode => return done(decode(std::io::stdin().lock())),
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
    let human = !probe.json;
    let progress = move |finding: &Finding| {
        if human {
            println!("{}", paint(finding));
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(stream_probe::run(kind, &options, Some(Box::new(progress))))?;
    // Readers in the background end with the process.
    runtime.shutdown_background();
    if let Some(path) = &probe.junit {
        std::fs::write(path, report.junit(probe.strict))?;
    }
    if let Some(path) = &probe.sarif {
        std::fs::write(path, format!("{:#}\n", report.sarif()))?;
    }
    show(&report, &probe);
    Ok(report.exit_code(probe.strict))
}

fn show(report: &Report, probe: &Probe) {
    if probe.json {
        println!("{:#}", report.json(probe.strict));
    } else {
        println!("\n{}: {}", report.url, report.summary());
    }
}

fn paint(finding: &Finding) -> String {
    let line = finding.line();
    if !std::io::stdout().is_terminal() {
        return line;
    }
    let colour = match &line[..7] {
        "passed " => "32",
        "FAILED " => "31",
        "WARNING" => "33",
        _ => "2",
    };
    format!("\x1b[{colour}m{}\x1b[0m{}", &line[..7], &line[7..])
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
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| format!("{header:?} is no header: write \"Name: value\""))?;
        if header.contains(['\r', '\n']) {
            return Err(format!("{header:?} has a line break").into());
        }
        options
            .headers
            .push((name.trim().to_owned(), value.trim().to_owned()));
    }
    options.body = match probe.data.as_deref() {
        None => None,
        Some(data) => Some(match data.strip_prefix('@') {
            Some(path) => std::fs::read(path).map_err(|error| format!("{path}: {error}"))?,
            None => data.as_bytes().to_vec(),
        }),
    };
    for name in probe.only.iter().chain(&probe.skip) {
        let prefix = name.trim_end_matches('*');
        let known = |check: &checks::Check| check.kind == kind && check.id.starts_with(prefix);
        if !CHECKS.iter().any(known) {
            return Err(format!("no check of this command is named {name:?}").into());
        }
    }
    let default = if kind == Kind::Llm { "POST" } else { "GET" };
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
    options.message.clone_from(&probe.message);
    options.hello.clone_from(&probe.hello);
    options.idle = probe.idle.map(seconds).transpose()?;
    options.upstream = probe.upstream;
    options.terminal.clone_from(&probe.terminal);
    Ok(options)
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn done(result: Outcome) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stream-probe: {error}");
            ExitCode::from(2)
        }
    }
}

/// One JSON object per event, and `{"retry":ms}` whenever the stream changes the reconnection time.
fn decode(mut input: impl Read) -> Outcome {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut parser = Events::new(Limits {
        line: 256 << 20,
        event: 256 << 20,
    });
    let mut retry = None;
    let mut chunk = vec![0_u8; 64 * 1024];
    loop {
        let length = input.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        // Line by line, so that a retry is written in its place among the events.
        for line in chunk[..length].split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let mut events = parser.push(line);
            while let Some(event) = events.next()? {
                let event = json!({
                    "type": event.event_type,
                    "data": event.data,
                    "lastEventId": event.last_event_id,
                });
                writeln!(out, "{event}")?;
            }
            let now = parser.retry();
            if now != retry {
                retry = now;
                let ms = now.unwrap_or_default().as_millis() as u64;
                writeln!(out, "{}", json!({ "retry": ms }))?;
            }
        }
        out.flush()?;
    }
    Ok(())
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
        writeln!(
            out,
            "{:<30} {:<6}  {}",
            check.id,
            check.level.name(),
            check.title
        )?;
    }
    Ok(())
}

fn explain(id: &str) -> ExitCode {
    let Some(check) = checks::find(id) else {
        eprintln!("stream-probe: no check is named {id:?}; see: stream-probe list");
        return ExitCode::from(2);
    };
    println!("{} ({})", check.id, check.level.name());
    println!("asks:      {}", check.title);
    println!("looks for: {}", check.looks_for);
    println!(
        "run it:    stream-probe {} URL --only {}",
        check.kind.name(),
        check.id
    );
    println!("read:      book/src/{}.md", check.chapter);
    ExitCode::SUCCESS
}
