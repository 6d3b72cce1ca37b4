//! The probe in the place of the provider (`--upstream`): it sends what a check wants to see relayed,
//! and sees when its connection is closed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::patience::within;

/// The secret of the provider that no client may see.
pub(crate) const SECRET: &str = "sk-probe0123456789abcdefghijklmnop";
/// Text of the provider that no client may see.
pub(crate) const INTERNAL: &str = "stream-probe provider internals";

/// Which API the service speaks to the provider, by the path it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
	ChatCompletions,
	Responses,
	Messages,
}

pub(crate) struct Provider {
	listener: TcpListener,
}

/// One request of the service to the provider.
pub(crate) struct Call {
	socket: TcpStream,
	api: Api,
	/// Whether the request asks for a stream.
	pub(crate) streams: bool,
	count: u32,
	text: String,
}

impl Provider {
	pub(crate) async fn bind(addr: SocketAddr) -> io::Result<Self> {
		let listener = TcpListener::bind(addr).await?;
		Ok(Self { listener })
	}

	/// The next request; `None` when none comes within `patience`.
	pub(crate) async fn call(&self, patience: Duration) -> Option<Call> {
		let accept = async {
			loop {
				let (socket, _) = self.listener.accept().await.ok()?;
				if let Some(call) = read_request(socket).await {
					return Some(call);
				}
			}
		};
		within(patience, accept).await.ok().flatten()
	}
}

async fn read_request(mut socket: TcpStream) -> Option<Call> {
	socket.set_nodelay(true).ok()?;
	let mut bytes = Vec::new();
	let end = loop {
		if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
			break end;
		}
		if bytes.len() > 64 * 1024 || socket.read_buf(&mut bytes).await.ok()? == 0 {
			return None;
		}
	};
	let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
	let path = head.split_whitespace().nth(1)?.to_owned();
	let api = if path.contains("/messages") {
		Api::Messages
	} else if path.contains("/responses") {
		Api::Responses
	} else if path.contains("/completions") {
		Api::ChatCompletions
	} else {
		// Model lists, health checks and the like.
		drop(socket.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await);
		return None;
	};
	let length = head
		.lines()
		.find_map(|line| line.strip_prefix("content-length:"))
		.and_then(|value| value.trim().parse::<usize>().ok());
	let complete = |bytes: &[u8]| match length {
		Some(length) => bytes.len() >= end + 4 + length,
		None => bytes.ends_with(b"0\r\n\r\n"),
	};
	while !complete(&bytes) {
		if bytes.len() > 16 << 20 || socket.read_buf(&mut bytes).await.ok()? == 0 {
			return None;
		}
	}
	let body = String::from_utf8_lossy(&bytes[end + 4..]).replace(char::is_whitespace, "");
	Some(Call { socket, api, streams: body.contains("\"stream\":true"), count: 0, text: String::new() })
}

impl Call {
	async fn chunk(&mut self, bytes: &[u8]) -> bool {
		let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
		chunk.extend_from_slice(bytes);
		chunk.extend_from_slice(b"\r\n");
		self.socket.write_all(&chunk).await.is_ok()
	}

	async fn event(&mut self, name: &str, mut data: Value) -> bool {
		if self.api == Api::Responses {
			data["sequence_number"] = json!(self.count);
			self.count += 1;
		}
		let bytes = wire(self.api, name, &data);
		self.chunk(&bytes).await
	}

	/// 200, and what comes before the first token.
	pub(crate) async fn head(&mut self) -> bool {
		let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
		if self.socket.write_all(head.as_bytes()).await.is_err() {
			return false;
		}
		match self.api {
			Api::ChatCompletions => {
				let data = chat(json!({"role": "assistant", "content": ""}), Value::Null);
				self.event("", data).await
			}
			Api::Messages => {
				let message = json!({
					"id": "msg_probe", "type": "message", "role": "assistant", "content": [],
					"model": "stream-probe", "stop_reason": null, "stop_sequence": null,
					"usage": {"input_tokens": 1, "output_tokens": 1},
				});
				let start = json!({"type": "message_start", "message": message});
				let block = json!({"type": "content_block_start", "index": 0,
                    "content_block": {"type": "text", "text": ""}});
				self.event("message_start", start).await && self.event("content_block_start", block).await
			}
			Api::Responses => {
				let created = json!({"type": "response.created", "response": response("in_progress", "")});
				let item = json!({"type": "response.output_item.added", "output_index": 0,
                    "item": {"id": "msg_probe", "type": "message", "status": "in_progress",
                        "role": "assistant", "content": []}});
				let part = json!({"type": "response.content_part.added", "item_id": "msg_probe",
                    "output_index": 0, "content_index": 0,
                    "part": {"type": "output_text", "text": "", "annotations": []}});
				self.event("response.created", created).await
					&& self.event("response.output_item.added", item).await
					&& self.event("response.content_part.added", part).await
			}
		}
	}

	/// One token; false when the service has closed the connection.
	pub(crate) async fn token(&mut self, text: &str) -> bool {
		self.text.push_str(text);
		let (name, data) = self.delta(text);
		self.event(name, data).await
	}

