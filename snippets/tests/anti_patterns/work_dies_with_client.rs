//! Wrong: work that must finish (two writes that belong together) awaited in the handler itself
//! Harm: the client leaves, the handler is dropped at its next `.await`: the first write is done and the second never happens
//! Instead: streams/cancel
//! Probe: cannot see: within the service

use std::sync::{Arc, Mutex};

use axum::{Router, routing::get};
use snippets::streams::cancel::finish;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::{RawClient, Server, within};

/// Two writes with a pause between them that the test ends.
#[derive(Clone, Default)]
struct Store {
    written: Arc<Mutex<Vec<&'static str>>>,
    first_done: Arc<Notify>,
    go_on: Arc<Notify>,
    second_done: Arc<Notify>,
}

impl Store {
    async fn transfer(self, _dropped: tokio_util::sync::DropGuard) {
        self.written.lock().unwrap().push("taken from A");
        self.first_done.notify_one();
        self.go_on.notified().await;
        self.written.lock().unwrap().push("given to B");
        self.second_done.notify_one();
    }
}

/// Starts the request, and leaves when the first write is done.
async fn leave_in_between(app: Router, store: &Store) {
    let server = Server::start(app).await;
    let client = RawClient::get(server.addr, "/", &[]).await;
    within("the first write", store.first_done.notified()).await;
    drop(client);
}

#[tokio::test]
async fn the_second_write_never_happens() {
    let (store, dropped) = (Store::default(), CancellationToken::new());
    let (held, token) = (store.clone(), dropped.clone());
    let app = Router::new().route(
        "/",
        get(async move || held.transfer(token.drop_guard()).await),
    );
    let server = Server::start(app).await;
    let client = RawClient::get(server.addr, "/", &[]).await;
    within("the first write", store.first_done.notified()).await;
    drop(client);
    within("the handler to be dropped", dropped.cancelled()).await;
    store.go_on.notify_one();
    assert_eq!(*store.written.lock().unwrap(), ["taken from A"]);
}

#[tokio::test]
async fn in_a_task_of_its_own_it_does() {
    let (store, tracker) = (Store::default(), TaskTracker::new());
    let (held, tasks) = (store.clone(), tracker.clone());
    let handler_gone = CancellationToken::new();
    let token = handler_gone.clone();
    let app = Router::new().route(
        "/",
        get(async move || {
            let _handler = token.drop_guard();
            finish(&tasks, held.transfer(CancellationToken::new().drop_guard()))
                .await
                .is_ok()
                .to_string()
        }),
    );
    leave_in_between(app, &store).await;
    within("the handler to be dropped", handler_gone.cancelled()).await;
    store.go_on.notify_one();
    within("the second write", store.second_done.notified()).await;
    assert_eq!(
        *store.written.lock().unwrap(),
        ["taken from A", "given to B"]
    );
}
