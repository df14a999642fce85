//! The instance behind the gateway: reads requests strictly, remembers them, answers by echo or by
//! script.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::case::Script;

/// One request, as it arrived.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub line: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub is_whole: bool,
}

#[derive(Debug, Default)]
struct Memory {
    /// Whose requests count; all when empty.
    client: Option<String>,
    requests: Vec<Request>,
    scripts: Vec<Script>,
    n_scripted: usize,
}

/// Cheap to clone; clones share the memory.
#[derive(Debug, Clone)]
pub struct Backend {
    pub address: SocketAddr,
    memory: Arc<(Mutex<Memory>, Condvar)>,
}

impl Memory {
    fn is_own(&self, request: &Request) -> bool {
        let is_around = request.line.contains(BEFORE) || request.line.contains(AFTER);
        let client = self.client.as_deref();
        !is_around && client.is_none_or(|client| value(request, "x-forwarded-for") == Some(client))
    }
}

/// Requests for this path are not the case's own.
pub const BEFORE: &str = "/before";
pub const AFTER: &str = "/after";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Echo,
    Scripted,
    /// So long before the head.
    SlowStart(Duration),
    /// So long between two halves of the body.
    Idle(Duration),
}

impl Backend {
    pub fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let memory = Arc::default();
        let backend = Self { address, memory };
        let serving = backend.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (backend, socket) = (serving.clone(), socket.expect("a connection"));
                std::thread::spawn(move || backend.serve(socket, manner));
            }
        });
        backend
    }

    pub fn reset(&self, scripts: Vec<Script>) {
        let mut memory = self.memory.0.lock().expect("the memory");
        *memory = Memory {
            scripts,
            ..Memory::default()
        };
    }

    /// From now on only this client's requests count.
    pub fn reset_for(&self, client: Ipv4Addr, scripts: Vec<Script>) {
        self.reset(scripts);
        self.memory.0.lock().expect("the memory").client = Some(client.to_string());
    }

    fn own(memory: &Memory) -> Vec<Request> {
        let is_own = |request: &&Request| memory.is_own(request);
        memory.requests.iter().filter(is_own).cloned().collect()
    }

    /// What has arrived, once `n` requests have, or the time is over.
    pub fn requests(&self, n: usize, limit: Duration) -> Vec<Request> {
        let (memory, changed) = &*self.memory;
        let deadline = Instant::now() + limit;
        let mut guard = memory.lock().expect("the memory");
        loop {
            let own = Self::own(&guard);
            let left = deadline.saturating_duration_since(Instant::now());
            if own.len() >= n || left.is_zero() {
                return own;
            }
            guard = changed.wait_timeout(guard, left).expect("the memory").0;
        }
    }

    fn remember(&self, request: Request) {
        self.memory
            .0
            .lock()
            .expect("the memory")
            .requests
            .push(request);
        self.memory.1.notify_all();
    }

    /// Nothing for a request that is not the case's own.
    fn next_script(&self, request: &Request) -> Option<Script> {
        let mut memory = self.memory.0.lock().expect("the memory");
        if !memory.is_own(request) {
            return None;
        }
        let n = memory.n_scripted;
        memory.n_scripted += 1;
        let last = memory.scripts.len().saturating_sub(1);
        Some(memory.scripts.get(n.min(last)).cloned().unwrap_or_default())
    }

    fn serve(&self, mut socket: TcpStream, manner: Manner) {
        socket.set_nodelay(true).expect("nodelay");
        let mut reader = Reader::default();
        loop {
            let Some(mut request) = reader.head(&mut socket) else {
                return;
            };
            let is_scripted = manner == Manner::Scripted;
            let script = is_scripted.then(|| self.next_script(&request)).flatten();
            if let Some(script) = script.as_ref().filter(|script| script.is_early) {
                self.remember(request.clone());
                drop(socket.write_all(&script.bytes));
            } else {
                reader.body(&mut socket, &mut request);
                self.remember(request.clone());
            }
            if let Some(script) = script {
                if !script.is_early && socket.write_all(&script.bytes).is_err() {
                    return;
                }
                if script.closes {
                    drop(socket.shutdown(Shutdown::Both));
                    return;
                }
                continue;
            }
            if !request.is_whole || echo(&mut socket, &request, manner).is_err() {
                return;
            }
        }
    }
}