	/// One token, a byte in each chunk.
	pub(crate) async fn token_by_bytes(&mut self, text: &str) -> bool {
		self.text.push_str(text);
		let (name, mut data) = self.delta(text);
		if self.api == Api::Responses {
			data["sequence_number"] = json!(self.count);
			self.count += 1;
		}
		for byte in wire(self.api, name, &data) {
			if !self.chunk(&[byte]).await {
				return false;
			}
		}
		true
	}

	fn delta(&self, text: &str) -> (&'static str, Value) {
		match self.api {
			Api::ChatCompletions => ("", chat(json!({"content": text}), Value::Null)),
			Api::Messages => (
				"content_block_delta",
				json!({"type": "content_block_delta", "index": 0,
                    "delta": {"type": "text_delta", "text": text}}),
			),
			Api::Responses => (
				"response.output_text.delta",
				json!({"type": "response.output_text.delta", "item_id": "msg_probe",
                    "output_index": 0, "content_index": 0, "delta": text, "logprobs": []}),
			),
		}
	}

	/// The end as the provider's API has it.
	pub(crate) async fn finish(&mut self) {
		match self.api {
			Api::ChatCompletions => {
				self.event("", chat(json!({}), json!("stop"))).await;
				self.chunk(b"data: [DONE]\n\n").await;
			}
			Api::Messages => {
				self.event("content_block_stop", json!({"type": "content_block_stop", "index": 0})).await;
				let delta = json!({"type": "message_delta",
                    "delta": {"stop_reason": "end_turn", "stop_sequence": null},
                    "usage": {"output_tokens": 5}});
				self.event("message_delta", delta).await;
				self.event("message_stop", json!({"type": "message_stop"})).await;
			}
			Api::Responses => {
				let text = self.text.clone();
				let done = json!({"type": "response.output_text.done", "item_id": "msg_probe",
                    "output_index": 0, "content_index": 0, "text": text, "logprobs": []});
				self.event("response.output_text.done", done).await;
				let completed = json!({"type": "response.completed", "response": response("completed", &text)});
				self.event("response.completed", completed).await;
			}
		}
		self.end().await;
	}

	/// The last chunk, whatever came before: how a proxy ends the body of a provider that died.
	pub(crate) async fn end(&mut self) {
		drop(self.socket.write_all(b"0\r\n\r\n").await);
		drop(self.socket.shutdown().await);
	}

	/// An error in the stream, with what no client may see.
	pub(crate) async fn error_event(&mut self) {
		let message = format!("{INTERNAL}: upstream_model_7 at /srv/model/worker.py:42, key {SECRET}");
		let data =
			json!({"type": "error", "error": {"type": "overloaded_error", "message": message, "code": "overloaded"}});
		match self.api {
			Api::ChatCompletions => {
				let data = json!({"error": data["error"]});
				self.event("", data).await;
			}
			Api::Messages => {
				self.event("error", data).await;
			}
			Api::Responses => {
				let data = json!({"type": "error", "code": "server_error", "message": message, "param": null});
				self.event("error", data).await;
			}
		}
		self.end().await;
	}

	/// 500 before anything was streamed.
	pub(crate) async fn refuse(&mut self) {
		let body = json!({"type": "error", "error": {"type": "server_error", "code": null, "param": null,
            "message": format!("{INTERNAL}: key {SECRET}")}})
		.to_string();
		let answer = format!(
			"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
			body.len()
		);
		drop(self.socket.write_all(answer.as_bytes()).await);
		drop(self.socket.shutdown().await);
	}

	/// Waits until the service closes the connection; false when it does not within `patience`.
	pub(crate) async fn closed(&mut self, patience: Duration) -> bool {
		let mut buffer = [0_u8; 1024];
		let wait = async { while let Ok(1..) = self.socket.read(&mut buffer).await {} };
		within(patience, wait).await.is_ok()
	}
}

fn wire(api: Api, name: &str, data: &Value) -> Vec<u8> {
	match api {
		Api::ChatCompletions => format!("data: {data}\n\n").into_bytes(),
		_ => format!("event: {name}\ndata: {data}\n\n").into_bytes(),
	}
}

fn chat(delta: Value, finish: Value) -> Value {
	json!({
		"id": "chatcmpl-probe", "object": "chat.completion.chunk", "created": 1_700_000_000,
		"model": "stream-probe",
		"choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}],
	})
}

fn response(status: &str, text: &str) -> Value {
	let output = if text.is_empty() {
		json!([])
	} else {
		json!([{"id": "msg_probe", "type": "message", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": text, "annotations": []}]}])
	};
	json!({
		"id": "resp_probe", "object": "response", "created_at": 1_700_000_000, "status": status,
		"model": "stream-probe", "output": output, "error": null, "incomplete_details": null,
		"instructions": null, "metadata": {}, "parallel_tool_calls": true, "temperature": 1.0,
		"tool_choice": "auto", "tools": [], "top_p": 1.0,
		"usage": {"input_tokens": 1, "output_tokens": 5, "total_tokens": 6,
			"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}},
	})
}
