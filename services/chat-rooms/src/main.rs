//! Serves the chat on 127.0.0.1:3000, or on the address that is the first argument; the others are allowed origins.

use chat_rooms::{Service, Settings};
use snippets::connections::listen;
use snippets::production::drain;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    tracing_subscriber::fmt().init();
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&address).await?;
    let local = listener.local_addr()?;
    tracing::info!("open http://{local}");
    let mut settings = Settings::default();
    drain::raise_descriptors(settings.limits.sockets);
    let drain = settings.drain;
    settings.origins.push(format!("http://{local}"));
    settings.origins.extend(args);
    let stop = CancellationToken::new();
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
    let sockets = service.drained(drain / 4).await;
    if open + sockets > 0 {
        tracing::warn!(open, sockets, "connections were cut at the deadline");
    }
    Ok(())
}
