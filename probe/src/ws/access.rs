//! Who gets a connection.

use std::time::Duration;

use super::frame::{self, Upgrade, Waited};
use super::{PATIENCE, Probe};
use crate::http1::Request;

const FOREIGN: &str = "https://stream-probe.invalid";

/// What an attempt to connect came to.
enum Attempt {
    /// Open, and still so a while later.
    Stays,
    Refused(String),
    /// No answer.
    Silent,
}

impl Probe<'_> {
    pub(super) async fn access(&self) {
        self.version().await;
        self.plain_get().await;
        self.origin().await;
        self.credentials().await;
        self.unknown_subprotocol().await;
    }

    /// Connects, and sees whether the service changes its mind.
    async fn attempt(&self, request: &Request, wait: Duration) -> Attempt {
        match frame::connect(request, &self.target, self.run.at_most(PATIENCE)).await {
            Ok(Upgrade::Open(mut socket)) => {
                let ended = socket.until(self.run.at_most(wait), |_| false).await;
                self.hear(&socket.heard);
                match ended {
                    Waited::Closed(_) | Waited::Dropped if socket.messages == 0 => {
                        Attempt::Refused(format!("accepted, then {}", ended.text()))
                    }
                    _ => Attempt::Stays,
                }
            }
            Ok(Upgrade::Refused(mut response)) => {
                let status = response.head.status;
                self.hear(
                    &response
                        .text(self.run.at_most(Duration::from_secs(1)))
                        .await,
                );
                Attempt::Refused(format!("status {status}"))
            }
            Ok(Upgrade::Closed) => Attempt::Refused("the connection was closed".to_owned()),
            Ok(Upgrade::Silent) | Err(_) => Attempt::Silent,
        }
    }

    async fn version(&self) {
        const ID: &str = "ws-version-checked";
        if !self.run.needs(&[ID]) {
            return;
        }
        let request = self.request.clone().header("Sec-WebSocket-Version", "12");
        match self.attempt(&request, Duration::ZERO).await {
            Attempt::Refused(how) => self.run.pass(ID, how),
            Attempt::Stays => self.run.fail(ID, "version 12 was answered with 101"),
            Attempt::Silent => self.run.unknown(ID, "no answer"),
        }
    }

    async fn plain_get(&self) {
        const ID: &str = "ws-plain-get-refused";
        if !self.run.needs(&[ID]) {
            return;
        }
        let mut request = self.request.clone();
        for name in [
            "Connection",
            "Upgrade",
            "Sec-WebSocket-Version",
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Protocol",
        ] {
            request = request.without(name);
        }
        let Some(mut response) = request
            .response(&self.target, self.run.at_most(PATIENCE))
            .await
        else {
            if !self.run.left().is_zero() {
                self.run.fail(
                    ID,
                    format!("no HTTP answer within {} s", PATIENCE.as_secs()),
                );
            }
            return;
        };
        let status = response.head.status;
        self.hear(
            &response
                .text(self.run.at_most(Duration::from_secs(1)))
                .await,
        );
        if status < 500 || status == 501 {
            self.run.pass(ID, format!("status {status}"));
        } else {
            self.run.fail(ID, format!("status {status}"));
        }
    }

    /// Cross-site hijacking: another site's page connects with the user's cookie.
    async fn origin(&self) {
        const ID: &str = "ws-origin-checked";
        if !self.run.needs(&[ID]) {
            return;
        }
        let request = self.request.clone().header("Origin", FOREIGN);
        let ambient = self.options.cookie.is_some();
        match self.attempt(&request, Duration::from_secs(2)).await {
            Attempt::Refused(how) => self.run.pass(ID, format!("Origin {FOREIGN}: {how}")),
            Attempt::Silent => self.run.unknown(ID, "no answer"),
            Attempt::Stays if ambient => self.run.fail(ID, format!("a page of {FOREIGN} gets a socket with the user's cookie")),
            Attempt::Stays if self.options.origin.is_some() && !self.sends_authorization() => {
                self.run.fail(ID, format!("{FOREIGN} is let in beside --origin"));
            }
            Attempt::Stays => self.run.unknown(ID, "a foreign Origin is let in: right for a public feed and for tokens that the page must hold, wrong with cookies (--cookie, --origin)"),
        }
    }

    fn sends_authorization(&self) -> bool {
        self.options
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("authorization"))
    }

    async fn credentials(&self) {
        const ID: &str = "ws-auth-required";
        if !self.run.needs(&[ID]) {
            return;
        }
        if self.options.cookie.is_none() && !self.sends_authorization() {
            return self
                .run
                .unknown(ID, "neither --cookie nor an Authorization header was given");
        }
        let request = self
            .request
            .clone()
            .without("Cookie")
            .without("Authorization");
        match self.attempt(&request, Duration::from_secs(4)).await {
            Attempt::Refused(how) => self.run.pass(ID, how),
            Attempt::Silent => self.run.unknown(ID, "no answer"),
            Attempt::Stays => self.run.fail(
                ID,
                "without the credentials the connection is open 4 s later",
            ),
        }
    }

    async fn unknown_subprotocol(&self) {
        const ID: &str = "ws-subprotocol-not-echoed";
        const NAME: &str = "stream-probe.unknown";
        if !self.run.needs(&[ID]) {
            return;
        }
        let request = self.request.clone().header("Sec-WebSocket-Protocol", NAME);
        match frame::connect(&request, &self.target, self.run.at_most(PATIENCE)).await {
            Ok(Upgrade::Open(socket)) => match socket.head.get("sec-websocket-protocol") {
                Some(name) if name == NAME => self.run.fail(ID, format!("{NAME} was selected because it was offered; a bearer token in its place would be echoed")),
                Some(name) if name.is_empty() => self.run.fail(ID, "an empty Sec-WebSocket-Protocol, with which a browser fails the connection"),
                Some(name) => self.run.fail(ID, format!("{name} was selected, though only {NAME} was offered")),
                None => self.run.pass(ID, "101 without a subprotocol"),
            },
            Ok(Upgrade::Refused(response)) => self.run.pass(ID, format!("status {}", response.head.status)),
            _ => self.run.unknown(ID, "no answer"),
        }
    }
}
