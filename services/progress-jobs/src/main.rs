//! Serves the jobs on 127.0.0.1:3000, or on the address that is the first argument.

use progress_jobs::{Service, Settings};
use snippets::connections::listen;
use snippets::production::drain;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    tracing_subscriber::fmt().init();
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&address).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    let stop = CancellationToken::new();
    let settings = Settings::default();
    let drain = settings.drain;
    let service = Service::start(settings, stop.clone());
    let signalled = stop.clone();
    tokio::spawn(async move {
        drain::signal().await;
        signalled.cancel();
    });
    let config = listen::Config {
        drain,
        ..listen::Config::default()
    };
    let open = listen::serve(listener, service.app(), config, stop).await;
    if open > 0 {
        tracing::warn!(open, "connections were cut at the deadline");
    }
    service.finish(drain).await;
    Ok(())
}
