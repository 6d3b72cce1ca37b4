//! What a run found, and how it is written: for people, as JSON, as JUnit XML, as SARIF.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Options;
use crate::checks::{self, Check, Kind, Level};

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
	/// The service does what is asked.
	Passed,
	/// It does not; the evidence says what was seen.
	Failed,
	/// The wire does not show it; the reason says why.
	CouldNotTell,
}

impl Verdict {
	/// The word used in every output.
	pub fn name(self) -> &'static str {
		match self {
			Verdict::Passed => "passed",
			Verdict::Failed => "failed",
			Verdict::CouldNotTell => "could not tell",
		}
	}
}

/// The verdict of one check.
#[derive(Debug, Clone)]
pub struct Finding {
	/// Which check.
	pub check: &'static Check,
	/// Its level in this run: `--resumable` makes ids a must.
	pub level: Level,
	/// What it came to.
	pub verdict: Verdict,
	/// What was seen (passed, failed), or why nothing could be said.
	pub evidence: String,
	/// When it was decided, since the start of the run.
	pub at: Duration,
}

impl Finding {
	/// Whether this finding makes the run fail.
	pub fn counts(&self, strict: bool) -> bool {
		self.verdict == Verdict::Failed && (strict || self.level == Level::Must)
	}

	/// The verdict for people, in one to three words.
	pub fn word(&self) -> &'static str {
		match (self.verdict, self.level) {
			(Verdict::Passed, _) => "passed ",
			(Verdict::Failed, Level::Must) => "FAILED ",
			(Verdict::Failed, Level::Should) => "WARNING",
			(Verdict::CouldNotTell, _) => "could not tell",
		}
	}

	/// The finding in the format that README.md documents.
	pub fn json(&self) -> Value {
		json!({
			"id": self.check.id,
			"level": self.level.name(),
			"title": self.check.title,
			"verdict": self.verdict.name(),
			"evidence": self.evidence,
			"fix": self.check.fix,
			"chapter": self.check.chapter,
			"at_ms": self.at.as_millis() as u64,
		})
	}

	/// One line for people; a second one gives the fix and the chapter of a failure.
	pub fn line(&self) -> String {
		let mut line = format!("{} {}: {}", self.word(), self.check.id, self.evidence);
		if self.verdict == Verdict::Failed {
			let _ = write!(line, "\n        fix: {}; read: {}", self.check.fix, self.check.chapter);
		}
		line
	}
}

