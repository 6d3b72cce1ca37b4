//! The program as its user meets it: what it serves, how it fails, how it ends.

use std::time::{Duration, Instant};

use crate::fixture::{Pack, Program, Server, program, within};
use axum::Router;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::routing::any;
use futures::{SinkExt, StreamExt};
use reqwest::header::{CACHE_CONTROL, CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use streaming_api_patterns::live::cut::cuttable;
use streaming_api_patterns::live::frame;
use streaming_api_patterns::live::probe::is_loopback;
use streaming_api_patterns::serve;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

fn pack() -> Pack {
    Pack::new("demo-pack", "0.1.0")
}

// --- What it serves ---

#[tokio::test]
async fn it_prints_the_three_addresses_and_serves_them() {
    let pack = pack();
    let program = Program::serve(pack.path(), &["--store-key", "k-1"]).await;
    let url = &program.url;
    assert!(
        program
            .greeting
            .contains(&format!("Book           {url}/\n"))
    );
    assert!(program.greeting.contains(&format!(
        "Live examples  {url}/live/\n  Probe          {url}/probe\n"
    )));
    assert!(
        program
            .greeting
            .contains(&format!("Try first: {url}/one.html"))
    );
    assert_eq!(
        program.install,
        format!(
            "SKILLSTORE_API_URL={url}/api SKILLSTORE_VERIFY_KEY=k-1 DO_NOT_TRACK=1 npx --yes skillstore@{} add demo-pack -a claude-code,codex",
            serve::SKILLSTORE
        )
    );

    let client = Client::new();
    let get = async |path: &str| client.get(format!("{url}{path}")).send().await.unwrap();
    for (path, content) in [
        ("/", "text/html"),
        ("/deep/two.html", "text/html"),
        ("/live/", "text/html"),
        ("/live-js/frame-check.js", "text/javascript"),
        ("/api/skills/demo-pack/manifest", "application/json"),
        ("/api/skills/demo-pack/download", "application/zip"),
    ] {
        let response = get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        let found = response.headers()[CONTENT_TYPE].to_str().unwrap();
        assert!(found.starts_with(content), "{path}: {found}");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-cache", "{path}");
        assert_eq!(
            response.headers()["x-content-type-options"],
            "nosniff",
            "{path}"
        );
    }
    let page = get("/live/").await.text().await.unwrap();
    assert!(
        page.contains("<a href=\"/one.html\">One</a> <code>frame-check</code>"),
        "{page}"
    );

    for path in [
        "/nothing",
        "/live/nothing",
        "/live-js/nothing.js",
        "/live/frame/nothing",
    ] {
        assert_eq!(get(path).await.status(), 404, "{path}");
    }
    let page = get("/nothing").await.text().await.unwrap();
    assert!(page.contains("Document not found"), "{page}");
    let posted = client.post(format!("{url}/")).send().await.unwrap();
    assert_eq!(posted.status(), 405);
}

#[tokio::test]
async fn no_path_leads_out_of_the_served_folders() {
    let pack = pack();
    pack.write("secret-of-the-pack.txt", "never served");
    let program = Program::serve(pack.path(), &[]).await;
    for path in [
        "/../secret-of-the-pack.txt",
        "/live-js/../../secret-of-the-pack.txt",
        "/live-js/%2e%2e/%2e%2e/secret-of-the-pack.txt",
        "/live-js/..%2f..%2fsecret-of-the-pack.txt",
        "/live-js/..%5c..%5csecret-of-the-pack.txt",
        "/live-js//secret-of-the-pack.txt",
        "/%2fetc%2fpasswd",
        "//etc/passwd",
    ] {
        // By hand: a client library would resolve the dots before it sends.
        let mut socket = TcpStream::connect(program.addr()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(path, socket.read_to_string(&mut answer))
            .await
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
        assert!(
            !answer.contains("never served") && !answer.contains("root:"),
            "{path}"
        );
    }
}

// --- How it ends ---

#[tokio::test]
async fn ctrl_c_and_sigterm_end_every_stream_in_band() {
    let pack = pack();
    for signal in ["INT", "TERM"] {
        let mut program = Program::serve(pack.path(), &[]).await;
        let url = format!("{}/live/frame/ticks?of=2000", program.url);
        let mut streams = Vec::new();
        for _ in 0..3 {
            let mut response = reqwest::get(&url).await.unwrap();
            let first = within("a tick", response.chunk()).await.unwrap().unwrap();
            assert!(first.starts_with(b"event: tick"));
            streams.push(response);
        }
        // A connection that is kept alive without a request must not hold the program.
        let idle = TcpStream::connect(program.addr()).await.unwrap();

        let asked = Instant::now();
        program.signal(signal).await;
        for stream in streams {
            // `text` fails when the body ends without its last chunk.
            let rest = within("the end of the stream", stream.text())
                .await
                .unwrap();
            assert!(rest.ends_with("event: bye\ndata: {}\n\n"), "{rest}");
        }
        let status = within("the end of the program", program.child.wait())
            .await
            .unwrap();
        let took = asked.elapsed();
        assert_eq!(status.code(), Some(0), "{signal}");
        drop(idle);
        // The promise is 2 seconds; `stubborn_streams_are_dropped_at_the_deadline` shows the bound
        // without a clock of the real world, this one only that no step waits for a person.
        assert!(took < Duration::from_secs(10), "{signal}: {took:?}");
        println!("SIG{signal}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn stubborn_streams_are_dropped_at_the_deadline() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    // A stream that ignores the shutdown.
    let app = Router::new().route(
        "/",
        any(async || {
            let first = futures::stream::iter([Ok::<_, std::io::Error>("hello")]);
            axum::body::Body::from_stream(first.chain(futures::stream::pending()))
        }),
    );
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stop_asked = async move {
        let _ = stopped.await;
    };
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve::until(listener, app, shutdown.clone(), stop_asked));
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut received = Vec::new();
    while !received.ends_with(b"hello\r\n") {
        assert_ne!(socket.read_buf(&mut received).await.unwrap(), 0);
    }

    let asked = tokio::time::Instant::now();
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    assert!(shutdown.is_cancelled());
    assert_eq!(
        asked.elapsed().as_millis() / 100,
        serve::DRAIN.as_millis() / 100
    );
    assert!(serve::DRAIN < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn websockets_have_the_same_time_to_say_goodbye() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let asked = shutdown.clone();
    let goodbye = async move |upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(async move |mut socket| {
            asked.cancelled().await;
            // What a service still has to write before it can let go.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let code = axum::extract::ws::close_code::AWAY;
            let reason = "restart".into();
            let close = axum::extract::ws::CloseFrame { code, reason };
            let _ = socket.send(Message::Close(Some(close))).await;
        })
    };
    let app = Router::new().route("/", any(goodbye));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stop_asked = async move {
        let _ = stopped.await;
    };
    let server = tokio::spawn(serve::until(listener, app, shutdown, stop_asked));
    let url = format!("ws://{addr}/");
    let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    let asked = tokio::time::Instant::now();
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    assert!(
        asked.elapsed() >= Duration::from_millis(500),
        "it did not wait"
    );
    assert!(asked.elapsed() < serve::DRAIN);
    let end = socket.next().await.unwrap().unwrap();
    assert!(
        matches!(&end, tokio_tungstenite::tungstenite::Message::Close(Some(frame)) if u16::from(frame.code) == 1001),
        "{end:?}"
    );
}

// --- How it fails ---

/// Runs the program and returns its exit code and its standard error.
async fn fails(arguments: &[&str]) -> (Option<i32>, String) {
    let output = within("the program to fail", program(arguments).output())
        .await
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), errors)
}

/// Runs `serve` on `pack`; it must fail with one line that contains `words`.
async fn fails_to_serve(pack: &Pack, words: &[&str]) {
    let root = pack.path().to_str().unwrap();
    let (code, errors) = fails(&["--port", "0", "--root", root]).await;
    assert_eq!(code, Some(1), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    for word in words {
        assert!(
            errors.starts_with("error: ") && errors.contains(word),
            "{word}: {errors}"
        );
    }
}

#[tokio::test]
async fn a_port_in_use_is_one_line_and_exit_code_1() {
    let pack = pack();
    let taken = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let root = pack.path().to_str().unwrap();
    let (code, errors) = fails(&["--port", &port, "--root", root]).await;
    assert_eq!(code, Some(1));
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.starts_with(&format!(
        "error: port {port} is in use: choose another, such as --port"
    )));
}

#[tokio::test]
async fn an_address_of_another_machine_is_one_line_and_exit_code_1() {
    let pack = pack();
    let root = pack.path().to_str().unwrap();
    // Reserved for documentation (RFC 5737): no machine has it.
    let (code, errors) = fails(&["--host", "192.0.2.1", "--port", "0", "--root", root]).await;
    assert_eq!(code, Some(1));
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("with --host"), "{errors}");
}

