"""TLS in front of the edge, over real sockets: run.py --edge BINARY."""

import argparse
import contextlib
import hashlib
import os
import random
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
# pylint: disable=wrong-import-position
from harness import Client, Edge, Origin, TIMEOUT_S, context, payload, readable, until, write_pair

BINARY = None


class TlsTest(unittest.TestCase):
    flags = ()

    def setUp(self):
        self.work = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"), prefix="tls-")
        self.certificates = os.path.join(self.work, "certificates")
        os.mkdir(self.certificates)
        write_pair(self.certificates, "default", ["default.test"])
        self.origin = Origin()
        self.addCleanup(self.origin.close)

    def start(self, *flags):
        edge = Edge(BINARY, self.origin, self.certificates, *self.flags, *flags)
        self.addCleanup(edge.stop)
        self.assertIsNone(edge.process.poll(), edge.stderr())
        return edge

    def failure(self, edge, reason):
        return edge.metric('mycelium_edge_tls_failures_total{reason="%s"}' % reason)

    def assert_serves(self, edge):
        client = Client(edge.tls_port)
        self.assertEqual(client.get()[0], 200)
        client.close()


class HandshakeTest(TlsTest):
    def test_the_name_chooses_the_certificate(self):
        write_pair(self.certificates, "exact", ["a.example.test", "B.example.test"])
        write_pair(self.certificates, "wild", ["*.example.test"], kind="2048")
        edge = self.start()
        for name, want in [("a.example.test", "exact"), ("b.EXAMPLE.test", "exact"),
                           ("c.example.test", "wild"), ("x.c.example.test", "default"),
                           ("example.test", "default"), ("other.test", "default"), (None, "default")]:
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                with self.subTest(name=name, version=version):
                    client = Client(edge.tls_port, name, using=context(least=version, most=version))
                    self.assertEqual(client.certificate(), want)
                    self.assertEqual(client.get()[0], 200)
                    client.close()

    def test_strict_names_refuse_what_no_certificate_is_for(self):
        edge = self.start("--tls_strict_sni")
        Client(edge.tls_port, "default.test").close()
        for name in ("other.test", None):
            with self.assertRaisesRegex(ssl.SSLError, "(?i)unrecognized.name"):
                Client(edge.tls_port, name)
        self.assertEqual(self.failure(edge, "unknown_name"), 2)

    def test_only_http_1_1_is_negotiated(self):
        edge = self.start()
        for offer, want in [(["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1"), (None, None)]:
            client = Client(edge.tls_port, using=context(offer))
            self.assertEqual(client.tls.selected_alpn_protocol(), want)
            self.assertEqual(client.get()[0], 200)
        for offer in (["h2"], ["http/1.0"], ["http/1.1x", "ttp/1.1"]):
            with self.assertRaisesRegex(ssl.SSLError, "(?i)no.application.protocol"):
                Client(edge.tls_port, using=context(offer))
        self.assertEqual(self.failure(edge, "protocol"), 3)

    def test_old_versions_and_weak_ciphers_are_refused(self):
        edge = self.start()
        old = context()
        old.minimum_version = ssl.TLSVersion.TLSv1_1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with self.assertRaises(ssl.SSLError):
            Client(edge.tls_port, using=old)
        weak = context(most=ssl.TLSVersion.TLSv1_2)
        weak.set_ciphers("AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
        with self.assertRaises(ssl.SSLError):
            Client(edge.tls_port, using=weak)
        self.assertEqual(self.failure(edge, "version"), 1)
        self.assertEqual(self.failure(edge, "cipher"), 1)

    def test_sessions_are_resumed_by_any_worker_and_across_a_reload(self):
        edge = self.start()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with self.subTest(version=version):
                using = context(least=version, most=version)
                first = Client(edge.tls_port, using=using)
                self.assertEqual(first.get()[0], 200)
                session = first.tls.session
                for _ in range(8):
                    client = Client(edge.tls_port, using=using, session=session)
                    self.assertTrue(client.tls.session_reused)
                    self.assertEqual(client.get()[0], 200)
                    client.close()
                reloads = edge.metric('mycelium_edge_tls_reloads_total{result="ok"}')
                write_pair(self.certificates, "default", ["default.test"])
                until(lambda: edge.metric('mycelium_edge_tls_reloads_total{result="ok"}') > reloads,
                      "a reload")
                client = Client(edge.tls_port, using=using, session=session)
                self.assertTrue(client.tls.session_reused)
        self.assertGreaterEqual(edge.metric("mycelium_edge_tls_resumed_total"), 18)

    def test_a_slow_handshake_ends_at_the_header_timeout(self):
        edge = self.start("--header_timeout_ms=400")
        silent = socket.create_connection(("127.0.0.1", edge.tls_port), TIMEOUT_S)
        slow = Client(edge.tls_port, handshake=False)
        with self.assertRaises(ssl.SSLWantReadError):
            slow.tls.do_handshake()
        hello = slow.outgoing.read()
        ended = False
        for byte in hello:
            try:
                slow.socket.sendall(bytes([byte]))
            except ConnectionError:
                ended = True
                break
            if readable(slow.socket, 0.02):
                ended = slow.socket.recv(1) == b""
                break
        self.assertTrue(ended)
        self.assertEqual(silent.recv(1), b"")
        until(lambda: self.failure(edge, "timeout") == 2, "two timeouts")
        self.assert_serves(edge)

    def test_a_client_that_leaves_in_the_handshake_is_forgotten(self):
        edge = self.start()
        for cut in (0, 1, 5, 100):
            client = Client(edge.tls_port, handshake=False)
            with self.assertRaises(ssl.SSLWantReadError):
                client.tls.do_handshake()
            client.socket.sendall(client.outgoing.read()[:cut])
            client.close()
        until(lambda: edge.metric("mycelium_edge_client_connections") == 1, "no client but this one")
        self.assert_serves(edge)

    def test_http_without_tls_is_told_so(self):
        edge = self.start()
        with socket.create_connection(("127.0.0.1", edge.tls_port), TIMEOUT_S) as plain:
            plain.sendall(b"GET /app/x HTTP/1.1\r\nHost: e\r\n\r\n")
            answer = plain.makefile("rb").read()
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer)
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertIn(b"Content-Length: %d\r\n" % len(body), head)
        self.assertEqual(self.failure(edge, "plain_http"), 1)

    def test_random_bytes_do_no_harm(self):
        edge = self.start("--header_timeout_ms=2000")
        chance = random.Random(1)
        hello = Client(edge.tls_port, handshake=False)
        with self.assertRaises(ssl.SSLWantReadError):
            hello.tls.do_handshake()
        hello = hello.outgoing.read()
        sockets = []
        for i in range(300):
            if i % 3 == 0:
                data = chance.randbytes(chance.randrange(1, 600))
            elif i % 3 == 1:
                data = bytearray(hello)
                for _ in range(chance.randrange(1, 8)):
                    data[chance.randrange(len(data))] = chance.randrange(256)
            else:
                data = b"\x16\x03\x01" + struct.pack(">H", chance.randrange(65536)) + chance.randbytes(200)
            client = socket.create_connection(("127.0.0.1", edge.tls_port), TIMEOUT_S)
            try:
                client.sendall(data)
                if i % 2:
                    client.shutdown(socket.SHUT_WR)
            except ConnectionError:
                pass
            sockets.append(client)
        self.assert_serves(edge)
        for client in sockets:
            client.close()
        until(lambda: edge.metric("mycelium_edge_client_connections") == 1, "no client but this one")
        self.assertIsNone(edge.process.poll(), edge.stderr())

    def test_random_bytes_after_the_handshake_do_no_harm(self):
        edge = self.start()
        chance = random.Random(2)
        for i in range(60):
            client = Client(edge.tls_port)
            data = chance.randbytes(chance.randrange(1, 400))
            client.socket.sendall(data if i % 2 else b"\x17\x03\x03" + struct.pack(">H", len(data)) + data)
            client.close()
        until(lambda: edge.metric("mycelium_edge_client_connections") == 1, "no client but this one")
        self.assert_serves(edge)

    def test_renegotiation_is_refused(self):
        edge = self.start()
        result = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{edge.tls_port}", "-tls1_2"], input=b"R\n",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT_S, check=False)
        self.assertIn(b"no renegotiation", result.stdout)
        self.assert_serves(edge)

    def test_a_flood_of_key_updates_ends_the_connection(self):
        edge = self.start("--workers=1")
        flood = subprocess.Popen(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{edge.tls_port}", "-tls1_3"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.addCleanup(flood.stdout.close)
        until(lambda: edge.metric("mycelium_edge_tls_handshakes_total") == 1, "the handshake")
        try:
            for _ in range(2000):
                flood.stdin.write(b"K\n")
                flood.stdin.flush()
                time.sleep(0.001)
        except BrokenPipeError:
            pass
        # Its input is still open: it ends because the edge has ended it.
        flood.wait(TIMEOUT_S)
        with contextlib.suppress(BrokenPipeError):
            flood.stdin.close()
        self.assert_serves(edge)

    def test_clients_show_a_certificate_where_one_is_asked_for(self):
        write_pair(self.work, "authority", [])
        write_pair(self.work, "good", [], authority=f"{self.work}/authority")
        write_pair(self.work, "stranger", [])
        edge = self.start(f"--tls_client_ca={self.work}/authority.crt")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            using = context(least=version, most=version)
            using.load_cert_chain(f"{self.work}/good.crt", f"{self.work}/good.key")
            self.assertEqual(Client(edge.tls_port, using=using).get()[0], 200)
            for name in ("stranger", None):
                using = context(least=version, most=version)
                if name is not None:
                    using.load_cert_chain(f"{self.work}/{name}.crt", f"{self.work}/{name}.key")
                with self.assertRaises(ssl.SSLError):
                    Client(edge.tls_port, using=using).get()
        self.assertEqual(self.failure(edge, "client_certificate"), 4)


class StreamTest(TlsTest):
    def test_a_request_says_how_it_came(self):
        edge = self.start()
        client = Client(edge.tls_port, "default.test")
        _, _, head = client.get("/app/head", "X-Forwarded-Proto: http\r\n")
        self.assertIn(b"\r\nX-Forwarded-Proto: https\r\n", head)
        self.assertIn(f"\r\nX-Forwarded-Port: {edge.tls_port}\r\n".encode(), head)
        self.assertNotIn(b"X-Forwarded-Proto: http\r\n", head)
        _, redirect, _ = client.get("/app")
        self.assertIn("\r\nLocation: /app/\r\n", redirect)
        with socket.create_connection(("127.0.0.1", edge.port), TIMEOUT_S) as plain:
            plain.sendall(b"GET /app/head HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n")
            head = plain.makefile("rb").read()
        self.assertIn(b"\r\nX-Forwarded-Proto: http\r\n", head)
        self.assertIn(f"\r\nX-Forwarded-Port: {edge.port}\r\n".encode(), head)
        lines = until(lambda: len(edge.lines()) == 3 and edge.lines(), "three lines")
        self.assertEqual(sorted((line.get("tls"), line.get("sni")) for line in lines if "tls" in line),
                         [("TLSv1.3", "default.test")] * 2)
        self.assertEqual(edge.metric("mycelium_edge_tls_handshakes_total"), 1)

    def test_records_may_come_byte_by_byte(self):
        edge = self.start()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client = Client(edge.tls_port, using=context(least=version, most=version), chunk=1)
            for _ in range(3):
                self.assertEqual(client.get()[0], 200)
            body = payload(3000)
            client.write(b"POST /app/sha HTTP/1.1\r\nHost: e\r\nContent-Length: 3000\r\n\r\n" + body)
            self.assertEqual(client.response()[2].decode(), hashlib.sha256(body).hexdigest())

    def test_many_requests_may_share_a_record_and_one_may_span_many(self):
        edge = self.start()
        client = Client(edge.tls_port)
        one = b"GET /app/bytes/100 HTTP/1.1\r\nHost: e\r\n\r\n"
        client.write(one * 100)
        data = b""
        while data.count(b"HTTP/1.1 200 OK") < 100 or not data.endswith(payload(100)):
            data += client.read()
        for byte in one:
            client.write(bytes([byte]))
        self.assertEqual(client.response()[2], payload(100))

    def test_bodies_arrive_as_they_were_sent(self):
        edge = self.start()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client = Client(edge.tls_port, using=context(least=version, most=version))
            for size in (0, 1, 100, 15900, 16384, 16385, 50000, 64512, 65536, 66000, 1 << 20, 8_000_003):
                with self.subTest(version=version, size=size):
                    self.assertEqual(client.get(f"/app/bytes/{size}")[2], payload(size))
                    body = payload(size)
                    client.write(b"POST /app/sha HTTP/1.1\r\nHost: e\r\nContent-Length: %d\r\n\r\n" % size)
                    client.write(body)
                    self.assertEqual(client.response()[2].decode(), hashlib.sha256(body).hexdigest())
                    client.write(b"POST /app/sha HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n")
                    for at in range(0, size, 30000):
                        piece = body[at:at + 30000]
                        client.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
                    client.write(b"0\r\n\r\n")
                    self.assertEqual(client.response()[2].decode(), hashlib.sha256(body).hexdigest())

    def test_a_client_that_does_not_read_costs_bounded_memory(self):
        edge = self.start("--workers=1")
        self.assert_serves(edge)
        before = edge.rss_kib()
        client = Client(edge.tls_port)
        client.write(b"GET /app/bytes/200000000 HTTP/1.1\r\nHost: e\r\n\r\n")
        time.sleep(1)
        self.assertLess(edge.rss_kib() - before, 4096)
        self.assert_serves(edge)

    def test_orderly_ends_say_close_notify(self):
        edge = self.start("--idle_timeout_ms=200")
        client = Client(edge.tls_port)
        self.assertEqual(client.get(fields="Connection: close\r\n")[0], 200)
        self.assertEqual(client.read_end(), b"")
        idle = Client(edge.tls_port)
        self.assertEqual(idle.get()[0], 200)
        self.assertEqual(idle.read_end(), b"")
        bad = Client(edge.tls_port)
        bad.write(b"BAD\r\n\r\n")
        self.assertEqual(bad.response()[0], 400)
        self.assertEqual(bad.read_end(), b"")

    def test_responses_that_are_cut_short_look_like_it(self):
        edge = self.start()
        client = Client(edge.tls_port)
        client.write(b"GET /app/cut HTTP/1.1\r\nHost: e\r\n\r\n")
        with self.assertRaisesRegex(ssl.SSLError, "(?i)unexpected.eof"):
            client.read_end()
        old = Client(edge.tls_port)
        old.write(b"GET /app/cut-close HTTP/1.0\r\nHost: e\r\n\r\n")
        with self.assertRaises(ConnectionResetError):
            old.read_end()

    def test_a_client_that_has_sent_all_gets_its_answer(self):
        edge = self.start()
        request = b"GET /app/wait HTTP/1.1\r\nHost: e\r\n\r\n"
        notified = Client(edge.tls_port)
        notified.write(request)
        notified.send_end()
        # OpenSSL reads no more on that side; the bytes must have come, though.
        before = len(notified.raw)
        while not notified.ended:
            notified.fill()
        self.assertGreater(len(notified.raw) - before, 100)
        cut = Client(edge.tls_port)
        cut.write(request)
        cut.socket.shutdown(socket.SHUT_WR)
        self.assertEqual(cut.response()[0], 200)

    def test_a_request_that_is_cut_off_is_not_taken_for_whole(self):
        edge = self.start()
        client = Client(edge.tls_port)
        client.write(b"POST /app/sha HTTP/1.1\r\nHost: e\r\nContent-Length: 10\r\n\r\nhalf")
        active = 'mycelium_edge_upstream_connections{mycelium_app="app",state="active"}'
        until(lambda: edge.metric(active) >= 1, "the request to be sent on")
        client.socket.shutdown(socket.SHUT_WR)
        line = until(lambda: [x for x in edge.lines() if x["path"] == "/app/sha"], "its line")[0]
        self.assertEqual((line["status"], line["end"]), (499, "client.disconnected"))

    def test_tunnels_carry_bytes_both_ways(self):
        edge = self.start()
        client = Client(edge.tls_port)
        client.write(b"GET /app/echo HTTP/1.1\r\nHost: e\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.read()
        self.assertTrue(data.startswith(b"HTTP/1.1 101 "))
        data = data.partition(b"\r\n\r\n")[2]
        sent = payload(2_000_000)
        writer = threading.Thread(target=lambda: [client.socket.sendall(x) for x in wire])
        wire = []
        for at in range(0, len(sent), 100_000):
            client.tls.write(sent[at:at + 100_000])
            wire.append(client.outgoing.read())
        writer.start()
        parts = [data]
        got = len(data)
        while got < len(sent):
            piece = client.read()
            self.assertTrue(piece)
            parts.append(piece)
            got += len(piece)
        writer.join()
        self.assertEqual(b"".join(parts), sent)
        client.send_end()
        until(lambda: getattr(self.origin, "tunnel_end", None), "the origin to see the end")
        self.assertEqual(self.origin.tunnel_end, "end")

    def test_a_proxy_header_comes_before_the_handshake(self):
        edge = self.start("--proxy_protocol_from=127.0.0.1")
        header = b"PROXY TCP4 192.0.2.7 127.0.0.1 5000 443\r\n"
        for together in (False, True):
            client = Client(edge.tls_port, handshake=False)
            if together:
                with self.assertRaises(ssl.SSLWantReadError):
                    client.tls.do_handshake()
                client.socket.sendall(header + client.outgoing.read())
            else:
                client.socket.sendall(header)
            client.handshake()
            self.assertIn(b"\r\nX-Forwarded-For: 192.0.2.7\r\n", client.get("/app/head")[2])
            client.close()
        client = Client(edge.tls_port, handshake=False)
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            client.handshake()

    def test_an_upgrade_hands_over_the_port(self):
        pid_file = os.path.join(self.work, "pid")
        edge = self.start(f"--pid_file={pid_file}")
        idle = Client(edge.tls_port)
        self.assertEqual(idle.get()[0], 200)
        stop = threading.Event()
        failures = []

        def renew():
            try:
                while not stop.is_set():
                    client = Client(edge.tls_port)
                    assert client.get()[0] == 200
                    client.close()
            except Exception as error:  # pylint: disable=broad-except
                failures.append(repr(error))

        def serving():
            with open(pid_file, encoding="ascii") as file:
                return int(file.read())

        thread = threading.Thread(target=renew)
        thread.start()
        edge.process.send_signal(signal.SIGHUP)
        successor = until(lambda: serving() != edge.process.pid and serving(), "the successor")
        self.addCleanup(lambda: os.kill(successor, signal.SIGKILL))
        self.assertEqual(edge.process.wait(TIMEOUT_S), 0)
        stop.set()
        thread.join()
        self.assertEqual(failures, [])
        self.assertEqual(idle.read_end(), b"")
        self.assert_serves(edge)

    def test_draining_ends_idle_connections_in_order(self):
        edge = self.start()
        idle, busy = Client(edge.tls_port), Client(edge.tls_port)
        self.assertEqual(idle.get()[0], 200)
        busy.write(b"GET /app/wait HTTP/1.1\r\nHost: e\r\n\r\n")
        until(lambda: edge.metric('http_server_active_requests{mycelium_app="app"}') == 1, "the request")
        edge.process.send_signal(signal.SIGTERM)
        self.assertEqual(idle.read_end(), b"")
        self.assertEqual(busy.response()[0], 200)
        self.assertEqual(busy.read_end(), b"")
        self.assertEqual(edge.process.wait(TIMEOUT_S), 0)


class ReloadTest(TlsTest):
    def test_new_connections_get_new_certificates_and_none_is_dropped(self):
        write_pair(self.certificates, "a", ["a.test"])
        edge = self.start()
        stop = threading.Event()
        done = [0, 0]
        failures = []

        def keep(index):
            try:
                client = Client(edge.tls_port, "a.test")
                while not stop.is_set():
                    assert client.get()[0] == 200
                    done[0] += 1
            except Exception as error:  # pylint: disable=broad-except
                failures.append(("kept", index, repr(error)))

        def renew(index):
            try:
                while not stop.is_set():
                    client = Client(edge.tls_port, "a.test")
                    assert client.get()[0] == 200
                    client.close()
                    done[1] += 1
            except Exception as error:  # pylint: disable=broad-except
                failures.append(("new", index, repr(error)))

        threads = [threading.Thread(target=keep, args=(i,)) for i in range(20)]
        threads += [threading.Thread(target=renew, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        serials = set()
        for i in range(4):
            before = edge.metric('mycelium_edge_tls_reloads_total{result="ok"}')
            write_pair(self.certificates, "a", ["a.test"])
            until(lambda: edge.metric('mycelium_edge_tls_reloads_total{result="ok"}') > before, "a reload")
            client = Client(edge.tls_port, "a.test")
            serials.add(client.tls.getpeercert(True))
            client.close()
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertEqual(len(serials), 4)
        self.assertGreater(min(done), 10)
        self.assertEqual(edge.metric('mycelium_edge_tls_reloads_total{result="failed"}'), 0)

    def test_a_broken_pair_leaves_the_old_certificates(self):
        write_pair(self.certificates, "a", ["a.test"])
        edge = self.start()
        name = 'mycelium_edge_tls_reloads_total{result="failed"}'
        good = open(f"{self.certificates}/a.crt", "rb").read()

        def write(content):
            with open(f"{self.certificates}/a.crt", "wb") as file:
                file.write(content)

        other = open(f"{self.certificates}/default.crt", "rb").read()
        for i, (content, reason) in enumerate([
                (b"junk", "a.crt: no PEM certificate in it"), (good[:200], "a.crt: "),
                (other, "a.key: it is not the key of the certificate in a.crt")]):
            write(content)
            until(lambda want=i + 1: edge.metric(name) == want, "a failed reload")
            self.assertIn(f"{self.certificates}/{reason}", edge.stderr())
            client = Client(edge.tls_port, "a.test")
            self.assertEqual(client.certificate(), "a")
            client.close()
        os.rename(self.certificates, self.certificates + ".away")
        until(lambda: edge.metric(name) == 4, "a failed reload")
        self.assertIn(self.certificates, edge.stderr().splitlines()[-1])
        self.assert_serves(edge)
        os.rename(self.certificates + ".away", self.certificates)
        write(good)
        until(lambda: edge.metric('mycelium_edge_tls_reloads_total{result="ok"}') >= 1, "a reload")

    def test_a_pair_can_be_added_and_removed(self):
        edge = self.start()
        write_pair(self.certificates, "late", ["late.test"])
        until(lambda: Client(edge.tls_port, "late.test").certificate() == "late", "the new certificate")
        os.remove(f"{self.certificates}/late.crt")
        os.remove(f"{self.certificates}/late.key")
        until(lambda: Client(edge.tls_port, "late.test").certificate() == "default", "the default one")


class StartTest(TlsTest):
    def refused(self, *flags):
        edge = Edge(BINARY, self.origin, self.certificates, *flags)
        self.addCleanup(edge.stop)
        self.assertEqual(edge.process.wait(TIMEOUT_S), 1)
        return edge.stderr()

    def test_certificates_that_cannot_be_used_are_an_error(self):
        with open(f"{self.certificates}/a.crt", "w", encoding="ascii") as file:
            file.write("junk")
        self.assertIn("a.crt: there is no a.key beside it", self.refused())
        os.rename(f"{self.certificates}/a.crt", f"{self.certificates}/a.key")
        self.assertIn("a.key: there is no a.crt beside it", self.refused())
        os.remove(f"{self.certificates}/a.key")
        write_pair(self.certificates, "small", ["small.test"], kind="1024")
        self.assertIn("small.crt: ee key too small", self.refused())
        os.remove(f"{self.certificates}/small.crt")
        os.remove(f"{self.certificates}/small.key")
        subprocess.run(["openssl", "ec", "-aes128", "-passout", "pass:x", "-in", f"{self.certificates}/default.key",
                        "-out", f"{self.certificates}/default.key"], check=True, stderr=subprocess.DEVNULL)
        self.assertIn("default.key: it is encrypted", self.refused())
        os.remove(f"{self.certificates}/default.crt")
        os.remove(f"{self.certificates}/default.key")
        self.assertIn(f"{self.certificates}: no certificate", self.refused())
        os.rmdir(self.certificates)
        self.assertIn(self.certificates, self.refused())

    def test_the_flags_need_each_other(self):
        self.assertIn("--tls_listen and --tls_certificates need each other", self.refused("--tls_listen="))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--edge", required=True)
    options, rest = parser.parse_known_args()
    BINARY = options.edge
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2, warnings="ignore")
