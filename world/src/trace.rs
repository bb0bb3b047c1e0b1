//! What happened, as a hash for machines and as a story for people.

use std::fmt::Write as _;

/// The trace of one run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    /// `None`: only the hash is wanted, which is much faster.
    lines: Option<Vec<(u64, String)>>,
}

impl Trace {
    /// A trace that keeps its words, or only its hash.
    pub(crate) fn new(words: Words) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: matches!(words, Words::Kept).then(Vec::new) }
    }

    /// Notes something at a time in milliseconds. `values` are what the hash sees, `words` what people read.
    pub(crate) fn note(&mut self, at_ms: u64, values: &[u64], words: impl FnOnce() -> String) {
        self.mix(at_ms);
        for value in values {
            self.mix(*value);
        }
        if let Some(lines) = &mut self.lines {
            lines.push((at_ms, words()));
        }
    }

    /// Lets the hash see bytes.
    pub(crate) fn note_bytes(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.mix(u64::from_le_bytes(*chunk));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    /// The hash so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The story so far; empty when its words were not kept.
    pub(crate) fn story(&self) -> String {
        let mut text = String::new();
        for (at_ms, line) in self.lines.iter().flatten() {
            let (minutes, seconds) = (at_ms / 60_000, at_ms % 60_000);
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{minutes:4}:{:02}.{:03}  {line}", seconds / 1_000, seconds % 1_000);
        }
        text
    }

    fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    }
}

/// Whether a trace keeps words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Words {
    /// Only the hash.
    HashOnly,
    /// The story too.
    Kept,
}
