//! Counts the frames of an HTTP/2 client that cost us more than them.
//!
//! Reads frame headers only (RFC 9113 §4.1). What the codec counts itself, CONTINUATION and resets
//! of streams not yet accepted, is left to it.

use std::time::{Duration, Instant};

const PREFACE: usize = 24;
const HEADER: usize = 9;
/// Frames without use that a connection may send at once; the budget refills with time and use.
const BUDGET: u64 = 1_000;
const REFILL_PER_SECOND: u64 = 100;
/// Bytes either way that earn one frame: acknowledging data is what WINDOW_UPDATE is for.
const BYTES_PER_FRAME: u64 = 512;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// Where in a sequence of frames a byte stream stands.
#[derive(Debug, Default)]
pub(super) struct Position {
    header: [u8; HEADER],
    n_header: usize,
    skip: usize,
    /// First bytes of the payload under way, if it is that of a HEADERS frame.
    start: Vec<u8>,
}

/// Padding length, priority, and the first byte or two of a field.
const START: usize = 8;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// One frame's header.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameHead {
    kind: u8,
    flags: u8,
    length: usize,
    stream: u32,
    /// A HEADERS frame whose first field is a pseudo-field.
    begins_pseudo: bool,
}

/// Reads the first field of a block (RFC 7541 §6): pseudo-fields come first, have the first names of
/// the static table, or begin with a colon.
fn begins_pseudo(start: &[u8], flags: u8) -> bool {
    const LAST_PSEUDO: u8 = 14;
    // A colon, and the first seven bits of its Huffman code.
    const COLON: (u8, u8) = (b':', 0b1011_1000);
    let skip = usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
    let Some((first, rest)) = start.get(skip..).and_then(<[u8]>::split_first) else {
        return false;
    };
    let index = match first {
        0x80.. => first & 0x7f,
        0x40.. => first & 0x3f,
        _ => first & 0x0f,
    };
    match (index, rest) {
        (0, [length, letter, ..]) if *first & 0x80 == 0 => match length & 0x80 {
            0 => *letter == COLON.0,
            _ => letter & 0b1111_1110 == COLON.1,
        },
        (index, _) => (1..=LAST_PSEUDO).contains(&index) && *first & 0xe0 != 0x20,
    }
}

impl Position {
    fn after_preface() -> Self {
        // As the payload of a frame that nothing is made of.
        let mut header = [0; HEADER];
        header[4] = END_STREAM;
        Self {
            header,
            skip: PREFACE,
            ..Self::default()
        }
    }

    pub(super) fn is_between_frames(&self) -> bool {
        self.n_header == 0 && self.skip == 0
    }

    pub(super) fn advance(&mut self, mut bytes: &[u8], mut frame: impl FnMut(FrameHead)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = self.skip.min(bytes.len());
                self.skip -= n;
                if self.header[3] == HEADERS && self.start.len() < START {
                    let more = n.min(START - self.start.len());
                    self.start.extend_from_slice(&bytes[..more]);
                }
                bytes = &bytes[n..];
                if self.skip == 0 {
                    self.end_frame(&mut frame);
                }
                continue;
            }
            let n = (HEADER - self.n_header).min(bytes.len());
            self.header[self.n_header..self.n_header + n].copy_from_slice(&bytes[..n]);
            self.n_header += n;
            bytes = &bytes[n..];
            if self.n_header == HEADER {
                let [a, b, c, ..] = self.header;
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                (self.n_header, self.skip) = (0, length);
                self.start.clear();
                if length == 0 {
                    self.end_frame(&mut frame);
                }
            }
        }
    }

    fn end_frame(&mut self, frame: &mut impl FnMut(FrameHead)) {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = self.header;
        frame(FrameHead {
            kind,
            flags,
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
            begins_pseudo: kind == HEADERS && begins_pseudo(&self.start, flags),
        });
    }
}

/// The budget of one connection.
#[derive(Debug)]
pub(super) struct FrameGuard {
    read: Position,
    written: Position,
    left: u64,
    earned_bytes: u64,
    refilled: Instant,
    last_stream: u32,
    /// What GOAWAY says.
    code: u8,
}

const PROTOCOL_ERROR: u8 = 1;
const ENHANCE_YOUR_CALM: u8 = 0xb;

