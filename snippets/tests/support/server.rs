//! A real server on a loopback port.

use std::net::SocketAddr;

use axum::Router;
use snippets::connections::listen;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A server on a free loopback port; dropped, it is aborted.
pub struct Server {
    pub addr: SocketAddr,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Server {
    /// `connections::listen` with its defaults.
    pub async fn start(app: Router) -> Self {
        Self::with(app, listen::Config::default()).await
    }

    pub async fn with(app: Router, config: listen::Config) -> Self {
        Self::run(async |listener, stop| {
            listen::serve(listener, app, config, stop).await;
        })
        .await
    }

    /// `axum::serve`, as it comes.
    pub async fn plain(app: Router) -> Self {
        Self::run(async |listener, stop| {
            let app = app.into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(listener, app)
                .with_graceful_shutdown(stop.cancelled_owned())
                .await
                .unwrap();
        })
        .await
    }

    async fn run<F>(serve: impl FnOnce(TcpListener, CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, stop.clone()));
        Self {
            addr,
            stop,
            task: Some(task),
        }
    }

    /// The absolute URL of `path` (which begins with `/`).
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Begins the graceful shutdown and returns the task that ends with it.
    pub fn begin_shutdown(&mut self) -> JoinHandle<()> {
        self.stop.cancel();
        self.task.take().expect("shutdown has begun already")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}