fn value<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let found = request.fields.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

fn echo(socket: &mut TcpStream, request: &Request, manner: Manner) -> std::io::Result<()> {
    let is_head = request.line.starts_with("HEAD ");
    let body = match request.body.is_empty() {
        true => b"echo".to_vec(),
        false => request.body.clone(),
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    match manner {
        Manner::Echo | Manner::Scripted => {
            let body = if is_head { &[][..] } else { &body };
            socket.write_all(&[head.as_bytes(), body].concat())
        }
        Manner::SlowStart(pause) => {
            std::thread::park_timeout(pause);
            socket.write_all(&[head.as_bytes(), &body].concat())
        }
        Manner::Idle(pause) => {
            socket.write_all(&[head.as_bytes(), &body[..1]].concat())?;
            std::thread::park_timeout(pause);
            socket.write_all(&body[1..])
        }
    }
}

/// Reads what RFC 9112 allows, and nothing else: a head with bare line ends or a doubtful length
/// fails the case by a panic of the backend.
#[derive(Default)]
struct Reader(Vec<u8>);

impl Reader {
    fn more(&mut self, socket: &mut TcpStream) -> bool {
        let mut buffer = [0; 16 * 1024];
        match socket.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.0.extend_from_slice(&buffer[..n]);
                true
            }
        }
    }

    /// Up to and without the next `end`.
    fn until(&mut self, socket: &mut TcpStream, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.0.windows(end.len()).position(|part| part == end) {
                let found = self.0[..at].to_vec();
                self.0.drain(..at + end.len());
                return Some(found);
            }
            if !self.more(socket) {
                return None;
            }
        }
    }

    fn exactly(&mut self, socket: &mut TcpStream, n: usize) -> Option<Vec<u8>> {
        while self.0.len() < n {
            if !self.more(socket) {
                return None;
            }
        }
        Some(self.0.drain(..n).collect())
    }

    fn head(&mut self, socket: &mut TcpStream) -> Option<Request> {
        let head = self.until(socket, b"\r\n\r\n")?;
        let is_sound = |(at, byte): (usize, &u8)| match byte {
            b'\r' => head.get(at + 1) == Some(&b'\n'),
            b'\n' => at > 0 && head[at - 1] == b'\r',
            _ => true,
        };
        assert!(
            head.iter().enumerate().all(is_sound),
            "a bare line end in {head:?}"
        );
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let fields = fields_of(lines);
        Some(Request {
            line,
            fields,
            ..Request::default()
        })
    }

    fn body(&mut self, socket: &mut TcpStream, request: &mut Request) {
        let coding = value(request, "transfer-encoding").map(str::to_owned);
        let length = value(request, "content-length").map(str::to_owned);
        assert!(
            coding.is_none() || length.is_none(),
            "two framings: {request:?}"
        );
        if let Some(coding) = coding {
            assert_eq!(coding, "chunked", "{request:?}");
            request.is_whole = self.chunked(socket, request).is_some();
            return;
        }
        let n: usize = length.map_or(0, |length| length.parse().expect("a length"));
        if let Some(body) = self.exactly(socket, n) {
            request.body = body;
            request.is_whole = true;
        } else {
            request.body = std::mem::take(&mut self.0);
        }
    }

    fn chunked(&mut self, socket: &mut TcpStream, request: &mut Request) -> Option<()> {
        loop {
            let size = self.until(socket, b"\r\n")?;
            let size = std::str::from_utf8(&size).expect("a chunk size");
            let size = usize::from_str_radix(size, 16).expect("a chunk size without extension");
            if size == 0 {
                break;
            }
            request.body.extend(self.exactly(socket, size)?);
            assert_eq!(self.exactly(socket, 2)?, b"\r\n");
        }
        loop {
            let line = self.until(socket, b"\r\n")?;
            if line.is_empty() {
                return Some(());
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            request
                .trailers
                .extend(fields_of(std::iter::once(line.as_str())));
        }
    }
}

pub fn fields_of<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect()
}
