//! Wire transcripts: what went over the wire, as text that a snapshot can hold and a chapter show.

use testkit::raw::{End, RawClient};

/// Text of one or more exchanges. The chunked coding is removed; how the body ended is written in
/// brackets, since that is what a client can tell apart.
#[derive(Default)]
pub struct Transcript {
    text: String,
}

impl Transcript {
    pub fn new() -> Self {
        Self::default()
    }

    /// A line of explanation.
    pub fn note(&mut self, line: &str) -> &mut Self {
        self.text.push_str(&format!("[{line}]\n\n"));
        self
    }

    /// The request line and headers as sent, without the blank line.
    pub fn request(&mut self, request: &str) -> &mut Self {
        self.text.push_str(request.trim_end());
        self.text.push_str("\n\n");
        self
    }

    /// What `client` has received so far.
    pub fn response(&mut self, client: &RawClient) -> &mut Self {
        self.text.push_str(&client.head().replace("\r\n", "\n"));
        self.text.push_str(&client.body().replace('\r', "\\r"));
        self.text.push_str(match client.end {
            End::Open => "[the response stays open]\n\n",
            End::Complete => "[end of the response]\n\n",
            End::Fin => "[cut: FIN without the last chunk]\n\n",
            End::Reset => "[cut: RST]\n\n",
        });
        self
    }

    /// The text, with what differs between runs replaced.
    pub fn finish(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for line in self.text.trim_end().lines() {
            lines.push(if line.starts_with("date: ") {
                "date: [date]".to_owned()
            } else {
                line.to_owned()
            });
        }
        lines.join("\n")
    }
}

/// What is random in an event stream, for `insta::with_settings!({filters => sse_filters()}, …)`.
pub fn sse_filters() -> Vec<(&'static str, &'static str)> {
    vec![
        (r"retry: \d+", "retry: [1500 to 4500]"),
        (r"\b(id: )[0-9a-f]{9,16}-", "${1}[epoch]-"),
    ]
}