#[tokio::test]
async fn a_folder_that_is_no_pack_is_named() {
    let empty = tempfile::tempdir().unwrap();
    let root = empty.path().to_str().unwrap();
    for command in ["serve", "package"] {
        let (code, errors) = fails(&[command, "--root", root]).await;
        assert_eq!(code, Some(1));
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(
            errors.contains("there is no SKILL.md in") && errors.contains("--root"),
            "{errors}"
        );
    }
}

#[tokio::test]
async fn the_folder_is_found_at_run_time() {
    let pack = pack();
    let package = async |variable: Option<&std::path::Path>, current: &std::path::Path| {
        let mut command = program(&["package"]);
        command
            .env_remove("CARGO_MANIFEST_DIR")
            .current_dir(current);
        if let Some(path) = variable {
            command.env("CARGO_MANIFEST_DIR", path);
        }
        within("package", command.output())
            .await
            .unwrap()
            .status
            .success()
    };
    let elsewhere = tempfile::tempdir().unwrap();
    assert!(package(Some(pack.path()), elsewhere.path()).await);
    assert!(package(None, pack.path()).await);
    assert!(!package(None, elsewhere.path()).await);
    assert!(
        pack.path()
            .join("target/package/demo-pack-0.1.0.zip")
            .is_file()
    );
}

