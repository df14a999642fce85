"""Unary calls and a stream of 100 messages; statuses that the gateway makes."""
import os

import grpc

target = f"{os.environ['HOST']}:{os.environ['PORT']}"
same = lambda data: data


def channel(host):
    return grpc.insecure_channel(target, options=[("grpc.default_authority", host)])


with channel("h2c.test") as ch:
    unary = ch.unary_unary("/test.Echo/Unary", request_serializer=same, response_deserializer=same)
    assert unary(b"hello", timeout=20) == b"hello"
    big = os.urandom(3 * 1024 * 1024)
    assert unary(big, timeout=20) == big
    stream = ch.stream_stream("/test.Echo/Stream", request_serializer=same,
                              response_deserializer=same)
    sent = [str(n).encode() for n in range(100)]
    assert list(stream(iter(sent), timeout=20)) == sent

for host, code in [("unknown.test", grpc.StatusCode.UNIMPLEMENTED),
                   ("echo.test", grpc.StatusCode.UNIMPLEMENTED),
                   ("asleep.test", grpc.StatusCode.DEADLINE_EXCEEDED)]:
    with channel(host) as ch:
        call = ch.unary_unary("/test.Echo/Unary", request_serializer=same,
                              response_deserializer=same)
        try:
            call(b"x", timeout=20)
            raise AssertionError(f"{host} answered")
        except grpc.RpcError as error:
            want = {code}
            if host == "asleep.test":
                want.add(grpc.StatusCode.UNIMPLEMENTED)
            assert error.code() in want, (host, error)
