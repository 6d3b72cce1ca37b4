//! A feed of events for each order: resumable, authorized, bounded, observed, and drained at a shutdown.
//!
//! `GET /orders/{order}/events` streams; `POST /orders/{order}/events` publishes; `POST /tickets` lets an `EventSource` in, which sets no
//! header. The contract (names, ids, where a newcomer starts, limits) is [`Settings`]; who may do what is [`Access`]. Events
//! are in memory: if a restart must not reset clients, fill the logs from a broker (`production/topics`).

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::JsonRejection},
    http::{HeaderMap, Method, StatusCode, Uri, header::AUTHORIZATION},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use snippets::connections::crowd::Recheck;
use snippets::connections::per_user::PerUser;
pub use snippets::connections::refusal::Refusal;
use snippets::connections::tickets::{TicketError, Tickets};
use snippets::production::drain::Plan;
use snippets::production::observe::Observer;
use snippets::sse::event::{Event, LastEventId};
use snippets::sse::fanout::feed;
use snippets::sse::log::{Config as LogConfig, PublishError};
use snippets::sse::streams::{self, Config as StreamsConfig, Holding, Streams};
use snippets::sse::topics::{Bounds, Topics};
use snippets::sse::until::Until;
use tokio_util::sync::CancellationToken;

const INTERNAL: Refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal");
/// With a credential that does not permit it.
pub const FORBIDDEN: Refusal = Refusal::new(StatusCode::FORBIDDEN, "forbidden");
/// Without a credential, or with a wrong one.
pub const UNAUTHORIZED: Refusal = Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized");

/// The contract and the bounds, in one place.
#[derive(Debug, Clone)]
pub struct Settings {
    /// One log per order: its bounds, its ids, its slow clients, and where a newcomer starts.
    pub log: LogConfig,
    /// Most orders at once. All logs together hold at most `max_topics` times `log.bytes`.
    pub topics: Bounds,
    /// Streams at once, heartbeat, maximum age, reconnection time, drain, and the stream's own events.
    pub streams: StreamsConfig,
    /// Streams of one user at once; one more gets 429.
    pub max_per_user: usize,
    /// How often an open stream asks whether its user may still read.
    pub recheck: Duration,
    /// Bytes of a published event. More gets 413.
    pub max_event: usize,
    /// The query parameter with the cursor of a client that cannot send `Last-Event-ID`.
    pub cursor_parameter: &'static str,
    /// Whether `POST /tickets` and `?ticket=` exist: for an `EventSource`, which sends no header.
    pub tickets: bool,
    /// Reads the body of a `POST`; `None` gets 422.
    pub message: fn(Value) -> Option<Message>,
    /// The body of the 202, with the id of the event.
    pub published: fn(&str) -> Value,
    /// The response for a refusal: its status, its headers and its body. [`Refusal::with`] has another body. The codes are `unauthorized`,
    /// `forbidden`, `not_found`, `too_many_streams`, `full`, `finished`, `too_large`, `invalid` and `internal`.
    pub refuse: fn(Refusal) -> Response,
    /// The times of a shutdown. Their sum is below the time after which the process is killed (Kubernetes: 30 s by default).
    pub shutdown: Plan,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            log: LogConfig {
                bytes: 64 * 1024,
                ..feed()
            },
            topics: Bounds {
                max_topics: 10_000,
                ..Bounds::default()
            },
            streams: StreamsConfig::default(),
            max_per_user: 20,
            recheck: Duration::from_secs(30),
            max_event: 16 * 1024,
            cursor_parameter: "lastEventId",
            tickets: true,
            message: |body| serde_json::from_value(body).ok(),
            published: |id| json!({ "id": id }),
            refuse: Refusal::into_response,
            shutdown: Plan {
                notice: Duration::from_secs(5),
                deadline: Duration::from_secs(20),
            },
        }
    }
}

/// Who may do what: replace [`Demo`] with your sessions and your table of rights.
pub trait Access: Send + Sync + 'static {
    /// The user whose credential is in these headers. `None` without one, or with a wrong one.
    fn user(&self, headers: &HeaderMap) -> Option<String>;
    /// Whether `user` may read `order`: checked on each connect, since a cursor comes from the client, and again while the stream is open.
    fn may_read(&self, user: &str, order: &str) -> bool;
    /// Whether the sender of these headers, a user or a service of yours, may publish to `order`.
    ///
    /// # Errors
    /// The refusal: [`UNAUTHORIZED`], or a 403 such as [`FORBIDDEN`].
    fn may_publish(&self, headers: &HeaderMap, order: &str) -> Result<(), Refusal>;
}

