//! Starts Redis, the instances and nginx, publishes through nginx, and restarts the instances one after the other.

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::guard::{Guarded, free_port, listening};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The configuration of the chapter on proxies, with two servers.
const NGINX: &str = include_str!("../../../book/src/production/proxies/nginx.conf");

struct Options {
    port: u16,
    every: Option<u64>,
    rate: u64,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            port: 8080,
            every: None,
            rate: 5,
        };
        for pair in arguments.chunks(2) {
            let [name, value] = pair else {
                return Err(format!("{} needs a value", pair[0]).into());
            };
            match name.as_str() {
                "--port" => options.port = value.parse()?,
                "--every" => options.every = Some(value.parse()?),
                "--rate" => options.rate = value.parse()?,
                other => {
                    return Err(format!("unknown argument {other}: --port, --every, --rate").into());
                }
            }
        }
        Ok(options)
    }
}

/// Runs until Enter is answered with the end of the input, `q`, Ctrl-C or SIGTERM.
pub(crate) async fn run(arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let (redis, nginx) = (program("redis-server")?, program("nginx")?);
    let front = SocketAddr::from(([127, 0, 0, 1], options.port));
    TcpListener::bind(front)
        .map_err(|e| format!("port {}: {e}; choose another with --port", options.port))?;
    let folder = tempfile::tempdir()?;
    let mut deploy = Deploy::start(&redis, &nginx, front, folder.path()).await?;
    println!("http://{front}/  a page that reads the stream in two ways; POST JSON to /publish");
    match options.every {
        Some(seconds) => println!("restarts every {seconds} s; Ctrl-C ends everything"),
        None => println!(
            "Enter restarts the instances one after the other; q or Ctrl-C ends everything"
        ),
    }
    let done = tokio::select! {
        done = restarts(&mut deploy, options.every) => done,
        () = publish(front, options.rate) => Ok(()),
        () = snippets::production::drain::signal() => Ok(()),
    };
    deploy.stop().await.and(done)
}

async fn restarts(deploy: &mut Deploy, every: Option<u64>) -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        match every {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => match lines.next_line().await? {
                Some(line) if line != "q" => {}
                _ => return Ok(()),
            },
        }
        deploy.roll().await?;
    }
}

fn program(name: &str) -> Result<String> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin:/usr/local/sbin";
    path.split(':')
        .map(|folder| format!("{folder}/{name}"))
        .find(|file| Path::new(file).exists())
        .ok_or_else(|| {
            format!("{name} is not installed: apt-get install {name}, brew install {name}").into()
        })
}

struct Deploy {
    redis: Guarded,
    redis_url: String,
    nginx: Guarded,
    instances: Vec<(&'static str, SocketAddr, Guarded)>,
}

impl Deploy {
    async fn start(redis: &str, nginx: &str, front: SocketAddr, folder: &Path) -> Result<Self> {
        let text = |path: &Path| path.display().to_string();
        let addr = free_port()?;
        let port = addr.port().to_string();
        let command = [
            redis,
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            &text(folder),
        ];
        let mut redis = Guarded::start("redis-server", &command, Some(&folder.join("redis.log")))?;
        listening(&mut redis, addr).await?;
        let redis_url = format!("redis://{addr}/");

        let mut instances = Vec::new();
        for name in ["a", "b"] {
            let addr = free_port()?;
            instances.push((name, addr, instance(name, addr, &redis_url).await?));
        }

        let servers: String = instances
            .iter()
            // Without max_fails=0 an instance that has just come back is left out for another 10 s, and while its
            // sibling restarts nginx answers 502, which ends an EventSource for good.
            .map(|(_, addr, _)| format!("server {addr} max_fails=0; "))
            .collect();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {}/{name}; ", folder.display()))
            .collect();
        let config = NGINX
            .replace("server 127.0.0.1:3000;", &servers)
            .replace("127.0.0.1:8080", &front.to_string())
            .replacen("http {", &format!("http {{ access_log off; {temp}"), 1);
        let file = folder.join("nginx.conf");
        std::fs::write(&file, config)?;
        let main = format!(
            "daemon off; master_process off; pid {0}/pid; error_log {0}/nginx.log;",
            folder.display()
        );
        let command = [nginx, "-p", &text(folder), "-c", &text(&file), "-g", &main];
        let mut nginx = Guarded::start("nginx", &command, Some(&folder.join("nginx.out")))?;
        listening(&mut nginx, front).await?;
        Ok(Self {
            redis,
            redis_url,
            nginx,
            instances,
        })
    }

    /// One instance after the other; the next one waits until the last is ready again.
    async fn roll(&mut self) -> Result<()> {
        for (name, addr, process) in &mut self.instances {
            println!("restarting {name}");
            let status = process.stop().await?;
            if !status.success() {
                return Err(format!("{name} ended with {status}").into());
            }
            *process = instance(name, *addr, &self.redis_url).await?;
            println!("{name} is ready");
        }
        self.redis.check()?;
        self.nginx.check()?;
        println!("rolled");
        Ok(())
    }

    async fn stop(mut self) -> Result<()> {
        self.nginx.stop().await?;
        for (_, _, process) in &mut self.instances {
            process.stop().await?;
        }
        self.redis.stop().await?;
        Ok(())
    }
}

async fn instance(name: &'static str, addr: SocketAddr, redis: &str) -> Result<Guarded> {
    let this = std::env::current_exe()?.display().to_string();
    let port = addr.port().to_string();
    let mut process = Guarded::start(name, &[&this, "instance", name, &port, redis], None)?;
    listening(&mut process, addr).await?;
    let ready = reqwest::get(format!("http://{addr}/ready")).await?;
    match ready.status().is_success() {
        true => Ok(process),
        false => Err(format!("{name} is not ready: {}", ready.status()).into()),
    }
}

/// Publishes through nginx, as a client of the service would; with a rate of 0 it only waits.
async fn publish(front: SocketAddr, rate: u64) {
    let client = reqwest::Client::new();
    let Some(pause) = 1_000_u64.checked_div(rate) else {
        return std::future::pending().await;
    };
    for n in 1_u64.. {
        let post = client.post(format!("http://{front}/publish")).json(&n);
        let answer = post.send().await;
        if let Err(error) = answer.and_then(reqwest::Response::error_for_status) {
            println!("not acknowledged: {n}: {error}");
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}
