"""A hundred echoes, a message of 4 MiB, a ping, a close handshake."""
import os
import socket

from websockets.sync.client import connect

sock = socket.create_connection((os.environ["HOST"], int(os.environ["PORT"])), timeout=20)
with connect("ws://ws.test/chat", sock=sock, max_size=None, compression=None) as ws:
    for n in range(100):
        ws.send(f"message {n}")
        assert ws.recv(timeout=20) == f"message {n}"
    big = os.urandom(4 * 1024 * 1024)
    ws.send(big)
    assert ws.recv(timeout=20) == big
    assert ws.ping().wait(20)
assert ws.close_code == 1000, ws.close_code
