//! The book and its live examples in a real Chromium, driven by `tools/browser.mjs`.

use std::process::Stdio;

use crate::fixture::{Pack, Program, Server, within};
use axum::Router;
use streaming_api_patterns::book;
use tokio::process::Command;
use tower_http::services::ServeDir;

/// Runs one scenario of `tools/browser.mjs` on `url`.
async fn browser(scenario: &str, url: &str) {
    let script = crate::fixture::root().join("tools/browser.mjs");
    let driver = crate::fixture::root().join("tools/node_modules/playwright-core");
    assert!(
        driver.exists(),
        "playwright-core is not installed: run ./check"
    );
    let mut command = Command::new("node");
    command
        .args([script.as_os_str(), scenario.as_ref(), url.as_ref()])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = within(scenario, command.output()).await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

/// A pack whose one chapter shows the examples `names`, with the real modules.
fn pack_with(names: &[&str]) -> Pack {
    let pack = Pack::new("demo-pack", "0.1.0");
    for entry in std::fs::read_dir(crate::fixture::root().join("book/live")).unwrap() {
        let entry = entry.unwrap();
        let name = format!("book/live/{}", entry.file_name().to_str().unwrap());
        pack.write(&name, std::fs::read(entry.path()).unwrap());
    }
    pack.write(
        "book/theme/pack.css",
        std::fs::read(crate::fixture::root().join("book/theme/pack.css")).unwrap(),
    );
    pack.write(
        "book/book.toml",
        "[book]\ntitle = \"A book for tests\"\n[output.html]\nadditional-css = [\"theme/pack.css\"]\nadditional-js = [\"live/live.js\"]\n",
    );
    let examples: Vec<String> = names
        .iter()
        .map(|name| format!("<div data-live=\"{name}\"></div>\n"))
        .collect();
    pack.write(
        "book/src/one.md",
        format!("# One\n\n{}", examples.join("\n")),
    );
    pack
}

#[tokio::test]
#[ignore = "needs Chromium: run ./check"]
async fn the_connection_check_loses_no_tick_to_a_cut() {
    let pack = pack_with(&[]);
    let program = Program::serve(pack.path(), &[]).await;
    browser("check", &format!("{}/live/", program.url)).await;
}

#[tokio::test]
#[ignore = "needs Chromium: run ./check"]
async fn a_reader_sees_events_a_cut_the_replay_and_a_reset() {
    let pack = pack_with(&["sse-serve", "sse-resume"]);
    let program = Program::serve(pack.path(), &[]).await;
    browser("sse", &format!("{}/one.html", program.url)).await;
}

#[tokio::test]
#[ignore = "needs Chromium: run ./check"]
async fn a_reader_approves_declines_cuts_reloads_and_stops_an_agent() {
    let pack = pack_with(&["llm-agents"]);
    let program = Program::serve(pack.path(), &[]).await;
    browser("agent", &format!("{}/one.html", program.url)).await;
}

#[tokio::test]
#[ignore = "needs Chromium: run ./check"]
async fn a_person_probes_an_endpoint_from_the_page() {
    let pack = pack_with(&[]);
    let program = Program::serve(pack.path(), &[]).await;
    browser("probe", &format!("{}/probe", program.url)).await;
}

#[tokio::test]
async fn only_the_page_of_this_machine_starts_a_probe() {
    let pack = pack_with(&[]);
    let program = Program::serve(pack.path(), &[]).await;
    let client = reqwest::Client::new();
    let page = format!("{}/probe", program.url);
    let get = async |name: &str, value: &str| {
        let request = client.get(&page).header(name, value);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(get("host", "evil.example").await, 403, "DNS rebinding");
    assert_eq!(get("origin", "https://evil.example").await, 403);
    assert_eq!(get("sec-fetch-site", "cross-site").await, 403);
    let html = client.get(&page).send().await.unwrap();
    let html = html.text().await.unwrap();
    let token = html.split("\"token\":\"").nth(1).unwrap();
    let token = token.split('"').next().unwrap();
    let post = async |token: &str, arguments: &str| {
        let url = &program.url;
        let body = format!(r#"{{"kind":"sse","url":"{url}/","arguments":{arguments}}}"#);
        let request = client.post(format!("{page}/runs"));
        let request = request.header("content-type", "application/json");
        let request = request.header("x-probe-token", token).body(body);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(post("guessed", "[]").await, 403);
    for arguments in [
        r#"[["publish", "touch /tmp/x"]]"#,
        r#"[["pid", "1"]]"#,
        r#"[["sarif", "/tmp/x"]]"#,
        r#"[["data", "@/etc/hostname"]]"#,
        r#"[["upstream", "0.0.0.0:9"]]"#,
        r#"[["budget", "86400"]]"#,
        r#"[["only", "sse-none"]]"#,
    ] {
        assert_eq!(post(token, arguments).await, 400, "{arguments}");
    }
    assert_eq!(post(token, r#"[["only", "sse-status-200"]]"#).await, 200);
}

#[tokio::test]
#[ignore = "needs Chromium: run ./check"]
async fn a_reader_sees_compression_hold_events_back_and_a_slow_subscriber_harm_nobody() {
    let pack = pack_with(&["sse-gzip", "sse-fanout"]);
    let program = Program::serve(pack.path(), &[]).await;
    browser("gzip", &format!("{}/one.html", program.url)).await;
}

#[tokio::test]
#[ignore = "needs Chromium: run ./check"]
async fn a_static_copy_of_the_book_says_how_to_start_the_example() {
    let pack = pack_with(&["frame-check"]);
    let built = tempfile::tempdir().unwrap();
    book::build(pack.path(), built.path()).unwrap();
    browser(
        "hint",
        &format!("file://{}/one.html", built.path().display()),
    )
    .await;
    let copy = Router::new().nest_service("/docs", ServeDir::new(built.path()));
    let server = Server::start(copy).await;
    browser("hint", &server.url("/docs/one.html")).await;
}

#[tokio::test]
#[ignore = "needs Chromium: run ./check"]
async fn an_example_that_fails_says_so_in_its_place() {
    let pack = pack_with(&["frame-syntax", "frame-broken"]);
    pack.write(
        "book/live/frame-syntax.js",
        "export default function mount( {",
    );
    pack.write(
        "book/live/frame-broken.js",
        "export default function mount() { throw new Error(\"broken on purpose\"); }",
    );
    let program = Program::serve(pack.path(), &[]).await;
    browser("broken", &format!("{}/one.html", program.url)).await;
}

#[tokio::test]
#[ignore = "needs Chromium: run ./check"]
async fn every_page_fits_the_screen_and_asks_nothing_of_other_hosts() {
    let program = Program::serve(&crate::fixture::root(), &[]).await;
    browser("pages", &format!("{}/", program.url)).await;
}
