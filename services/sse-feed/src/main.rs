//! Serves the feed on 127.0.0.1:3000, or on the address that is the first argument; `/metrics` and `/ready` on 127.0.0.1:3001,
//! or on the second.

use std::{error::Error, net::SocketAddr, sync::Arc};

use snippets::production::drain::{self, Instance};
use snippets::production::scrape;
use sse_feed::{Demo, Service, Settings};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let mut addresses = std::env::args().skip(1);
    let mut address = |default: &str| -> Result<SocketAddr, Box<dyn Error>> {
        let text = addresses.next().unwrap_or_else(|| default.to_owned());
        text.parse().map_err(|error| {
            format!("{text} is no address ({error}): name one such as {default}").into()
        })
    };
    let (public, admin) = (address("127.0.0.1:3000")?, address("127.0.0.1:3001")?);
    let recorder = scrape::recorder()?;
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder)?;

    let settings = Settings::default();
    drain::raise_descriptors(settings.streams.max_streams);
    let shutdown = settings.shutdown.clone();
    let instance = Instance::default();
    let service = Service::start(settings, Arc::new(Demo), instance.stopping.clone());

    let listener = drain::bind(public).map_err(|error| in_use(public, &error))?;
    let private = drain::bind(admin).map_err(|error| in_use(admin, &error))?;
    tracing::info!(
        "listening on http://{}, metrics on http://{}/metrics",
        listener.local_addr()?,
        private.local_addr()?
    );
    let admin = scrape::app(metrics).merge(instance.ready());
    tokio::spawn(async move { axum::serve(private, admin).await });

    let ended = instance
        .serve(
            listener,
            service.app(),
            shutdown,
            drain::signal(),
            std::future::ready(()),
        )
        .await;
    if !ended {
        tracing::warn!("connections were cut at the deadline");
    }
    Ok(())
}

fn in_use(address: SocketAddr, error: &std::io::Error) -> String {
    format!("cannot listen on {address} ({error}): name another address as an argument")
}
