//! Small servers written byte by byte, each right in everything but one named fault.

pub mod http2;
pub mod relay;
pub mod sse;
pub mod ws;

use std::net::SocketAddr;
use std::time::Duration;

use stream_probe::{Kind, Options, Report, Target, Verdict};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// One fault of a service.
pub trait One: Copy {
    /// A bit of its own.
    fn bit(self) -> u64;
}

/// The faults of one service; equal to each of them.
pub struct Faults<F>(u64, std::marker::PhantomData<F>);

impl<F> Clone for Faults<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Faults<F> {}

impl<F: One> Faults<F> {
    pub fn any(self, faults: &[F]) -> bool {
        faults.iter().any(|fault| self == *fault)
    }
}

impl<F: One> PartialEq<F> for Faults<F> {
    fn eq(&self, fault: &F) -> bool {
        self.0 & fault.bit() != 0
    }
}

impl<F: One> From<F> for Faults<F> {
    fn from(fault: F) -> Self {
        Self(fault.bit(), std::marker::PhantomData)
    }
}

impl<F: One> From<&[F]> for Faults<F> {
    fn from(faults: &[F]) -> Self {
        let bits = faults.iter().map(|fault| fault.bit());
        Self(bits.fold(0, |all, bit| all | bit), std::marker::PhantomData)
    }
}

/// A request head.
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Request {
    /// Reads the next request of a connection; `None` at its end.
    pub async fn read(socket: &mut TcpStream) -> Option<Self> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break end;
            }
            let mut byte = [0];
            // Byte by byte: what follows the head belongs to whoever reads next.
            socket.read_exact(&mut byte).await.ok()?;
            bytes.push(byte[0]);
        };
        let mut lines = bytes[..end].split(|byte| *byte == b'\n');
        let first = String::from_utf8_lossy(lines.next()?).into_owned();
        let mut words = first.split_whitespace();
        let mut request = Self {
            method: words.next()?.to_owned(),
            path: words.next()?.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        for line in lines {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
            request
                .headers
                .push((name, line[colon + 1..].trim_ascii().to_vec()));
        }
        let length = request
            .header("content-length")
            .and_then(|v| v.parse().ok());
        request.body = vec![0; length.unwrap_or(0)];
        socket.read_exact(&mut request.body).await.ok()?;
        Some(request)
    }

    pub fn raw(&self, name: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_slice())
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.raw(name)
            .map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

/// One chunk of the chunked coding.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// What to skip where the service does not send megabytes.
pub fn without_stalls() -> Vec<String> {
    vec!["sse-stalled-*".to_owned(), "sse-lag-is-told".to_owned()]
}

/// Options for a server of the tests: the budget only turns a hang into a failure.
pub fn options(addr: SocketAddr, path: &str) -> Options {
    let mut options = Options::new(Target::parse(&format!("http://{addr}{path}")).unwrap());
    options.budget = Duration::from_secs(300);
    options
}

pub async fn probe(kind: Kind, options: &Options) -> Report {
    stream_probe::run(kind, options, None).await.unwrap()
}

/// Everything that a failed assertion needs to say.
pub fn show(report: &Report) -> String {
    let lines: Vec<String> = report
        .findings
        .iter()
        .map(stream_probe::Finding::line)
        .collect();
    lines.join("\n")
}

/// Exactly these checks failed.
#[track_caller]
pub fn assert_failed(report: &Report, ids: &[&str]) {
    assert_eq!(report.ids(Verdict::Failed), ids, "\n{}", show(report));
}

/// This check passed.
#[track_caller]
pub fn assert_passed(report: &Report, id: &str) {
    assert_eq!(
        report.verdict(id),
        Some(Verdict::Passed),
        "{id}\n{}",
        show(report)
    );
}

/// Runs all of them at the same time: they wait more than they work.
pub async fn together<F>(runs: impl IntoIterator<Item = F>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runs = runs.into_iter().map(tokio::spawn);
    for done in futures::future::join_all(runs).await {
        if let Err(failed) = done {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}

/// Probes the service of every fault, many at a time (they wait more than they work), and compares
/// what failed with what had to.
pub async fn assert_faults<F, R>(table: &'static [(F, &'static [&'static str])], run: fn(F) -> R)
where
    F: Copy + std::fmt::Debug + Send + Sync + 'static,
    R: Future<Output = Report> + Send + 'static,
{
    use futures::StreamExt as _;
    let wrong: Vec<String> = futures::stream::iter(table)
        .map(|(fault, ids)| async move {
            let report = tokio::spawn(run(*fault)).await.unwrap();
            let difference = report.difference(ids)?;
            Some(format!(
                "{fault:?}:\n{difference}\n\nin {:.1} s:\n{}",
                report.took.as_secs_f64(),
                show(&report)
            ))
        })
        .buffer_unordered(6)
        .filter_map(|wrong| async { wrong })
        .collect()
        .await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Compositions of `size` faults each, drawn from the table by fixed seeds: whatever is wrong with a service, no check
/// fails that none of its faults is about.
pub async fn assert_compositions<F, R>(
    table: &'static [(F, &'static [&'static str])],
    seeds: std::ops::Range<u64>,
    size: usize,
    run: fn(Vec<F>) -> R,
) where
    F: One + std::fmt::Debug + Send + Sync + 'static,
    R: Future<Output = Report> + Send + 'static,
{
    use futures::StreamExt as _;
    let wrong: Vec<String> = futures::stream::iter(seeds)
        .map(|seed| async move {
            let mut state = seed;
            let drawn = (0..size).map(|_| {
                // A linear congruential generator (Knuth's MMIX): the same draws everywhere.
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                &table[(state >> 33) as usize % table.len()]
            });
            let drawn: Vec<_> = drawn.collect();
            let faults: Vec<F> = drawn.iter().map(|(fault, _)| *fault).collect();
            let related: Vec<&str> = drawn
                .iter()
                .flat_map(|(_, ids)| ids.iter().copied())
                .collect();
            let name = format!("seed {seed}: {faults:?}");
            let report = tokio::spawn(run(faults)).await.unwrap();
            let failed = report
                .findings
                .iter()
                .filter(|f| f.verdict == Verdict::Failed);
            let unrelated: Vec<String> = failed
                .filter(|finding| !related.contains(&finding.check.id))
                .map(|finding| format!("{} must not fail: {}", finding.check.id, finding.evidence))
                .collect();
            (!unrelated.is_empty())
                .then(|| format!("{name}\n{}\n\n{}", unrelated.join("\n"), show(&report)))
        })
        .buffer_unordered(8)
        .filter_map(|wrong| async { wrong })
        .collect()
        .await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
