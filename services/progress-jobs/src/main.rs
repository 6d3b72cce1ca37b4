//! Serves the jobs on 127.0.0.1:3000, or on the address that is the first argument.

use std::time::Duration;

use progress_jobs::{Service, Settings};
use snippets::connections::listen;
use tokio::{net::TcpListener, signal};
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
    let service = Service::start(Settings::default(), stop.clone());
    tokio::spawn(on_signal(stop.clone()));
    let open = listen::serve(listener, service.app(), listen::Config::default(), stop).await;
    if open > 0 {
        tracing::warn!(open, "connections were cut at the deadline");
    }
    service.finish(Duration::from_secs(30)).await;
    Ok(())
}

/// Cancels `stop` at Ctrl-C and SIGTERM.
async fn on_signal(stop: CancellationToken) {
    #[cfg(unix)]
    {
        let Ok(mut terminate) = signal::unix::signal(signal::unix::SignalKind::terminate()) else {
            tracing::error!("no handler for SIGTERM");
            return;
        };
        tokio::select! {
            _ = signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    }
    #[cfg(not(unix))]
    let _ = signal::ctrl_c().await;
    stop.cancel();
}