/// One user, whose bearer token is `demo`, and who may do everything.
#[derive(Debug)]
pub struct Demo;

impl Access for Demo {
    fn user(&self, headers: &HeaderMap) -> Option<String> {
        let sent = headers.get(AUTHORIZATION)?.to_str().ok()?;
        (sent == "Bearer demo").then(|| "demo".to_owned())
    }

    fn may_read(&self, _user: &str, _order: &str) -> bool {
        true
    }

    fn may_publish(&self, headers: &HeaderMap, _order: &str) -> Result<(), Refusal> {
        self.user(headers).map(drop).ok_or(UNAUTHORIZED)
    }
}

/// The service. Cloning is cheap.
#[derive(Clone)]
pub struct Service(Arc<Shared>);

struct Shared {
    access: Arc<dyn Access>,
    settings: Settings,
    topics: Topics,
    streams: Streams,
    users: PerUser,
    tickets: Tickets,
    observer: Observer,
}

impl Service {
    /// Cancel `stopping` to end every stream in band. Install the metrics recorder before.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(settings: Settings, access: Arc<dyn Access>, stopping: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            access,
            topics: Topics::start(settings.log.clone(), settings.topics),
            streams: Streams::start(settings.streams.clone(), stopping.clone()),
            users: PerUser::new(settings.max_per_user),
            // For one instance. Several share a key and a store of used tickets: `Tickets::new`.
            tickets: Tickets::default(),
            observer: Observer::new("orders", stopping).failing_with(settings.streams.names.failed),
            settings,
        }))
    }

    /// The public routes. Liveness depends on nothing else: a check of a broker would restart every instance at once.
    pub fn app(&self) -> Router {
        let limit = DefaultBodyLimit::max(self.0.settings.max_event);
        let tickets = match self.0.settings.tickets {
            true => Router::new().route("/tickets", post(ticket)),
            false => Router::new(),
        };
        Router::new()
            .route(
                "/orders/{order}/events",
                get(events).post(publish).layer(limit),
            )
            .merge(tickets)
            .route("/health", get(async || "ok"))
            .with_state(self.clone())
    }

    /// Publishes `event` to the readers of `order`, and keeps it for those that reconnect.
    ///
    /// # Errors
    /// If the event is too large, or if there is no room for another order.
    pub fn publish(&self, order: &str, event: &Event) -> Result<String, NotPublished> {
        let log = self
            .0
            .topics
            .log(order)
            .map_err(|_| NotPublished::TooManyOrders)?;
        let cursor = log.publish(event)?;
        Ok(self.0.settings.log.ids.id(cursor).to_string())
    }

    /// The user of a request: of its headers, or of the ticket in its query.
    async fn user(&self, headers: &HeaderMap, ticket: Option<&str>) -> Result<String, Refusal> {
        let Some(ticket) = ticket.filter(|_| self.0.settings.tickets) else {
            return self.0.access.user(headers).ok_or(UNAUTHORIZED);
        };
        match self.0.tickets.redeem::<()>(ticket).await {
            Ok((user, ())) => Ok(user),
            Err(TicketError::TooMany) => Err(self.too_many()),
            Err(TicketError::Unavailable) => Err(self.full()),
            Err(_) => Err(UNAUTHORIZED),
        }
    }

    fn too_many(&self) -> Refusal {
        let retry = self.0.streams.refusal().retry;
        Refusal::later(StatusCode::TOO_MANY_REQUESTS, "too_many_streams", retry)
    }

    fn full(&self) -> Refusal {
        let retry = self.0.streams.refusal().retry;
        Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "full", retry)
    }
}

