//! Wrong: parsing each chunk of a response body as one message
//! Harm: chunks split lines and characters and join neighboring messages: 1 of 3 messages survives
//! Instead: streams/body
//! Probe: cannot see: a client

use std::io;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use snippets::streams::body::read_ndjson;
use tokio_util::io::StreamReader;

/// Three lines as they may arrive: the first alone, the rest split within the `ü` and joined.
fn chunks() -> impl futures::Stream<Item = io::Result<Bytes>> + Unpin {
    stream::iter([
        Ok(Bytes::from_static(b"{\"item\":\"one\"}\n")),
        Ok(Bytes::from_static(b"{\"item\":\"f\xc3")),
        Ok(Bytes::from_static(
            b"\xbcnf\"}\n{\"item\":\"six\"}\n{\"end\":3}\n",
        )),
    ])
}

#[tokio::test]
async fn messages_are_lost_and_the_loop_does_not_notice() {
    let mut got = Vec::new();
    let mut body = chunks();
    while let Some(Ok(chunk)) = body.next().await {
        let text = String::from_utf8_lossy(&chunk);
        if let Ok(serde_json::Value::Object(line)) = serde_json::from_str(&text) {
            got.extend(line.get("item").cloned());
        }
    }
    assert_eq!(got, ["one"]);
}

#[tokio::test]
async fn lines_are_put_together_first() {
    let lines = read_ndjson::<String>(StreamReader::new(chunks()), 1024);
    assert_eq!(
        lines.try_collect::<Vec<_>>().await.unwrap(),
        ["one", "fünf", "six"]
    );
}