impl FrameGuard {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            read: Position::after_preface(),
            written: Position::default(),
            left: BUDGET,
            earned_bytes: 0,
            refilled: now,
            last_stream: 0,
            code: ENHANCE_YOUR_CALM,
        }
    }

    /// Returns whether the client keeps to its budget, and to what the codec does not look at.
    pub(super) fn received(&mut self, bytes: &[u8], now: Instant) -> bool {
        let (mut cost, mut earned, mut last) = (0, 0, self.last_stream);
        let mut is_sound = true;
        self.read.advance(bytes, |frame| match frame.kind {
            DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => {
                earned += frame.length as u64;
            }
            HEADERS | CONTINUATION => {
                // Trailers have none (RFC 9113 §8.1); the codec would drop them in silence.
                is_sound &= !(frame.begins_pseudo && frame.stream <= last);
                last = last.max(frame.stream);
            }
            _ => cost += 1,
        });
        self.last_stream = last;
        if !is_sound {
            self.code = PROTOCOL_ERROR;
            return false;
        }
        self.earn(earned);
        if cost == 0 {
            return true;
        }
        self.refill(now);
        let is_within = cost <= self.left;
        self.left = self.left.saturating_sub(cost);
        is_within
    }

    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.written.advance(bytes, |_| ());
        self.earn(bytes.len() as u64);
    }

    fn earn(&mut self, bytes: u64) {
        self.earned_bytes += bytes;
        let frames = self.earned_bytes / BYTES_PER_FRAME;
        self.earned_bytes %= BYTES_PER_FRAME;
        self.left = (self.left + frames).min(BUDGET);
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled);
        if passed >= Duration::from_secs(1) {
            self.left = (self.left + passed.as_secs() * REFILL_PER_SECOND).min(BUDGET);
            self.refilled = now;
        }
    }

    /// GOAWAY, if one can be put in at this point.
    pub(super) fn goaway(&self) -> Option<[u8; HEADER + 8]> {
        self.written.is_between_frames().then(|| {
            let mut frame = [0; HEADER + 8];
            (frame[2], frame[3]) = (8, 7);
            frame[9..13].copy_from_slice(&self.last_stream.to_be_bytes());
            frame[16] = self.code;
            frame
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        frame.extend(std::iter::repeat_n(0, length.into()));
        frame
    }

    fn guard(now: Instant) -> FrameGuard {
        let mut guard = FrameGuard::new(now);
        assert!(guard.received(&[0; PREFACE], now));
        guard
    }

    #[test]
    fn a_flood_is_over_budget_and_time_pays_it_back() {
        let now = Instant::now();
        let mut guard = guard(now);
        for _ in 0..BUDGET {
            assert!(guard.received(&frame(6, 8), now));
        }
        assert!(!guard.received(&frame(6, 8), now));
        let later = now + Duration::from_secs(2);
        assert!(guard.received(&frame(6, 8), later));
    }

    #[test]
    fn window_updates_for_what_was_sent_are_free() {
        let now = Instant::now();
        let mut guard = guard(now);
        for _ in 0..10 * BUDGET {
            guard.sent(&frame(0, 255));
            guard.sent(&frame(0, 255));
            assert!(guard.received(&frame(8, 4), now));
        }
    }

    #[test]
    fn trailers_with_a_pseudo_field_are_seen() {
        let block = |bytes: &[u8]| begins_pseudo(bytes, 0);
        for pseudo in [
            &[0x82][..],
            &[0x41, 1],
            &[0x04, 1],
            &[0, 5, b':'],
            &[0x40, 0x85, 0xb9],
        ] {
            assert!(block(pseudo), "{pseudo:x?}");
        }
        for plain in [
            &[0x90][..],
            &[0x0f, 0x2b],
            &[0, 5, b'x'],
            &[0x40, 0x85, 0x1f],
            &[0x20],
            &[],
        ] {
            assert!(!block(plain), "{plain:x?}");
        }
        assert!(begins_pseudo(&[3, 0x82], PADDED));
        let now = Instant::now();
        let mut guard = guard(now);
        let head = |stream: u8, field: u8| vec![0, 0, 1, HEADERS, 4, 0, 0, 0, stream, field];
        assert!(guard.received(&head(1, 0x82), now));
        assert!(guard.received(&head(3, 0x82), now));
        assert!(guard.received(&head(1, 0x90), now));
        assert!(!guard.received(&head(3, 0x82), now));
        assert_eq!(guard.goaway().map(|frame| frame[16]), Some(PROTOCOL_ERROR));
    }

    #[test]
    fn frames_are_found_across_any_cuts() {
        let now = Instant::now();
        let mut guard = guard(now);
        let bytes = [frame(0, 0), frame(1, 20), frame(6, 8)].concat();
        for byte in bytes {
            guard.received(&[byte], now);
        }
        assert_eq!(guard.left, BUDGET - 2, "one empty DATA, one PING");
        assert_eq!(guard.last_stream, 1);
        guard.sent(&[0]);
        assert!(guard.goaway().is_none());
        guard.sent(&[0, 1, 0, 0, 0, 0, 0, 0, 0xff]);
        assert!(
            guard
                .goaway()
                .is_some_and(|frame| frame[12] == 1 && frame[16] == 0xb)
        );
    }
}
