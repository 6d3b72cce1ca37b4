//! Wrong: sending the POST of a generation again when its response was lost, without a key that identifies the question
//! Harm: each retry begins another generation: two answers, both paid for, and the user sees the second overwrite the first
//! Instead: llm/resume
//! Probe: cannot see: whether two answers were paid for, the provider knows

use axum::middleware;
use snippets::llm::resume::{Generations, Limits, app};
use snippets::llm::scripted_model::{Fault, Reply, Script};

use crate::support::chat::{Chat, as_user, patient, post, question};
use crate::support::{Server, within};

fn stalls() -> Script {
    Script::reply(Reply::text("one two three")).with_fault(Fault::Stall { after: 1 })
}

#[tokio::test]
async fn the_question_is_asked_twice() {
    let chat = Chat::start(stalls(), patient()).await;
    for _ in 0..2 {
        let mut client = chat.ask().await;
        client.read_until("one").await; // and then the network is lost
    }
    assert_eq!(chat.model.exchanges().len(), 2);
}

#[tokio::test]
async fn with_a_key_the_second_joins_the_first() {
    let chat = Chat::start(stalls(), patient()).await;
    let relay = chat.relay.clone();
    let (streams, places) = (relay.streams.clone(), relay.places.clone());
    let limits = Limits::default();
    let all = Generations::new(streams, places, limits, relay.shutdown.clone());
    let app = app(all, move |user, question| relay.events(user, question));
    let server = Server::start(app.layer(middleware::from_fn(as_user))).await;
    for _ in 0..2 {
        let mut client = post(
            server.addr,
            "/generations",
            &question(),
            &["idempotency-key: q-1"],
        )
        .await;
        client.read_until("one").await;
    }
    within("the model to be asked", chat.model.wait_for(|_| true)).await;
    assert_eq!(chat.model.exchanges().len(), 1);
}
