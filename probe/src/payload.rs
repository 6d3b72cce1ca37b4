//! A WebSocket message that the user gives: text, or binary in hexadecimal digits.

/// A message that the service accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
}

impl Payload {
    /// Reads hexadecimal digits, blanks between them ignored; `None` for anything else.
    pub fn hex(digits: &str) -> Option<Self> {
        let digits: Vec<u8> = digits
            .chars()
            .filter(|c| !c.is_whitespace())
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()?;
        let (pairs, rest) = digits.as_chunks::<2>();
        let bytes = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        (rest.is_empty() && !pairs.is_empty()).then_some(Self::Binary(bytes))
    }

    /// The bytes of the message.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Payload::Text(text) => text.as_bytes(),
            Payload::Binary(bytes) => bytes,
        }
    }

    /// The opcode of its frame (RFC 6455, 5.6).
    pub(crate) fn opcode(&self) -> u8 {
        match self {
            Payload::Text(_) => 1,
            Payload::Binary(_) => 2,
        }
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Payload::Text(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::Payload;

    #[test]
    fn hexadecimal_digits_are_bytes() {
        let bytes = Payload::Binary(vec![0x10, 0xff]);
        assert_eq!(Payload::hex("10 fF"), Some(bytes));
        for wrong in ["", "1", "0x10", "1g", "1é"] {
            assert_eq!(Payload::hex(wrong), None, "{wrong}");
        }
    }
}