/// Why an event was not published.
#[derive(Debug, thiserror::Error)]
pub enum NotPublished {
    /// See [`Settings::topics`].
    #[error("there is no room for another order")]
    TooManyOrders,
    /// The log refused it.
    #[error(transparent)]
    Log(#[from] PublishError),
}

#[derive(Deserialize)]
struct Ticket {
    ticket: Option<String>,
}

async fn events(
    State(service): State<Service>,
    Path(order): Path<String>,
    Query(Ticket { ticket }): Query<Ticket>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Shared {
        access,
        settings,
        topics,
        streams,
        users,
        observer,
        ..
    } = &*service.0;
    let user = match service.user(&headers, ticket.as_deref()).await {
        Ok(user) => user,
        Err(refusal) => return (settings.refuse)(refusal),
    };
    // The same answer, whether the order does not exist or is another user's.
    if !access.may_read(&user, &order) {
        return (settings.refuse)(Refusal::new(StatusCode::NOT_FOUND, "not_found"));
    }
    if method == Method::HEAD {
        return streams::head().await; // the head of a stream, and none of it
    }
    let Some(place) = users.enter(&user) else {
        observer.refused();
        return (settings.refuse)(service.too_many());
    };
    let slot = match streams.admit() {
        Ok(slot) => slot,
        Err(_) => {
            observer.refused();
            return (settings.refuse)(service.full());
        }
    };
    let cursor = LastEventId::read(&headers, &uri, settings.cursor_parameter);
    let reader = match topics.read(&order, &cursor) {
        Ok(Some(reader)) => reader,
        // The client has the terminal event: after a 204, an EventSource does not reconnect.
        Ok(None) => return StatusCode::NO_CONTENT.into_response(),
        Err(_) => return (settings.refuse)(service.full()),
    };
    let Ok(unauthorized) = Event::unreserved(settings.streams.names.unauthorized, &json!({}))
    else {
        return (settings.refuse)(INTERNAL);
    };
    let access = access.clone();
    let recheck = Recheck {
        every: settings.recheck,
        ..Recheck::default()
    };
    let over = async move {
        let may = || std::future::ready(Ok::<_, Infallible>(access.may_read(&user, &order)));
        recheck.over(may).await;
        unauthorized
    };
    let watched = observer.watch(reader, cursor != LastEventId::None);
    slot.respond(Holding(Until::new(watched, over), place))
}

/// What is published.
#[derive(Debug, Deserialize)]
pub struct Message {
    /// The name of the event.
    pub event: String,
    /// Its data.
    pub data: Value,
    /// Whether it is the order's terminal event: its streams end, and its clients do not reconnect.
    #[serde(default)]
    pub last: bool,
}

async fn publish(
    State(service): State<Service>,
    Path(order): Path<String>,
    headers: HeaderMap,
    body: Result<Json<Value>, JsonRejection>,
) -> Response {
    let settings = &service.0.settings;
    let refuse = settings.refuse;
    if let Err(refusal) = service.0.access.may_publish(&headers, &order) {
        return refuse(refusal);
    }
    let invalid = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid");
    let message = match body {
        Ok(Json(body)) => match (settings.message)(body) {
            Some(message) => message,
            None => return refuse(invalid),
        },
        Err(unreadable) => return refuse(unreadable.into()),
    };
    let names = settings.streams.names;
    let event = match names.event(&message.event, &message.data) {
        Ok(event) if message.last => event.last(),
        Ok(event) => event,
        Err(_) => return refuse(invalid),
    };
    match service.publish(&order, &event) {
        Ok(id) => (StatusCode::ACCEPTED, Json((settings.published)(&id))).into_response(),
        Err(NotPublished::TooManyOrders) => refuse(service.full()),
        Err(NotPublished::Log(PublishError::Finished)) => {
            refuse(Refusal::new(StatusCode::CONFLICT, "finished"))
        }
        Err(NotPublished::Log(PublishError::Invalid(_))) => refuse(invalid),
        Err(NotPublished::Log(PublishError::TooLarge { .. })) => {
            refuse(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large"))
        }
    }
}

/// A ticket for `?ticket=`: valid once, for 30 s. A page fetches one for each attempt to connect.
async fn ticket(State(service): State<Service>, headers: HeaderMap) -> Response {
    let user = match service.user(&headers, None).await {
        Ok(user) => user,
        Err(refusal) => return (service.0.settings.refuse)(refusal),
    };
    match service.0.tickets.issue(&user, &()) {
        Ok(ticket) => (
            [("cache-control", "no-store")],
            Json(json!({ "ticket": ticket })),
        )
            .into_response(),
        Err(error) => {
            tracing::error!(%error, "a ticket cannot be issued");
            (service.0.settings.refuse)(INTERNAL)
        }
    }
}
