//! An instance that speaks WebSocket: echoes whole messages (RFC 6455).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use http::HeaderValue;

pub fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let socket = socket.expect("a connection");
            std::thread::spawn(move || drop(serve(socket)));
        }
    });
    address
}

fn serve(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(
        head.contains("upgrade: websocket") && head.contains("connection: upgrade"),
        "{head}"
    );
    let accept = accept(&head);
    socket.write_all(
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .as_bytes(),
    )?;
    while echo_frame(&mut socket)? {}
    Ok(())
}

fn accept(head: &str) -> String {
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("sec-websocket-key: "));
    let key = HeaderValue::from_str(line.expect("a key")).expect("a key");
    let accept = nihilo_gateway::tunnel::accept_of(&key).expect("a proof");
    accept.to_str().expect("ASCII").to_owned()
}

/// Returns whether the peer goes on.
fn echo_frame(socket: &mut TcpStream) -> std::io::Result<bool> {
    let mut head = [0; 2];
    socket.read_exact(&mut head)?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut long = [0; 2];
            socket.read_exact(&mut long)?;
            u64::from(u16::from_be_bytes(long))
        }
        127 => {
            let mut long = [0; 8];
            socket.read_exact(&mut long)?;
            u64::from_be_bytes(long)
        }
        short => u64::from(short),
    };
    let mut mask = [0; 4];
    socket.read_exact(&mut mask)?;
    let mut payload = vec![0; usize::try_from(length).expect("a length")];
    socket.read_exact(&mut payload)?;
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    let opcode = if head[0] & 0x0f == 9 {
        10
    } else {
        head[0] & 0x0f
    };
    let mut frame = vec![head[0] & 0xf0 | opcode];
    match payload.len() {
        0..126 => frame.push(u8::try_from(payload.len()).expect("short")),
        126..65_536 => {
            frame.push(126);
            frame.extend(u16::try_from(payload.len()).expect("medium").to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    socket.write_all(&frame)?;
    Ok(opcode != 8)
}