#[tokio::test]
async fn a_book_that_is_not_whole_is_one_line_and_exit_code_1() {
    let broken = pack();
    broken.remove("book/src/deep/two.md");
    fails_to_serve(&broken, &["the book does not build", "deep/two.md"]).await;
    assert!(
        !broken.path().join("book/src/deep/two.md").exists(),
        "it must not be made"
    );

    let broken = pack();
    broken.remove("book/book.toml");
    fails_to_serve(&broken, &["book.toml is missing"]).await;

    let broken = pack();
    broken.write("book/src/one.md", "# One\n\n[gone](gone.md)\n");
    fails_to_serve(&broken, &["broken links", "one.html: gone.html"]).await;

    let broken = pack();
    broken.write("book/src/one.md", "# One\n\n[gone](deep/two.md#gone)\n");
    fails_to_serve(&broken, &["broken links", "deep/two.html#gone"]).await;

    let broken = pack();
    broken.write("book/src/one.md", "# One\n\n![gone](gone.png)\n");
    fails_to_serve(&broken, &["broken links", "gone.png"]).await;

    // mdBook logs these two and exits 0.
    let broken = pack();
    broken.write("book/src/one.md", "# One\n\n{{#include gone.rs}}\n");
    fails_to_serve(&broken, &["the book does not build cleanly", "gone.rs"]).await;

    let broken = pack();
    broken.write("book/src/one.md", "# One\n\n<div><span></div>\n");
    fails_to_serve(&broken, &["the book does not build cleanly", "span"]).await;

    let broken = pack();
    broken.write(
        "book/src/one.md",
        "# One\n\n<div data-live=\"sse-gone\"></div>\n",
    );
    fails_to_serve(&broken, &["one.html", "sse-gone", "is missing"]).await;
}

#[tokio::test]
async fn a_wrong_flag_is_exit_code_2() {
    for arguments in [
        &["--port", "many"][..],
        &["--host", "somewhere"],
        &["--store-key", "$(reboot)"],
        &["--nope"],
        &["publish"],
    ] {
        let (code, errors) = fails(arguments).await;
        assert_eq!(code, Some(2), "{arguments:?}: {errors}");
        assert!(errors.starts_with("error: "), "{errors}");
    }
}

#[tokio::test]
async fn listening_beyond_loopback_is_warned_about() {
    let pack = pack();
    let mut program = Program::serve(pack.path(), &["--host", "0.0.0.0"]).await;
    assert!(
        program.url.starts_with("http://127.0.0.1:"),
        "{}",
        program.url
    );
    program.signal("TERM").await;
    let mut errors = String::new();
    let mut stderr = program.child.stderr.take().unwrap();
    within("standard error", stderr.read_to_string(&mut errors))
        .await
        .unwrap();
    assert!(
        errors.starts_with("warning: --host 0.0.0.0 lets other machines reach this program"),
        "{errors}"
    );
}

