//! Every check of `stream-probe llm`: a relay that is right passes, one with a single fault fails that
//! check and no other.

use stream_probe::{Kind, Verdict};

use crate::support::relay::{Fault, Relay};
use crate::support::{assert_failed, assert_faults, assert_passed, probe, show, together};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn right_relays_pass() {
    tokio::join!(
        a_right_relay_passes(),
        a_pass_through_is_judged_by_what_it_passes(),
    );
}

async fn a_right_relay_passes() {
    together(
        [Fault::None, Fault::Ndjson, Fault::Responses].map(|fault| async move {
            let report = Relay::start(fault).await.report().await;
            assert_failed(&report, &[]);
            assert_eq!(
                report.ids(Verdict::CouldNotTell),
                Vec::<&str>::new(),
                "{fault:?}\n{}",
                show(&report)
            );
        }),
    )
    .await;
}

/// What the provider sends is passed on as it is: that leaks its error text, and has no heartbeat,
/// but everything else holds.
async fn a_pass_through_is_judged_by_what_it_passes() {
    let relay = Relay::start(Fault::PassThrough).await;
    let mut options = relay.options();
    options.heartbeat = Some(std::time::Duration::from_secs(1));
    let report = probe(Kind::Llm, &options).await;
    assert_failed(
        &report,
        &["llm-heartbeat-before-token", "llm-error-text-clean"],
    );
}

/// Each fault, and the checks that must fail for it: no other may.
const FAULTS: &[(Fault, &[&str])] = &[
    (Fault::Status500, &["llm-status-200"]),
    (Fault::WrongType, &["llm-content-type"]),
    (Fault::NoHeaders, &["llm-no-buffering-headers"]),
    (
        Fault::HeadHeld,
        &["llm-headers-before-token", "llm-heartbeat-before-token"],
    ),
    (
        Fault::Collects,
        &[
            "llm-incremental",
            "llm-heartbeat-before-token",
            "llm-slow-reader-bounded",
        ],
    ),
    (Fault::NoHeartbeat, &["llm-heartbeat-before-token"]),
    (Fault::NoTerminal, &["llm-one-terminal"]),
    (Fault::TwoTerminals, &["llm-one-terminal"]),
    (Fault::TruncationIsDone, &["llm-truncation-visible"]),
    (Fault::ErrorIsDone, &["llm-provider-error-visible"]),
    (Fault::Detached, &["llm-abort-stops-work"]),
    (Fault::Unbounded, &["llm-slow-reader-bounded"]),
    (Fault::LeaksProvider, &["llm-error-text-clean"]),
    (Fault::LeaksTrace, &["llm-error-text-clean"]),
    (Fault::SplitsUtf8, &["llm-split-utf8"]),
    (Fault::RawData, &["llm-unsafe-characters"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: run ./check"]
async fn every_fault_fails_its_check_and_no_other() {
    let report = |fault| async move { Relay::start(fault).await.report().await };
    assert_faults(FAULTS, report).await;
}

/// Without the provider's side little can be told, and nothing is called wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_provider_nothing_is_wrong() {
    let relay = Relay::start(Fault::None).await;
    let upstream = relay.options().upstream.unwrap();
    // A model of its own: two tokens and an end.
    let model = tokio::net::TcpListener::bind(upstream).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = model.accept().await {
            drop(crate::support::Request::read(&mut socket).await);
            let delta = |text: &str| {
                format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
            };
            let body = format!("{}{}data: [DONE]\n\n", delta("one"), delta("two"));
            let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            answer.extend(crate::support::chunk(body.as_bytes()));
            answer.extend_from_slice(b"0\r\n\r\n");
            drop(tokio::io::AsyncWriteExt::write_all(&mut socket, &answer).await);
        }
    });
    let mut options = relay.options();
    options.upstream = None;
    let report = probe(Kind::Llm, &options).await;
    assert_failed(&report, &[]);
    assert_passed(&report, "llm-one-terminal");
}