/// What a run reports while it lasts.
#[derive(Debug)]
pub enum News<'a> {
	/// What answered, once it has: status, type, protocol.
	Endpoint(&'a str),
	/// A verdict.
	Verdict(&'a Finding),
}

/// Called with each piece of news.
pub type Progress = Box<dyn Fn(News<'_>) + Send + Sync>;

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
	/// All checks had their turn, or the budget was used up.
	Complete,
	/// Nothing more could be probed; the sentence gives the cause.
	Aborted(String),
	/// The user interrupted the run.
	Interrupted,
}

/// A run: its time budget and what it has found so far.
pub struct Run {
	kind: Kind,
	only: Vec<String>,
	skip: Vec<String>,
	resumable: bool,
	started: Instant,
	budget: Duration,
	findings: Mutex<BTreeMap<&'static str, Finding>>,
	aborted: Mutex<Option<String>>,
	stop: tokio::sync::Notify,
	progress: Option<Progress>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
	mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Run {
	pub(crate) fn new(kind: Kind, options: &Options, progress: Option<Progress>) -> Self {
		Self {
			kind,
			only: options.only.clone(),
			skip: options.skip.clone(),
			resumable: options.resumable,
			started: Instant::now(),
			budget: options.budget,
			findings: Mutex::default(),
			aborted: Mutex::default(),
			stop: tokio::sync::Notify::new(),
			progress,
		}
	}

	/// Whether the check was asked for.
	pub(crate) fn wants(&self, check: &Check) -> bool {
		let named = |names: &[String]| names.iter().any(|name| matches(name, check.id));
		(self.only.is_empty() || named(&self.only)) && !named(&self.skip)
	}

	/// Whether one of the checks was asked for and has no verdict yet.
	pub(crate) fn needs(&self, checks: &[&'static Check]) -> bool {
		checks.iter().any(|check| self.wants(check) && !self.decided(check))
	}

	pub(crate) fn decided(&self, check: &Check) -> bool {
		lock(&self.findings).contains_key(check.id)
	}

	fn is(&self, check: &Check, verdict: Verdict) -> bool {
		lock(&self.findings).get(check.id).is_some_and(|f| f.verdict == verdict)
	}

	pub(crate) fn failed(&self, check: &Check) -> bool {
		self.is(check, Verdict::Failed)
	}

	pub(crate) fn passed(&self, check: &Check) -> bool {
		self.is(check, Verdict::Passed)
	}

	/// What is left of the budget, and at most `most`.
	pub(crate) fn at_most(&self, most: Duration) -> Duration {
		self.left().min(most)
	}

	pub(crate) fn left(&self) -> Duration {
		self.budget.saturating_sub(self.started.elapsed())
	}

	/// The budget for which the run would have to last until `more` from now, in whole seconds.
	pub(crate) fn budget_for(&self, more: Duration) -> u64 {
		(self.started.elapsed() + more).as_secs() + 5
	}

	pub(crate) fn pass(&self, check: &'static Check, evidence: impl Into<String>) {
		self.decide(check, Verdict::Passed, evidence.into());
	}

	pub(crate) fn fail(&self, check: &'static Check, evidence: impl Into<String>) {
		self.decide(check, Verdict::Failed, evidence.into());
	}

	pub(crate) fn unknown(&self, check: &'static Check, why: impl Into<String>) {
		self.decide(check, Verdict::CouldNotTell, why.into());
	}

	/// Everything that has no verdict yet could not be judged, for one reason.
	pub(crate) fn unknown_all(&self, why: &str) {
		for check in checks::CHECKS.iter().filter(|c| c.kind == self.kind) {
			self.unknown(check, why);
		}
	}

	/// Whether anything is known of the service.
	pub(crate) fn answered(&self) -> bool {
		!lock(&self.findings).is_empty()
	}

	/// Ends the run: `why` is the whole sentence. Later verdicts are dropped, since they would judge a corpse.
	pub(crate) fn abort(&self, why: impl Into<String>) {
		lock(&self.aborted).get_or_insert(why.into());
		self.stop.notify_one();
	}

	pub(crate) fn is_aborted(&self) -> bool {
		lock(&self.aborted).is_some()
	}

	/// Waits until the run is aborted.
	pub(crate) async fn aborted(&self) {
		self.stop.notified().await;
	}

	/// Reports what answered.
	pub(crate) fn endpoint(&self, text: &str) {
		if let Some(progress) = &self.progress {
			progress(News::Endpoint(text));
		}
	}

	/// The first verdict counts.
	fn decide(&self, check: &'static Check, verdict: Verdict, evidence: String) {
		if self.is_aborted() || !self.wants(check) || self.decided(check) {
			return;
		}
		let level = match self.resumable && check.id == checks::SSE_IDS_PRESENT.id {
			true => Level::Must,
			false => check.level,
		};
		let finding = Finding { check, level, verdict, evidence, at: self.started.elapsed() };
		if let Some(progress) = &self.progress {
			progress(News::Verdict(&finding));
		}
		lock(&self.findings).insert(check.id, finding);
	}

	/// Closes the run: what has no verdict could not be judged.
	pub(crate) fn finish(self, url: &str, interrupted: bool) -> Report {
		let aborted = lock(&self.aborted).take();
		let (ended, why) = match (aborted, interrupted) {
			(Some(why), _) => (Ended::Aborted(why), "the run ended before"),
			(None, true) => (Ended::Interrupted, "the run was interrupted"),
			(None, false) => (Ended::Complete, "the budget was used up before (give more with --budget)"),
		};
		self.unknown_all(why);
		let findings = lock(&self.findings).clone();
		Report {
			kind: self.kind,
			url: url.to_owned(),
			took: self.started.elapsed(),
			ended,
			findings: checks::CHECKS.iter().filter_map(|check| findings.get(check.id).cloned()).collect(),
		}
	}
}

/// `name` is an id, or the beginning of one with a `*` at its end.
pub fn matches(name: &str, id: &str) -> bool {
	match name.strip_suffix('*') {
		Some(prefix) => id.starts_with(prefix),
		None => name == id,
	}
}

/// The result of a run, in the order of the table.
#[derive(Debug, Clone)]
pub struct Report {
	/// Which command.
	pub kind: Kind,
	/// What was probed.
	pub url: String,
	/// How long it took.
	pub took: Duration,
	/// Why it ended.
	pub ended: Ended,
	/// One for each check that was asked for.
	pub findings: Vec<Finding>,
}

impl Report {
	/// The verdict of a check, if it was asked for.
	pub fn verdict(&self, id: &str) -> Option<Verdict> {
		self.findings.iter().find(|finding| finding.check.id == id).map(|finding| finding.verdict)
	}

	/// The ids of all checks with this verdict.
	pub fn ids(&self, verdict: Verdict) -> Vec<&'static str> {
		self.findings.iter().filter(|finding| finding.verdict == verdict).map(|finding| finding.check.id).collect()
	}

	/// How the failures differ from those that a test expects, with the evidence of each; `None` if they do not.
	pub fn difference(&self, expected: &[&str]) -> Option<String> {
		let wrong = |finding: &&Finding| (finding.verdict == Verdict::Failed) != expected.contains(&finding.check.id);
		let mut lines: Vec<String> = self
			.findings
			.iter()
			.filter(wrong)
			.map(|finding| {
				let due = if expected.contains(&finding.check.id) { "must fail" } else { "must not fail" };
				format!("{} {due}: {}, {}", finding.check.id, finding.verdict.name(), finding.evidence)
			})
			.collect();
		let missing = expected.iter().filter(|id| self.verdict(id).is_none());
		lines.extend(missing.map(|id| format!("{id} must fail: it did not run")));
		if lines.is_empty() {
			return None;
		}
		if let Some(why) = self.broken_off() {
			lines.push(format!("the run ended early: {why}"));
		}
		Some(lines.join("\n"))
	}

	/// 0 when nothing failed that counts; 1 when something did or the run was aborted; 130 when it was interrupted.
	pub fn exit_code(&self, strict: bool) -> u8 {
		match self.ended {
			Ended::Interrupted => 130,
			Ended::Aborted(_) => 1,
			Ended::Complete => u8::from(self.findings.iter().any(|finding| finding.counts(strict))),
		}
	}

	/// The last line for people.
	pub fn summary(&self) -> String {
		let count = |level| self.findings.iter().filter(|f| f.verdict == Verdict::Failed && f.level == level).count();
		format!(
			"{} passed, {} failed, {} warnings, {} could not tell in {:.1} s",
			self.ids(Verdict::Passed).len(),
			count(Level::Must),
			count(Level::Should),
			self.ids(Verdict::CouldNotTell).len(),
			self.took.as_secs_f64()
		)
	}

	/// The checks that could not tell, grouped by reason: the reason with most checks first.
	pub fn open(&self) -> Vec<(&str, Vec<&'static str>)> {
		let mut groups: Vec<(&str, Vec<&'static str>)> = Vec::new();
		for finding in &self.findings {
			if finding.verdict != Verdict::CouldNotTell {
				continue;
			}
			match groups.iter_mut().find(|(why, _)| *why == finding.evidence) {
				Some((_, ids)) => ids.push(finding.check.id),
				None => groups.push((&finding.evidence, vec![finding.check.id])),
			}
		}
		groups.sort_by_key(|(_, ids)| std::cmp::Reverse(ids.len()));
		groups
	}

	/// Why the run ended before its checks, if it did.
	pub fn broken_off(&self) -> Option<&str> {
		match &self.ended {
			Ended::Complete => None,
			Ended::Aborted(why) => Some(why),
			Ended::Interrupted => Some("the run was interrupted"),
		}
	}

	/// The stable format that README.md documents.
	pub fn json(&self, strict: bool) -> Value {
		let checks: Vec<Value> = self.findings.iter().map(Finding::json).collect();
		json!({
			"version": 1,
			"probe": self.kind.name(),
			"url": self.url,
			"exit_code": self.exit_code(strict),
			"took_ms": self.took.as_millis() as u64,
			"broken_off": self.broken_off(),
			"checks": checks,
		})
	}

	/// SARIF 2.1.0: every check of the command as a rule, every failure as a result. The query of the URL, which may
	/// hold a ticket, is left out.
	pub fn sarif(&self) -> Value {
		let url = self.url.split('?').next().unwrap_or_default();
		let level = |level| match level {
			Level::Must => "error",
			Level::Should => "warning",
		};
		let all: Vec<&Check> = checks::CHECKS.iter().copied().filter(|check| check.kind == self.kind).collect();
		let rules: Vec<Value> = all
			.iter()
			.map(|check| {
				let chapter = format!("book/src/{}.md", check.chapter);
				json!({
					"id": check.id,
					"shortDescription": { "text": check.title },
					"fullDescription": { "text": format!("{}. Looks for: {}.", check.title, check.looks_for) },
					"help": {
						"text": format!("Looks for: {}.\nFix: {}.\nRead: {chapter}", check.looks_for, check.fix),
						"markdown": format!("Looks for: {}.\n\nFix: {}.\n\nRead: `{chapter}`", check.looks_for, check.fix),
					},
					"defaultConfiguration": { "level": level(check.level) },
					"properties": { "chapter": check.chapter },
				})
			})
			.collect();
		let failed = self.findings.iter().filter(|finding| finding.verdict == Verdict::Failed);
		let results: Vec<Value> = failed
			.map(|finding| {
				let check = finding.check;
				json!({
					"ruleId": check.id,
					"ruleIndex": all.iter().position(|rule| rule.id == check.id),
					"level": level(finding.level),
					"message": { "text": format!("{}: {}", check.title, finding.evidence) },
					"locations": [{ "physicalLocation": { "artifactLocation": { "uri": url } } }],
					// The same finding of the next run, whatever its timing.
					"partialFingerprints": { "check/v1": format!("{} {url}", check.id) },
				})
			})
			.collect();
		let invocation = match self.broken_off() {
			None => json!({ "executionSuccessful": true }),
			Some(why) => json!({
				"executionSuccessful": false,
				"toolExecutionNotifications": [{ "level": "error", "message": { "text": why } }],
			}),
		};
		json!({
			"$schema": "https://json.schemastore.org/sarif-2.1.0.json",
			"version": "2.1.0",
			"runs": [{
				"tool": { "driver": {
					"name": "stream-probe",
					"semanticVersion": env!("CARGO_PKG_VERSION"),
					"rules": rules,
				} },
				"invocations": [invocation],
				"results": results,
			}],
		})
	}

	/// JUnit XML: a warning is a `skipped` case unless `strict`, an unknown one is always.
	pub fn junit(&self, strict: bool) -> String {
		let failures = self.findings.iter().filter(|f| f.counts(strict)).count();
		let skipped = self.findings.iter().filter(|f| f.verdict != Verdict::Passed && !f.counts(strict)).count();
		let errors = usize::from(self.broken_off().is_some());
		let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
		let _ = writeln!(
			xml,
			"<testsuite name=\"stream-probe {}\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\" time=\"{:.3}\">",
			self.kind.name(),
			self.findings.len() + errors,
			self.took.as_secs_f64()
		);
		for finding in &self.findings {
			let _ = write!(xml, "  <testcase classname=\"{}\" name=\"{}\">", self.kind.name(), finding.check.id);
			let text = escape(&finding.evidence);
			let (fix, chapter) = (escape(finding.check.fix), finding.check.chapter);
			let _ = match finding.verdict {
				Verdict::Passed => write!(xml, "<system-out>{text}</system-out>"),
				Verdict::Failed if finding.counts(strict) => write!(
					xml,
					"<failure message=\"{}\">{text}\nfix: {fix}\nread: {chapter}</failure>",
					escape(finding.check.title)
				),
				Verdict::Failed => write!(xml, "<skipped message=\"warning: {text}\"/>"),
				Verdict::CouldNotTell => {
					write!(xml, "<skipped message=\"could not tell: {text}\"/>")
				}
			};
			xml.push_str("</testcase>\n");
		}
		if let Some(why) = self.broken_off() {
			let _ = writeln!(
				xml,
				"  <testcase classname=\"{}\" name=\"run\"><error message=\"{}\"/></testcase>",
				self.kind.name(),
				escape(why)
			);
		}
		xml.push_str("</testsuite>\n");
		xml
	}
}

impl Kind {
	/// `sse`, `ws` or `llm`.
	pub fn name(self) -> &'static str {
		match self {
			Kind::Sse => "sse",
			Kind::Ws => "ws",
			Kind::Llm => "llm",
		}
	}
}

fn escape(text: &str) -> String {
	let mut out = String::with_capacity(text.len());
	for c in text.chars() {
		match c {
			'<' => out.push_str("&lt;"),
			'>' => out.push_str("&gt;"),
			'&' => out.push_str("&amp;"),
			'"' => out.push_str("&quot;"),
			// XML 1.0 has no way to write the other control characters.
			c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{FFFD}'),
			c => out.push(c),
		}
	}
	out
}

/// Bytes as evidence: printable ASCII and UTF-8 as they are, the rest escaped, cut after 120.
pub(crate) fn quote(bytes: &[u8]) -> String {
	const MOST: usize = 120;
	let cut = &bytes[..bytes.len().min(MOST)];
	let mut out = String::from("\"");
	for chunk in cut.utf8_chunks() {
		for c in chunk.valid().chars() {
			match c {
				'\n' => out.push_str("\\n"),
				'\r' => out.push_str("\\r"),
				'\t' => out.push_str("\\t"),
				'"' => out.push_str("\\\""),
				c if c.is_control() => {
					let _ = write!(out, "\\x{:02x}", c as u32);
				}
				c => out.push(c),
			}
		}
		for byte in chunk.invalid() {
			let _ = write!(out, "\\x{byte:02x}");
		}
	}
	out.push('"');
	if bytes.len() > MOST {
		let _ = write!(out, "… ({} bytes)", bytes.len());
	}
	out
}
