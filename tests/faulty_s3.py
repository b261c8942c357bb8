"""An S3 server on loopback, and a proxy before it that fails in the ways that storages fail."""

from __future__ import annotations

import http.client
import http.server
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Literal
from urllib.parse import parse_qs, urlsplit

Kind = Literal["GET", "HEAD", "LIST", "PUT", "POST", "DELETE"]
# slow_down: 503. internal_error: 500. reset: the connection, before the server hears of it.
# lost_reply: the server did it, the connection is reset. cut: half of the body, then the end.
Fault = Literal["slow_down", "internal_error", "reset", "lost_reply", "cut"]
Choose = Callable[[Kind, str], Fault | None]

FAULTS: dict[Kind, tuple[Fault, ...]] = {
    "GET": ("slow_down", "internal_error", "reset", "lost_reply", "cut"),
    "HEAD": ("slow_down", "internal_error", "reset"),
    "LIST": ("slow_down", "internal_error", "reset", "cut"),
    "PUT": ("slow_down", "internal_error", "reset", "lost_reply"),
}
_ERRORS: dict[Fault, tuple[int, str, str]] = {
    "slow_down": (503, "SlowDown", "Please reduce your request rate."),
    "internal_error": (500, "InternalError", "We encountered an internal error."),
}
# Of a PUT, or of the end of an upload in parts: compared as the server does it, passed over, or
# refused as something that is not implemented.
Conditions = Literal["compared", "ignored", "refused"]
_CONDITIONS = ("if-match", "if-none-match")
# Of one connection only, or of a body that the proxy has read whole already.
_NOT_FORWARDED = ("connection", "transfer-encoding", "content-length", "keep-alive", "expect")


def at_random(seed: int, share: float, most_in_a_row: int) -> Choose:
    """Every kind of fault for a share of the requests, but only so many in a row for one object."""
    generator = random.Random(seed)
    in_a_row: Counter[tuple[Kind, str]] = Counter()
    kinds = {kind: cycle(generator.sample(faults, len(faults))) for kind, faults in FAULTS.items()}

    def choose(kind: Kind, path: str) -> Fault | None:
        fails = generator.random() < share and in_a_row[kind, path] < most_in_a_row
        if not fails or kind not in FAULTS:
            in_a_row[kind, path] = 0
            return None
        in_a_row[kind, path] += 1
        return next(kinds[kind])

    return choose


class FaultyProxy:
    """Passes requests on to a server, or fails as it is told to.

    Attributes:
        choose: the fault of a request, or None; called for one request at a time.
        injected: how often, by kind of request and fault.
        requests: passed on, by kind.
        conditions: what becomes of those of writing.
        conditional: writes that had one.
    """

    def __init__(
        self, server: tuple[str, int], choose: Choose, conditions: Conditions = "compared"
    ) -> None:
        self.server = server
        self.choose = choose
        self.conditions = conditions
        self.conditional = 0
        self.injected: Counter[tuple[Kind, Fault]] = Counter()
        self.requests: Counter[Kind] = Counter()
        self.lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run it on a free port; gives its URL."""
        handler = type("Handler", (_Handler,), {"proxy": self})
        httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        httpd.daemon_threads = True
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_address[1]}"
        finally:
            httpd.shutdown()
            httpd.server_close()
            thread.join()

    def fault(self, kind: Kind, path: str) -> Fault | None:
        """Decide and count."""
        with self.lock:
            self.requests[kind] += 1
            fault = self.choose(kind, path)
            if fault is not None:
                self.injected[kind, fault] += 1
            return fault


class _Handler(http.server.BaseHTTPRequestHandler):
    proxy: FaultyProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        body = self._body()
        url = urlsplit(self.path)
        kind: Kind = self.command  # type: ignore[assignment]
        if kind == "GET" and "list-type" in parse_qs(url.query):
            kind = "LIST"
        fault = self.proxy.fault(kind, url.path)
        if fault in _ERRORS:
            status, code, message = _ERRORS[fault]
            text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            self._answer(status, [("Content-Type", "application/xml")], text.encode())
        elif self._is_conditional() and self.proxy.conditions == "refused":
            text = "<Error><Code>NotImplemented</Code><Message>A header</Message></Error>"
            self._answer(501, [("Content-Type", "application/xml")], text.encode())
        elif fault == "reset":
            self._reset()
        else:
            self._pass_on(body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815 (http.server's names)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            """Trailers."""
        return body

    def _is_conditional(self) -> bool:
        has_one = any(name in self.headers for name in _CONDITIONS)
        if not has_one or self.command not in ("PUT", "POST"):
            return False
        with self.proxy.lock:
            self.proxy.conditional += 1
        return True

    def _pass_on(self, body: bytes, fault: Fault | None) -> None:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _NOT_FORWARDED}
        if self.proxy.conditions == "ignored" and self.command in ("PUT", "POST"):
            headers = {k: v for k, v in headers.items() if k.lower() not in _CONDITIONS}
        connection = http.client.HTTPConnection(*self.proxy.server)
        connection.request(
            self.command, self.path, body, headers | {"Content-Length": str(len(body))}
        )
        response = connection.getresponse()
        data = response.read()
        connection.close()
        if fault == "lost_reply":
            self._reset()
            return
        kept = [(k, v) for k, v in response.getheaders() if k.lower() not in _NOT_FORWARDED]
        length = int(response.getheader("Content-Length") or len(data))
        self._answer(response.status, kept, data, length, cut=fault == "cut")

    def _answer(
        self,
        status: int,
        headers: list[tuple[str, str]],
        data: bytes,
        length: int | None = None,
        cut: bool = False,
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True

    def _reset(self) -> None:
        # No lingering: the other side sees a reset, not an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        # http.server flushes these when it is done.
        self.wfile = self.rfile = _Closed()  # type: ignore[assignment]


class _Closed:
    closed = True

    def close(self) -> None:
        """It is."""

    def flush(self) -> None:
        """There is nothing."""
