//! Three patterns behind `production/chaos`: whatever the network does, the promise of the pattern holds.

use std::sync::Arc;

use snippets::llm::scripted_model::{Reply, Script, ScriptedModel};
use snippets::production::chaos_flow::{Cut, Fault, Flow, Plan};

use crate::support::chat::{self, ask, events};
use crate::support::{Server, chaos};

/// Small pieces both ways, and after so many bytes to the client a cut: FIN and RST in turn.
fn hostile(number: u64, bytes: std::ops::RangeInclusive<u64>) -> Plan {
    let pieces = Flow {
        split: Some(1..=40),
        ..Flow::default()
    };
    let cut = [Cut::Reset, Cut::Fin][(number % 2) as usize];
    Plan {
        to_client: Flow {
            fault: Some((bytes, Fault::Cut(cut))),
            ..pieces.clone()
        },
        to_server: pieces,
    }
}

/// The one that the chapter shows.
mod sse {
    use std::time::Duration;

    use snippets::production::{
        chaos::ChaosProxy,
        chaos_flow::{Cut, Fault, Flow, Plan},
    };
    use snippets::sse::{
        consume::EventSource,
        event::Event,
        log::{self, Log},
        reconnect::Policy,
        resume,
        streams::{Config, Streams},
        transports::over_reqwest,
        wire::Limits,
    };
    use tokio_util::sync::CancellationToken;

    // ANCHOR: hostile
    /// Small pieces, and every connection cut somewhere, with RST and FIN in turn.
    fn hostile(number: u64) -> Plan {
        let cut = [Cut::Reset, Cut::Fin][(number % 2) as usize];
        let to_client = Flow {
            split: Some(1..=40),
            fault: Some((200..=2_000, Fault::Cut(cut))),
            ..Flow::default()
        };
        Plan {
            to_client,
            ..Plan::default()
        }
    }
    // ANCHOR_END: hostile

    #[tokio::test]
    // ANCHOR: resume
    async fn each_event_once_and_in_order_through_a_hostile_network() {
        for seed in 1..=5 {
            let log = Log::new(log::Config::complete(1_000, 1 << 20));
            let streams = Streams::start(Config::default(), CancellationToken::new());
            let app = resume::app(log.clone(), streams);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (free, server) = (([127, 0, 0, 1], 0).into(), listener.local_addr().unwrap());
            tokio::spawn(async move { axum::serve(listener, app).await });
            let proxy = ChaosProxy::start(free, server, seed, 100, hostile)
                .await
                .unwrap();

            let url = format!("http://{}/events", proxy.addr());
            let policy = Policy {
                retry: (Duration::from_millis(1), Duration::from_millis(2)),
                longest: Duration::from_millis(5),
                attempts: u32::MAX,
                ..Policy::default()
            };
            let connect = over_reqwest(reqwest::Client::new(), url);
            let mut client = EventSource::new(policy, Limits::default(), connect);
            for n in 0..100 {
                log.publish(&Event::new("tick", &n).unwrap()).unwrap();
            }
            let done = Event::new("done", &100).unwrap().last();
            log.publish(&done).unwrap();
            for n in 0..=100 {
                let event = tokio::time::timeout(Duration::from_secs(20), client.next()).await;
                let event = event.expect("no hang").unwrap().expect("no early end");
                assert_eq!(event.data, n.to_string(), "seed {seed}");
            }
            assert!(client.next().await.unwrap().is_none(), "204 after the end");
            assert!(proxy.connections().len() > 2, "seed {seed} has cut nothing");
        }
    }
    // ANCHOR_END: resume
}

/// The model's answer cut anywhere: the browser sees a beginning of it and is told that it is not whole. Only what is
/// whole is called so, and nothing is asked, and paid for, twice.
#[tokio::test]
async fn a_relay_never_calls_a_cut_answer_whole() {
    let text = "Trust the protocol, not the bytes. ".repeat(20);
    let mut outcomes = [0, 0];
    for seed in 1..=12 {
        let model = ScriptedModel::new(Script::reply(Reply::text(&text)));
        let upstream = Server::start(model.router()).await;
        // The whole answer has about 30,000 bytes.
        let proxy = chaos(upstream.addr, seed, |n| hostile(n, 0..=60_000)).await;
        let relay = chat::relay(&format!("http://{}", proxy.addr()), chat::patient());
        let server = Server::start(chat::app(Arc::new(relay))).await;
        let mut client = ask(server.addr).await;
        client.read_to_end().await;
        assert!(model.exchanges().len() <= 1, "seed {seed}: asked again");
        if client.status() != 200 {
            assert_eq!(client.status(), 502, "seed {seed}: {}", client.body());
            outcomes[0] += 1;
            continue;
        }
        let events = events(&client.body());
        let (last, deltas) = events.split_last().unwrap();
        let answer: String = deltas
            .iter()
            .map(|(name, data)| {
                assert_eq!(name, "text", "seed {seed}: one terminal event, at the end");
                let data: serde_json::Value = serde_json::from_str(data).unwrap();
                data["text"].as_str().unwrap().to_owned()
            })
            .collect();
        match last.0.as_str() {
            "done" => assert_eq!(answer, text, "seed {seed}"),
            "failed" => {
                assert!(text.starts_with(&answer), "seed {seed}: {answer}");
                assert!(last.1.contains(r#""retryable":true"#), "{}", last.1);
            }
            other => panic!("seed {seed}: {other}"),
        }
        outcomes[usize::from(last.0 == "done")] += 1;
    }
    assert!(outcomes.iter().all(|n| *n >= 3), "{outcomes:?}");
}
