//! `serve`: the book, its live examples and the store, on one port.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, Redirect, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::services::{ServeDir, ServeFile};

use crate::book::{self, Book};
use crate::live;
use crate::live::connection::{Closable, Connection};
use crate::package;
use crate::store::Store;

/// The version of the store's client that the tests run.
pub const SKILLSTORE: &str = "0.1.13";

/// How long open responses may take to end after a signal. Streams end at once; this is for a peer
/// that has stopped reading.
pub const DRAIN: Duration = Duration::from_millis(1200);

/// What `serve` was asked to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// The pack's folder.
    pub root: PathBuf,
    /// Address to listen on.
    pub host: IpAddr,
    /// Port; 0 takes a free one.
    pub port: u16,
    /// Whether to open a browser.
    pub open: bool,
    /// The store's signing key; created if absent.
    pub store_key: Option<String>,
}

/// Serves until `stop` resolves, then ends every stream in band.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<()> {
    let started = Instant::now();
    let addr = SocketAddr::new(options.host, options.port);
    // Before the book is built: a port in use is known at once.
    let listener = TcpListener::bind(addr).await.map_err(|error| {
        let (port, next) = (options.port, options.port.wrapping_add(1).max(1024));
        match error.kind() {
            ErrorKind::AddrInUse => {
                anyhow!("port {port} is in use: choose another, such as --port {next}")
            }
            ErrorKind::PermissionDenied => {
                anyhow!("port {port} is not allowed: choose another, such as --port {next}")
            }
            _ => anyhow!("{addr} cannot be listened on ({error}): choose an address of this machine with --host"),
        }
    })?;
    let addr = listener.local_addr()?;
    if !options.host.is_loopback() {
        eprintln!(
            "warning: --host {} lets other machines reach this program; it has no authentication or TLS and is meant for your own machine only",
            options.host
        );
    }

    say("Building the book …");
    let folder = tempfile::Builder::new()
        .prefix("streaming-api-patterns-book-")
        .tempdir()
        .context("no folder for the built book")?;
    let (root, out) = (options.root.clone(), folder.path().to_owned());
    let mut stop = std::pin::pin!(stop);
    let book = tokio::select! {
        built = tokio::task::spawn_blocking(move || book::build(&root, &out)) => built??,
        () = &mut stop => return Ok(()),
    };

    let key = options.store_key.unwrap_or_else(crate::random_id);
    let (store, slug) = match package::build(&options.root, |_| {}) {
        Ok(package) => (Store::new(&package, &key)?, Some(package.manifest.slug)),
        Err(error) => {
            // The book is worth reading anyway.
            let reason = crate::one_line(&error);
            eprintln!("warning: the store is closed: {reason}");
            (Store::closed(reason), None)
        }
    };

    let shutdown = CancellationToken::new();
    let app = app(&options.root, folder.path(), &book, store, shutdown.clone());
    say(&greeting(
        &book,
        addr,
        slug.as_deref(),
        &key,
        started.elapsed(),
    ));
    if options.open {
        let url = url(addr);
        if let Err(error) = open::that_detached(&url) {
            eprintln!("warning: no browser could be opened ({error}): open {url} yourself");
        }
    }

    until(listener, app, shutdown, stop).await
}

/// Serves `app` until `stop` resolves. Then `shutdown` is cancelled, which ends every stream in
/// band, and connections that have not ended after [`DRAIN`] are dropped.
pub async fn until(
    listener: TcpListener,
    app: Router,
    shutdown: CancellationToken,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let service = app.into_make_service_with_connect_info::<Connection>();
    let listener = Closable::new(listener);
    let open = listener.open();
    let asked = shutdown.clone().cancelled_owned();
    let mut server = tokio::spawn(
        axum::serve(listener, service)
            .with_graceful_shutdown(asked)
            .into_future(),
    );
    tokio::select! {
        () = stop => {}
        ended = &mut server => return Ok(ended??),
    }
    shutdown.cancel();
    let drained = async {
        let _ = (&mut server).await;
        open.close();
        open.wait().await;
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        let left = open.len();
        eprintln!("warning: dropped what had not ended after {DRAIN:?} ({left} connections)");
        server.abort();
    }
    Ok(())
}

/// Everything that is served. `book_folder` holds the built book.
pub fn app(
    root: &Path,
    book_folder: &Path,
    book: &Book,
    store: Store,
    shutdown: CancellationToken,
) -> Router {
    let modules = ServeDir::new(root.join("book/live")).append_index_html_on_directories(false);
    let styles = ServeFile::new(root.join("book/theme/pack.css"));
    let not_found = ServeFile::new(book_folder.join("404.html"));
    let pages = ServeDir::new(book_folder).not_found_service(not_found);
    let index = Html(live_page(book));
    // What `/live` does not route falls through to the book, which has files of that folder too.
    Router::new()
        .route("/live/", get(async || index))
        .route_service("/live/pack.css", styles)
        .nest_service("/live-js", modules)
        .nest("/api", store.router())
        .fallback_service(pages)
        .layer(from_fn(fresh))
        .nest("/live", live::router(shutdown.clone()))
        .route("/probe/", get(async || Redirect::permanent("/probe")))
        .nest("/probe", live::probe::router(shutdown))
        .layer(from_fn(live::connection::socket_addr))
}

/// Headers of everything but the live examples, which show their own: a browser asks again each
/// time, so that an edited book or example is never an old one.
async fn fresh(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in [
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "frame-ancestors 'self'"),
    ] {
        response
            .headers_mut()
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

fn url(addr: SocketAddr) -> String {
    let host = match addr.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    format!("http://{}", SocketAddr::new(host, addr.port()))
}

fn greeting(
    book: &Book,
    addr: SocketAddr,
    slug: Option<&str>,
    key: &str,
    took: Duration,
) -> String {
    let url = url(addr);
    let mut text = format!(
        "{}, {} chapters, ready in {:.1} s\n\n  Book           {url}/\n  Live examples  {url}/live/\n  Probe          {url}/probe\n",
        book.title,
        book.chapters,
        took.as_secs_f64()
    );
    if let Some(slug) = slug {
        let _ = writeln!(
            text,
            "  Install        SKILLSTORE_API_URL={url}/api SKILLSTORE_VERIFY_KEY={key} DO_NOT_TRACK=1 npx --yes skillstore@{SKILLSTORE} add {slug} -a claude-code,codex"
        );
    }
    if let Some(first) = book.live.first() {
        let _ = write!(
            text,
            "\nTry first: {url}/{} ({}): start the example, then cut the connection.\n",
            first.page, first.chapter
        );
    }
    text.push_str("\nCtrl-C ends it.");
    text
}

/// A line for the person at the terminal; a closed pipe is not an error.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// The page at `/live/`.
fn live_page(book: &Book) -> String {
    let mut items = String::new();
    for example in &book.live {
        let _ = writeln!(
            items,
            "<li><a href=\"/{}\">{}</a> <code>{}</code></li>",
            escape(&example.page),
            escape(&example.chapter),
            escape(&example.name)
        );
    }
    include_str!("live/index.html").replace("<!-- examples -->", &items)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