#[tokio::test]
async fn a_pack_that_cannot_be_packed_closes_the_store_but_not_the_book() {
    let pack = pack();
    pack.write("notes/SKILL.md", "a second one");
    let program = Program::serve(pack.path(), &[]).await;
    assert!(program.install.is_empty());
    assert_eq!(
        reqwest::get(format!("{}/", program.url))
            .await
            .unwrap()
            .status(),
        200
    );
    let url = format!("{}/api/skills/demo-pack/manifest", program.url);
    let response = reqwest::get(url).await.unwrap();
    assert_eq!(response.status(), 503);
    let answer: Value = response.json().await.unwrap();
    assert!(
        answer["error"]
            .as_str()
            .unwrap()
            .contains("second SKILL.md"),
        "{answer}"
    );
}

// --- The cut ---

/// The cookie that a visitor's first answer sets.
fn cookie(response: &Response) -> String {
    let header = response.headers()[SET_COOKIE].to_str().unwrap();
    assert!(
        header.ends_with("; Path=/live; HttpOnly; SameSite=Strict"),
        "{header}"
    );
    header.split(';').next().unwrap().to_owned()
}

async fn open(server: &Server, path: &str, cookie: Option<&str>) -> Response {
    let mut request = Client::new().get(server.url(path));
    if let Some(cookie) = cookie {
        request = request.header(COOKIE, cookie);
    }
    let mut response = request.send().await.unwrap();
    let first = within("the first event", response.chunk()).await.unwrap();
    assert!(first.unwrap().starts_with(b"event: tick\nid: 1\n"));
    response
}

/// Passes when `stream` goes on.
async fn goes_on(mut stream: Response) {
    let next = within("the next event", stream.chunk()).await.unwrap();
    assert!(next.unwrap().starts_with(b"event: tick\n"));
}

async fn cut(server: &Server, path: &str, cookie: &str) -> Value {
    let request = Client::new().post(server.url(path)).header(COOKIE, cookie);
    request.send().await.unwrap().json().await.unwrap()
}

fn frames() -> Router {
    let topic = || cuttable(frame::router(CancellationToken::new()));
    Router::new()
        .nest("/live/frame", topic())
        .nest("/live/other", topic())
}

#[tokio::test]
async fn a_cut_breaks_the_streams_of_one_visitor_and_no_other() {
    let server = Server::start(frames()).await;
    let mine = open(&server, "/live/frame/ticks?of=2000", None).await;
    let me = cookie(&mine);
    let also_mine = open(&server, "/live/frame/ticks?of=2000", Some(&me)).await;
    assert!(
        also_mine.headers().get(SET_COOKIE).is_none(),
        "a known visitor keeps the cookie"
    );
    let theirs = open(&server, "/live/frame/ticks?of=2000", None).await;
    assert_ne!(cookie(&theirs), me);
    let elsewhere = open(&server, "/live/other/ticks?of=2000", Some(&me)).await;

    assert_eq!(
        cut(&server, "/live/frame/cut", &me).await,
        json!({ "cut": 2 })
    );
    for stream in [mine, also_mine] {
        let error = within("the cut", stream.text()).await.unwrap_err();
        assert!(error.is_body() || error.is_decode(), "{error:?}");
    }
    // The streams are gone, so there is nothing left to cut.
    assert_eq!(
        cut(&server, "/live/frame/cut", &me).await,
        json!({ "cut": 0 })
    );
    for stream in [theirs, elsewhere] {
        goes_on(stream).await;
    }
}

#[tokio::test]
async fn a_cut_can_be_narrowed_to_a_path() {
    let app = Router::new()
        .nest("/one", frame::router(CancellationToken::new()))
        .nest("/two", frame::router(CancellationToken::new()));
    let server = Server::start(Router::new().nest("/live/frame", cuttable(app))).await;
    let one = open(&server, "/live/frame/one/ticks?of=2000", None).await;
    let me = cookie(&one);
    let two = open(&server, "/live/frame/two/ticks?of=2000", Some(&me)).await;
    let answer = cut(&server, "/live/frame/cut?path=/live/frame/two", &me).await;
    assert_eq!(answer, json!({ "cut": 1 }));
    within("the cut", two.text()).await.unwrap_err();
    goes_on(one).await;
}

