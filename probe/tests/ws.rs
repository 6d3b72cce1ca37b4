//! Every check of `stream-probe ws`: a service that is right passes, one with a single fault fails
//! that check and no other.

use stream_probe::{Kind, Verdict};

use crate::support::ws::{Fault, Service};
use crate::support::{
    assert_compositions, assert_failed, assert_faults, assert_passed, probe, show, together,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_right_or_cannot_be_told_does_not_fail() {
    tokio::join!(
        a_right_service_passes(),
        a_public_feed_may_let_everyone_in(),
    );
}

async fn a_right_service_passes() {
    let right = [Fault::None, Fault::Http2, Fault::AcceptThenClose];
    together(right.map(|fault| async move {
        let report = Service::start(fault).await.report().await;
        assert_failed(&report, &[]);
        let unknown = [
            "ws-one-writer",
            "ws-queue-bounded",
            "ws-disconnect-noticed",
            "ws-shutdown-1001",
        ];
        assert_eq!(
            report.ids(Verdict::CouldNotTell),
            unknown,
            "{fault:?}\n{}",
            show(&report)
        );
    }))
    .await;
}

/// What was not promised is not judged; a cookie in any header is a credential.
async fn a_public_feed_may_let_everyone_in() {
    let service = Service::start(Fault::None).await;
    let mut options = service.options();
    options.subprotocols.clear();
    options.only = vec![
        "ws-subprotocol-selected".to_owned(),
        "ws-auth-required".to_owned(),
    ];
    options.cookie = None;
    options.headers = vec![("Cookie".to_owned(), crate::support::ws::COOKIE.to_owned())];
    let report = probe(Kind::Ws, &options).await;
    assert_passed(&report, "ws-auth-required");
    let open = report.ids(Verdict::CouldNotTell);
    assert_eq!(open, ["ws-subprotocol-selected"], "\n{}", show(&report));

    let service = Service::start(Fault::AnyOrigin).await;
    let mut options = service.options();
    options.only = vec!["ws-origin-checked".to_owned()];
    options.origin = None;
    options.cookie = None;
    options.headers = vec![("Cookie".to_owned(), crate::support::ws::COOKIE.to_owned())];
    let report = probe(Kind::Ws, &options).await;
    assert_eq!(
        report.verdict("ws-origin-checked"),
        Some(Verdict::CouldNotTell)
    );
}

/// Each fault, and the checks that must fail for it: no other may.
const FAULTS: &[(Fault, &[&str])] = &[
    (Fault::WrongAccept, &["ws-handshake"]),
    (Fault::AnyVersion, &["ws-version-checked"]),
    (Fault::PlainGet500, &["ws-plain-get-refused"]),
    (Fault::AnyOrigin, &["ws-origin-checked"]),
    (Fault::NoAuth, &["ws-auth-required"]),
    (Fault::NoSubprotocol, &["ws-subprotocol-selected"]),
    (Fault::EchoesSubprotocol, &["ws-subprotocol-not-echoed"]),
    // Nearly all other checks ask by Ping whether a connection lives.
    (Fault::NoPong, &["ws-ping-answered"]),
    (Fault::NoClose, &["ws-close-answered"]),
    (Fault::NoInterleaving, &["ws-fragments-accepted"]),
    (Fault::NoLimit, &["ws-oversize-refused"]),
    (Fault::OversizeDropped, &["ws-oversize-1009"]),
    (Fault::TakesBadUtf8, &["ws-invalid-utf8-refused"]),
    (Fault::BadUtf8Dropped, &["ws-invalid-utf8-1007"]),
    (Fault::TakesUnmasked, &["ws-unmasked-refused"]),
    (Fault::DiesOfViolation, &["ws-violations-survived"]),
    (Fault::BinaryDropped, &["ws-binary-handled"]),
    (Fault::MalformedClosesAll, &["ws-malformed-isolated"]),
    (Fault::NoHeartbeat, &["ws-heartbeat"]),
    (Fault::KeepsSilent, &["ws-silent-peer-dropped"]),
    (Fault::OneLock, &["ws-stalled-reader-isolated"]),
    (Fault::NoRateLimit, &["ws-flood-limited"]),
    (Fault::Leak, &["ws-errors-clean"]),
    (Fault::Http2GetOnly, &["ws-http2-connect"]),
    (Fault::DiesOfChurn, &["ws-reconnects-survived"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: run ./check"]
async fn every_fault_fails_its_check_and_no_other() {
    let report = |fault| async move { Service::start(fault).await.report().await };
    assert_faults(FAULTS, report).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute: run ./check"]
async fn no_composition_of_faults_fails_an_unrelated_check() {
    let report =
        |faults: Vec<Fault>| async move { Service::start(faults.as_slice()).await.report().await };
    assert_compositions(FAULTS, 1..17, 3, report).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ping_answered() {
    let service = Service::start(Fault::None).await;
    let mut options = service.options();
    options.only = vec!["ws-ping-answered".to_owned()];
    assert_passed(&probe(Kind::Ws, &options).await, "ws-ping-answered");
}
