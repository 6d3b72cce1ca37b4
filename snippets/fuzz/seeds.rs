//! Writes the cases of `tests/data` as seeds into `corpus/wire`.

use std::path::Path;

fn main() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = here.join("corpus/wire");
    std::fs::create_dir_all(&corpus).unwrap();
    let mut count = 0;
    for file in ["sse-cases.json", "wpt-sse-cases.json", "ld-sse-cases.json"] {
        let text = std::fs::read_to_string(here.join("../tests/data").join(file)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for case in json["cases"].as_array().unwrap() {
            // The first eight bytes say how the rest is cut.
            let mut seed = vec![count as u8; 8];
            seed.extend(base64(case["raw_base64"].as_str().unwrap()));
            std::fs::write(corpus.join(format!("case-{count:03}")), seed).unwrap();
            count += 1;
        }
    }
    println!("{count} seeds in {}", corpus.display());
}

fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |c| ALPHABET.iter().position(|&a| a == c).unwrap() as u32;
    let mut bytes = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits =
            (group.iter().enumerate()).fold(0, |bits, (at, &c)| bits | value(c) << (18 - 6 * at));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}
