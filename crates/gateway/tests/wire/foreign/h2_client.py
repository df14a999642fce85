"""Many streams at once, bodies larger than a window, trailers and an extended CONNECT."""
import base64, os, socket

import h2.config, h2.connection, h2.events, h2.settings

sock = socket.create_connection((os.environ["HOST"], int(os.environ["PORT"])), timeout=20)
conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
conn.initiate_connection()
sock.sendall(conn.data_to_send())
status, bodies, ended, trailers = {}, {}, set(), {}


def step():
    data = sock.recv(65536)
    assert data, "the connection ended"
    for event in conn.receive_data(data):
        if isinstance(event, h2.events.ResponseReceived):
            status[event.stream_id] = dict(event.headers)[b":status"]
        elif isinstance(event, h2.events.TrailersReceived):
            trailers[event.stream_id] = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
            conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            ended.add(event.stream_id)
        assert not isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)), event
    sock.sendall(conn.data_to_send())


def head(method, host):
    return [(":method", method), (":scheme", "http"), (":path", "/"), (":authority", host)]


streams = []
for _ in range(100):
    stream = conn.get_next_available_stream_id()
    conn.send_headers(stream, head("GET", "echo.test"), end_stream=True)
    streams.append(stream)
sock.sendall(conn.data_to_send())
while not set(streams) <= ended:
    step()
assert all(status[s] == b"200" and bodies[s] == b"echo" for s in streams)

big = os.urandom(300_000)
stream = conn.get_next_available_stream_id()
conn.send_headers(stream, head("POST", "echo.test"))
at = 0
while at < len(big):
    n = min(conn.local_flow_control_window(stream), conn.max_outbound_frame_size, len(big) - at)
    if n == 0:
        step()
        continue
    conn.send_data(stream, big[at:at + n])
    sock.sendall(conn.data_to_send())
    at += n
conn.end_stream(stream)
sock.sendall(conn.data_to_send())
while stream not in ended:
    step()
assert bodies[stream] == big

stream = conn.get_next_available_stream_id()
conn.send_headers(stream, head("POST", "h2c.test"))
conn.send_data(stream, b"hello", end_stream=True)
sock.sendall(conn.data_to_send())
while stream not in ended:
    step()
assert bodies[stream] == b"hello" and trailers[stream][b"x-end"] == b"yes", trailers

assert conn.remote_settings.enable_connect_protocol == 1
stream = conn.get_next_available_stream_id()
fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/"),
          (":authority", "ws.test"), ("sec-websocket-version", "13")]
conn.send_headers(stream, fields)
mask = b"\x01\x02\x03\x04"
payload = bytes(b ^ mask[i % 4] for i, b in enumerate(b"hello"))
conn.send_data(stream, b"\x81\x85" + mask + payload)
sock.sendall(conn.data_to_send())
while bodies.get(stream) != b"\x81\x05hello":
    step()
assert status[stream] == b"200"
