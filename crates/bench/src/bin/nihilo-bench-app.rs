//! The app behind every benchmark: a fixed answer over HTTP/1.1 keep-alive, one thread per
//! connection, nothing but the standard library, so that it starts as fast as a program can.
//!
//! `PORT` and `HOST` say where it listens, `BODY_BYTES` how long its answer is (default 6). With
//! `WEBSOCKET` it also answers the one key that benchmarks send, and echoes short messages. With
//! `BOOT_MS` it listens so much later, and its answers tell how long after that it was first dialled
//! (`x-dialled-us`) and had this request (`x-served-us`).

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Longest request head that is read; benchmarks send a few hundred bytes.
const MAX_HEAD: usize = 16 * 1024;
const HEAD_END: &[u8] = b"\r\n\r\n";
/// To the key of the example in RFC 6455 §1.3: no hash is needed for it.
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const CLOSE: u8 = 8;

fn main() -> io::Result<()> {
    let host = std::env::var("HOST").unwrap_or_else(|_| "127.0.0.1".into());
    let boots = std::env::var_os("BOOT_MS").is_some();
    std::thread::sleep(Duration::from_millis(number("BOOT_MS", 0)));
    let listener = TcpListener::bind((host.as_str(), number("PORT", 8080)))?;
    let listens = Instant::now();
    let body_bytes = number("BODY_BYTES", 6);
    let talks_websocket = std::env::var_os("WEBSOCKET").is_some();
    let mut dialled = None;
    for connection in listener.incoming() {
        let connection = connection?;
        let dialled = *dialled.get_or_insert_with(|| listens.elapsed());
        let times = boots.then_some(Times { listens, dialled });
        let answer = Answer { body_bytes, times };
        // A client that leaves ends its thread, and nothing else.
        std::thread::spawn(move || drop(serve(connection, &answer, talks_websocket)));
    }
    Ok(())
}

struct Answer {
    body_bytes: usize,
    times: Option<Times>,
}

struct Times {
    listens: Instant,
    /// From then to the first connection.
    dialled: Duration,
}

impl Times {
    fn fields(&self) -> String {
        let (dialled, served) = (self.dialled.as_micros(), self.listens.elapsed().as_micros());
        format!("x-dialled-us: {dialled}\r\nx-served-us: {served}\r\n")
    }
}

fn number<N: std::str::FromStr>(variable: &str, default: N) -> N {
    let value = std::env::var(variable).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn whole(body_bytes: usize, fields: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {body_bytes}\r\n{fields}\r\n"
    );
    let mut answer = head.into_bytes();
    answer.extend(b"hello\n".iter().cycle().take(body_bytes));
    answer
}

fn serve(mut connection: TcpStream, answer: &Answer, talks_websocket: bool) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let same = whole(answer.body_bytes, "");
    let mut head = [0; MAX_HEAD];
    let mut n_read = 0;
    loop {
        match connection.read(&mut head[n_read..])? {
            // Closed, or a head that never ends.
            0 => return Ok(()),
            n => n_read += n,
        }
        while let Some(end) = end_of_head(&head[..n_read]) {
            if talks_websocket && asks_to_switch(&head[..end]) {
                return echo(connection);
            }
            match &answer.times {
                None => connection.write_all(&same)?,
                Some(times) => {
                    connection.write_all(&whole(answer.body_bytes, &times.fields()))?;
                }
            }
            head.copy_within(end..n_read, 0);
            n_read -= end;
        }
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let start = bytes
        .windows(HEAD_END.len())
        .position(|window| window == HEAD_END)?;
    Some(start + HEAD_END.len())
}

fn asks_to_switch(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.any(|(name, value)| {
        name.eq_ignore_ascii_case("upgrade") && value.trim().eq_ignore_ascii_case("websocket")
    })
}

/// Whole messages of at most 125 bytes, until the client's close frame.
fn echo(mut connection: TcpStream) -> io::Result<()> {
    connection.write_all(SWITCHED)?;
    loop {
        let mut head = [0; 6];
        connection.read_exact(&mut head)?;
        let [first, length, mask @ ..] = head;
        let mut message = vec![0; usize::from(length & 0x7f)];
        connection.read_exact(&mut message)?;
        for (byte, mask) in message.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        let mut frame = vec![first, length & 0x7f];
        frame.append(&mut message);
        connection.write_all(&frame)?;
        if first & 0x0f == CLOSE {
            return Ok(());
        }
    }
}
