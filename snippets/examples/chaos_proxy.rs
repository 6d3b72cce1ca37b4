//! `production/chaos` as a program, in front of any server; see `--help`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use snippets::production::chaos::ChaosProxy;
use snippets::production::chaos_flow::{Cut, Fault, Flow, Plan};

/// A TCP proxy that splits, delays, stalls and cuts, the same way for the same seed.
///
/// It prints the address that clients connect to, then, on standard error, how each connection has ended.
/// MIN..MAX means from MIN to MAX, both included, drawn anew each time; one number stands for itself.
#[derive(Parser, Debug)]
#[command(name = "chaos_proxy")]
pub struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// HOST:PORT of the server.
    #[arg(long)]
    upstream: String,
    /// The direction that the options below are for.
    #[arg(long, value_enum, default_value_t = Direction::ToClient)]
    direction: Direction,
    /// Writes pieces of so many bytes.
    #[arg(long, value_name = "MIN..MAX", value_parser = range)]
    split: Option<RangeInclusive<u64>>,
    /// Waits before each write, in milliseconds.
    #[arg(long, value_name = "MIN..MAX", value_parser = range)]
    delay: Option<RangeInclusive<u64>>,
    /// Bytes per second.
    #[arg(long, value_name = "BYTES")]
    rate: Option<NonZeroU32>,
    /// Ends the connection after so many bytes: FIN to both sides.
    #[arg(long, value_name = "MIN..MAX", value_parser = range, conflicts_with = "stall_after")]
    cut_after: Option<RangeInclusive<u64>>,
    /// With --cut-after: RST instead of FIN.
    #[arg(long, requires = "cut_after")]
    reset: bool,
    /// Passes nothing on after so many bytes, and leaves the connection open.
    #[arg(long, value_name = "MIN..MAX", value_parser = range)]
    stall_after: Option<RangeInclusive<u64>>,
    /// Misbehaves on the first N connections only.
    #[arg(long, value_name = "N")]
    first: Option<u64>,
    /// More connections are reset.
    #[arg(long, default_value_t = 256)]
    max_connections: usize,
    /// What is drawn depends on it alone.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Direction {
    ToClient,
    ToServer,
    Both,
}

fn range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    let number =
        |text| u64::from_str(text).map_err(|_| format!("{text:?} is no number; write MIN..MAX"));
    match (number(min)?, number(max)?) {
        (min, max) if min <= max => Ok(min..=max),
        (min, max) => Err(format!("{min} is more than {max}")),
    }
}

impl Args {
    /// What happens to connection `number`.
    pub fn plan(&self, number: u64) -> Plan {
        if self.first.is_some_and(|first| number >= first) {
            return Plan::default();
        }
        let millis = |range: &RangeInclusive<u64>| {
            Duration::from_millis(*range.start())..=Duration::from_millis(*range.end())
        };
        let cut = Fault::Cut(if self.reset { Cut::Reset } else { Cut::Fin });
        let stall = self.stall_after.clone().map(|after| (after, Fault::Stall));
        let flow = Flow {
            split: self.split.clone(),
            delay: self.delay.as_ref().map(millis),
            rate: self.rate,
            fault: self.cut_after.clone().map(|after| (after, cut)).or(stall),
        };
        let (to_client, to_server) = match self.direction {
            Direction::ToClient => (flow, Flow::default()),
            Direction::ToServer => (Flow::default(), flow),
            Direction::Both => (flow.clone(), flow),
        };
        Plan {
            to_client,
            to_server,
        }
    }
}

/// Runs for ever; `ready` is told where it listens.
pub async fn run(args: Args, ready: impl FnOnce(SocketAddr)) -> Result<(), String> {
    let found = tokio::net::lookup_host(&args.upstream).await;
    let upstream = found
        .map_err(|error| format!("--upstream {}: {error}", args.upstream))?
        .next()
        .ok_or_else(|| format!("--upstream {}: no address", args.upstream))?;
    let (listen, seed, most) = (args.listen, args.seed, args.max_connections);
    let proxy = ChaosProxy::start(listen, upstream, seed, most, move |n| args.plan(n)).await;
    let proxy = proxy.map_err(|error| format!("--listen {listen}: {error}"))?;
    ready(proxy.addr());
    for number in 0.. {
        let Some(connection) = proxy.connection(number).await else {
            continue;
        };
        tokio::spawn(async move {
            let end = connection.ended().await;
            let (down, up) = (connection.to_client.passed(), connection.to_server.passed());
            eprintln!(
                "connection {number}: {down} bytes to the client, {up} to the server, {end:?}"
            );
        });
    }
    Ok(())
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    match run(Args::parse(), |addr| println!("{addr}")).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
