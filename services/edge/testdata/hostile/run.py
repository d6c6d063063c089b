"""Clients and origins that misbehave, over real sockets: run.py --edge BINARY."""

import argparse
import os
import signal
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tls"))
# pylint: disable=wrong-import-position
from harness import Client, Edge, TIMEOUT_S, readable, until, write_pair

BINARY = None


class ScriptedOrigin:
    """Calls serve(origin, connection) for each connection, on its own thread."""

    def __init__(self, serve, backlog=64):
        self.serve = serve
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.port = self.listener.getsockname()[1]
        self.connections = []

    def start(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection):
        try:
            self.serve(self, connection)
        except OSError:
            pass

    def close(self):
        self.listener.close()
        for connection in self.connections:
            connection.close()


def read_head(connection):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def whole(body):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def slow_client(port):
    """Takes small segments, so that little fits into the buffers before it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    client.settimeout(TIMEOUT_S)
    client.connect(("127.0.0.1", port))
    return client


def read_all(client):
    data = b""
    try:
        while piece := client.recv(65536):
            data += piece
    except ConnectionError:
        pass
    return data


def drain(client):
    """What is there, and what follows without a pause."""
    data = b""
    while readable(client, 0.3):
        piece = client.recv(65536)
        if not piece:
            break
        data += piece
    return data


def get(port, path="/app/x", timeout=TIMEOUT_S):
    with socket.create_connection(("127.0.0.1", port), timeout) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n".encode())
        return read_all(client)


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


UPGRADE = b"GET /app/x HTTP/1.1\r\nHost: e\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nhello"


def active(edge):
    """Connections to origins that are in use."""
    return edge.metric('mycelium_edge_upstream_connections{mycelium_app="app",state="active"}')


class HostileTest(unittest.TestCase):
    def setUp(self):
        self.work = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"), prefix="hostile-")
        self.certificates = os.path.join(self.work, "certificates")
        os.mkdir(self.certificates)
        write_pair(self.certificates, "default", ["default.test"])

    def start(self, origin, *flags):
        self.addCleanup(origin.close)
        edge = Edge(BINARY, origin, self.certificates, "--workers=1", *flags)
        self.addCleanup(edge.stop)
        self.assertIsNone(edge.process.poll(), edge.stderr())
        return edge

    def test_an_interim_response_that_is_not_read_never_carries_bytes_of_others(self):
        secret = b"the secret of someone else " * 2000
        told = threading.Event()

        def serve(_, connection):
            while head := read_head(connection):
                if b"/secret" in head:
                    connection.sendall(whole(secret))
                    continue
                early = (b"HTTP/1.1 103 Early Hints\r\nLink: " + b"a" * 8000 + b"\r\nX-B: " +
                         b"b" * 8000 + b"\r\n\r\n")
                connection.sendall(early * 30)
                told.set()

        edge = self.start(ScriptedOrigin(serve).start())
        client = slow_client(edge.port)
        client.sendall(b"POST /app/x HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n")
        told.wait(TIMEOUT_S)
        time.sleep(0.3)
        client.sendall(b"this is no chunk\r\n")
        until(lambda: active(edge) == 0, "the attempt to end")
        for _ in range(3):
            self.assertTrue(secret in get(edge.port, "/app/secret"))
        self.assertFalse(b"secret" in read_all(client))
        client.close()

    def test_a_response_that_came_with_the_connection_is_passed_on(self):
        origin = ScriptedOrigin(None, backlog=0)
        edge = self.start(origin, "--connect_timeout_ms=15000", "--response_header_timeout_ms=5000")
        # With its queue full the origin is only connected to by a later try.
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(origin.listener.getsockname())
            fillers.append(filler)
        time.sleep(0.1)
        with socket.create_connection(("127.0.0.1", edge.port), TIMEOUT_S) as client:
            client.sendall(b"GET /app/x HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n")
            until(lambda: active(edge) == 1, "the edge to connect")
            names = {filler.getsockname() for filler in fillers}
            edge.process.send_signal(signal.SIGSTOP)
            try:
                while True:
                    connection, peer = origin.listener.accept()
                    origin.connections.append(connection)
                    if peer not in names:
                        break
                connection.sendall(whole(b"early"))
                time.sleep(0.1)
            finally:
                edge.process.send_signal(signal.SIGCONT)
            self.assertTrue(read_all(client).endswith(b"early"))
        for filler in fillers:
            filler.close()

    def test_bytes_behind_a_response_are_nobodys_response(self):
        stray = threading.Event()
        strayed = threading.Event()
        size = 0

        def serve(_, connection):
            while head := read_head(connection):
                if b"/long" not in head:
                    connection.sendall(whole(b"right"))
                    continue
                body = b"1\r\nx\r\n" + b"%x\r\n" % size + b"y" * size + b"\r\n0\r\n\r\n"
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
                stray.wait(TIMEOUT_S)
                connection.sendall(whole(b"wrong"))
                strayed.set()

        edge = self.start(ScriptedOrigin(serve).start())
        for size in range(20_000, 300_000, 20_000):
            with self.subTest(size=size):
                stray.clear()
                strayed.clear()
                client = slow_client(edge.port)
                client.sendall(b"GET /app/long HTTP/1.1\r\nHost: e\r\n\r\n")
                time.sleep(0.1)
                # The edge sees in one look that the client reads and that the
                # origin has sent more.
                edge.process.send_signal(signal.SIGSTOP)
                data = drain(client)
                stray.set()
                strayed.wait(TIMEOUT_S)
                edge.process.send_signal(signal.SIGCONT)
                while not data.endswith(b"\r\n0\r\n\r\n"):
                    piece = client.recv(65536)
                    self.assertTrue(piece)
                    data += piece
                self.assertTrue(get(edge.port).endswith(b"right"))
                client.close()

    def test_a_tunnel_ends_when_a_side_that_was_half_closed_is_reset(self):
        half_closed = threading.Event()
        go = threading.Event()

        def serve(origin, connection):
            read_head(connection)
            connection.sendall(UPGRADED)
            if origin.resets:
                connection.shutdown(socket.SHUT_WR)
                go.wait(TIMEOUT_S)
                reset(connection)
                return
            self.assertEqual(connection.recv(1), b"")
            half_closed.set()
            go.wait(TIMEOUT_S)

        origin = ScriptedOrigin(serve)
        edge = self.start(origin.start())
        for origin.resets in (False, True):
            with self.subTest(origin_resets=origin.resets):
                half_closed.clear()
                go.clear()
                client = socket.create_connection(("127.0.0.1", edge.port), TIMEOUT_S)
                client.sendall(UPGRADE)
                data = b""
                while not data.endswith(b"hello"):
                    data += client.recv(4096)
                if origin.resets:
                    self.assertEqual(client.recv(1), b"")
                    go.set()
                else:
                    client.shutdown(socket.SHUT_WR)
                    half_closed.wait(TIMEOUT_S)
                    reset(client)
                until(lambda: active(edge) == 0, "the tunnel to end")
                go.set()
                client.close()

    def test_a_tunnel_that_its_origin_resets_does_not_end_in_order_over_tls(self):
        def serve(_, connection):
            read_head(connection)
            connection.sendall(UPGRADED)
            connection.recv(1)
            reset(connection)

        edge = self.start(ScriptedOrigin(serve).start())
        client = Client(edge.tls_port)
        client.write(UPGRADE)
        data = b""
        while not data.endswith(b"hello"):
            data += client.read()
        client.write(b"x")
        with self.assertRaisesRegex(ssl.SSLError, "(?i)eof"):
            client.read()
        client.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--edge", required=True)
    options, rest = parser.parse_known_args()
    BINARY = options.edge
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2, warnings="ignore")
