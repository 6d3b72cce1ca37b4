//! Single requests in addition to the stream: HEAD, CORS, errors.

use std::time::Duration;

use super::{PATIENCE, Probe};
use crate::checks::{self, Check};
use crate::http1::{Part, Request};
use crate::patience::within;
use crate::{Run, leak};

const FOREIGN: &str = "https://stream-probe.invalid";

/// Judges the body of one error response, in which `sent` may be repeated; passes are left to the end of the check.
pub(crate) fn judge_error(run: &Run, check: &'static Check, status: u16, body: &str, sent: &[&str]) {
	if let Some(sign) = leak::find(body, sent) {
		run.fail(check, format!("the body of a {status} shows: {}", crate::report::quote(sign.as_bytes())));
	}
}

impl Probe<'_> {
	pub(super) async fn small_requests(&self) {
		self.head().await;
		self.cors().await;
		self.errors().await;
	}

	/// HEAD twice on one connection: the second is only answered when the first has ended.
	async fn head(&self) {
		const ID: &Check = checks::SSE_HEAD_FINISHES;
		if !self.run.needs(&[ID]) {
			return;
		}
		if self.request.method != "GET" {
			return self.run.unknown(ID, "the stream is not requested with GET");
		}
		let mut request = self.request.clone();
		request.method = "HEAD".to_owned();
		request.body = None;
		let Ok(mut exchange) = request.send(&self.target).await else {
			return self.run.unknown(ID, "no connection");
		};
		let patience = self.run.at_most(PATIENCE);
		let head = match within(patience, exchange.head()).await {
			Ok(Ok(Some(head))) => head,
			Ok(_) => return self.run.pass(ID, "the connection was closed"),
			Err(_) if self.run.left().is_zero() => return,
			Err(_) => {
				return self.run.fail(ID, format!("HEAD was not answered within {} s", PATIENCE.as_secs()));
			}
		};
		if head.has("connection", "close") || !head.http11 {
			return self.run.pass(ID, format!("status {} and connection: close", head.status));
		}
		let again = request.bytes(&self.target);
		if tokio::io::AsyncWriteExt::write_all(&mut exchange.conn, &again).await.is_err() {
			return self.run.pass(ID, format!("status {} and the connection was closed", head.status));
		}
		let patience = self.run.at_most(Duration::from_secs(3));
		match within(patience, exchange.head()).await {
			Ok(Ok(_)) => self.run.pass(
				ID,
				format!(
					"status {}, and the connection is free again; whether work was begun, the wire does not show",
					head.status
				),
			),
			// Cut, perhaps by a handler that failed: then it does not run any more.
			Ok(Err(error)) if error.kind() != std::io::ErrorKind::Other => {
				self.run.pass(ID, format!("status {} and the connection was closed", head.status))
			}
			Ok(Err(_)) => self.run.fail(ID, "HEAD was answered with a body"),
			Err(_) if self.run.left().is_zero() => {}
			Err(_) => self.run.fail(
				ID,
				format!(
					"HEAD was answered with {}, but its handler still runs 3 s later: the connection takes no other request",
					head.status
				),
			),
		}
	}

	async fn cors(&self) {
		const ID: &Check = checks::SSE_CORS_CREDENTIALS;
		if !self.run.needs(&[ID]) {
			return;
		}
		let request = self.request.clone().header("Origin", FOREIGN);
		let Some(response) = request.response(&self.target, self.run.at_most(PATIENCE)).await else {
			return self.run.unknown(ID, "a request with a foreign Origin was not answered");
		};
		let head = &response.head;
		if matches!(head.status, 429 | 503) {
			return self
				.run
				.unknown(ID, format!("a request with a foreign Origin was answered with {}: too many", head.status));
		}
		let allowed = head.get("access-control-allow-origin");
		let credentials = head.has("access-control-allow-credentials", "true");
		match (allowed.as_deref(), credentials) {
			(Some("*"), true) => {
				self.run.fail(ID, "access-control-allow-origin: * with allow-credentials: true, which browsers refuse")
			}
			(Some(FOREIGN), true) => {
				self.run.fail(ID, format!("any Origin is allowed with credentials: {FOREIGN} was"))
			}
			(Some(allowed), _) => {
				self.run.pass(ID, format!("access-control-allow-origin: {allowed}, credentials: {credentials}"))
			}
			(None, _) => self.run.pass(ID, format!("a foreign Origin is allowed nothing (status {})", head.status)),
		}
	}

	async fn errors(&self) {
		const ID: &Check = checks::SSE_ERRORS_CLEAN;
		if !self.run.needs(&[ID]) {
			return;
		}
		let path = self.target.path.split('?').next().unwrap_or("/").trim_end_matches('/');
		let missing = self.target.with_path(&format!("{path}/stream-probe-%F0%9F-missing"));
		let query = self.target.with_path(&format!("{path}?stream-probe=%FF%00&lastEventId=%FF&cursor[]={{"));
		let attempts: [(&str, Request, _); 3] = [
			("a missing path", self.request.clone(), &missing),
			("a broken query", self.request.clone(), &query),
			("an unknown method", Request { method: "PROBE".to_owned(), ..self.request.clone() }, &self.target),
		];
		let mut seen = Vec::new();
		let mut limited = None;
		let mut judged = 0;
		for (what, request, target) in attempts {
			let Some(mut response) = request.response(target, self.run.at_most(PATIENCE)).await else {
				continue;
			};
			let status = response.head.status;
			if matches!(status, 429 | 503) {
				// A limit that the probe's own requests have reached: it hides what the service would have said.
				limited = Some(status);
			} else {
				seen.push(format!("{what}: {status}"));
				judged += usize::from(status >= 400);
			}
			if status >= 400 {
				let body = response.text(self.run.at_most(Duration::from_secs(2))).await;
				judge_error(self.run, ID, status, &body, &[&target.path, path, "PROBE"]);
			} else if status == 200 {
				// A stream nevertheless: let its beginning pass and hang up.
				if let Ok(Part::Data(_)) = within(Duration::from_millis(50), response.next()).await {}
			}
		}
		// What the stream itself says is judged at the end.
		let answers = match limited {
			Some(status) if judged == 0 => Err(format!(
				"wrong requests were answered with {status}, which hides what the service says of an error (wait, or --only sse-errors-clean)"
			)),
			_ if seen.is_empty() => Err("no wrong request was answered".to_owned()),
			_ => Ok(seen.join(", ")),
		};
		drop(self.error_answers.set(answers));
	}
}