#[tokio::test]
async fn a_cut_needs_a_cookie_of_ours_and_a_post() {
    let server = Server::start(frames()).await;
    let stream = open(&server, "/live/frame/ticks?of=2000", None).await;
    for strange in [
        "live-visitor=",
        "live-visitor=../../..",
        "other=1",
        "live-visitor=00000000000000000000000000000000",
    ] {
        assert_eq!(
            cut(&server, "/live/frame/cut", strange).await,
            json!({ "cut": 0 }),
            "{strange}"
        );
    }
    let response = Client::new()
        .get(server.url("/live/frame/cut"))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 405);
    assert!(response.headers().get(LOCATION).is_none());
    goes_on(stream).await;
}

#[tokio::test]
async fn after_a_cut_the_stream_resumes_where_it_was() {
    let server = Server::start(frames()).await;
    let client = Client::new();
    let url = server.url("/live/frame/ticks");
    let request = client.get(&url).header("last-event-id", "18");
    let rest = within("the last two", request.send()).await.unwrap();
    let rest = within("the last two", rest.text()).await.unwrap();
    assert!(rest.starts_with("event: tick\nid: 19\n"), "{rest}");
    assert_eq!(rest.matches("event: tick").count(), 2, "{rest}");
    assert!(rest.ends_with("event: done\ndata: {}\n\n"), "{rest}");
    let ended = client
        .get(&url)
        .header("last-event-id", "20")
        .send()
        .await
        .unwrap();
    assert_eq!(ended.status(), 204, "EventSource stops on 204");
}

#[tokio::test]
async fn a_cut_closes_a_websocket_without_a_close_frame() {
    let echo = async |upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(async |mut socket| {
            while let Some(Ok(message)) = socket.recv().await {
                if socket.send(message).await.is_err() {
                    break;
                }
            }
        })
    };
    let app = cuttable(Router::new().route("/echo", any(echo)));
    let server = Server::start(Router::new().nest("/live/ws", app)).await;
    let url = format!("ws://{}/live/ws/echo", server.addr);
    let (mut socket, response) = tokio_tungstenite::connect_async(&url).await.unwrap();
    let me = response.headers()["set-cookie"]
        .to_str()
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    let (mut other, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    for socket in [&mut socket, &mut other] {
        socket.send("hello".into()).await.unwrap();
        let answer = within("the echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(answer.to_text().unwrap(), "hello");
    }
    assert_eq!(cut(&server, "/live/ws/cut", me).await, json!({ "cut": 1 }));
    let end = within("the cut", socket.next()).await;
    assert!(
        matches!(end, Some(Err(_)) | None),
        "no Close frame, but {end:?}"
    );
    other.send("still here".into()).await.unwrap();
    assert!(within("the echo", other.next()).await.unwrap().is_ok());
    drop(socket);
    // The upgraded connection is gone: nothing is left to cut.
    assert_eq!(cut(&server, "/live/ws/cut", me).await, json!({ "cut": 0 }));
}

#[test]
fn the_probe_serves_only_names_of_this_machine() {
    for own in [
        "127.0.0.1:4173",
        "localhost:4173",
        "[::1]:4173",
        "127.8.0.1",
    ] {
        assert!(is_loopback(own), "{own}");
    }
    for foreign in [
        "",
        "evil.example:4173",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1:80",
    ] {
        assert!(!is_loopback(foreign), "{foreign}");
    }
}

// --- What it copies ---

#[tokio::test]
async fn it_copies_a_pattern() {
    let folder = tempfile::tempdir().unwrap();
    let app = folder.path().join("app");
    std::fs::create_dir_all(app.join("src")).unwrap();
    std::fs::write(app.join("Cargo.toml"), "[package]\nname = \"app\"\n").unwrap();
    let mut command = program(&["copy", "--dry-run", "streams/tee", "app"]);
    command
        .current_dir(folder.path())
        .env("CARGO_MANIFEST_DIR", crate::fixture::root());
    let output = within("the copy", command.output()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("streams/tee.rs"),
        "{output:?}"
    );
}
