"""An edge with TLS, an origin, certificates, and a client that sees each byte."""

import hashlib
import json
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time

TIMEOUT_S = 20


def until(condition, what, timeout=TIMEOUT_S):
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"timed out: {what}")
        time.sleep(0.005)


def payload(size):
    """Bytes that differ along their whole length."""
    block = hashlib.sha256(b"payload").digest() * 32
    return (b"".join(i.to_bytes(4, "big") + block[:1020] for i in range(size // 1024 + 1)))[:size]


def write_pair(directory, name, hosts, kind="ec", days=30, authority=None):
    """Makes directory/name.crt and .key, each replaced in one step."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(directory)) as work:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"] if kind == "ec" else [
            "-newkey", f"rsa:{kind}"]
        names = ",".join(f"DNS:{host}" for host in hosts)
        command = ["openssl", "req", "-x509", *key, "-nodes", "-days", str(days), "-subj",
                   f"/CN={name}", "-keyout", f"{work}/key", "-out", f"{work}/crt"]
        if names:
            command += ["-addext", f"subjectAltName={names}"]
        if authority is not None:
            command += ["-CA", f"{authority}.crt", "-CAkey", f"{authority}.key"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        os.replace(f"{work}/key", f"{directory}/{name}.key")
        os.replace(f"{work}/crt", f"{directory}/{name}.crt")


class Origin:
    """Answers by path: /bytes/N, /sha (of the request's body), /head (the
    request's head), /cut (less than announced), /cut-close (a reset in a body
    that ends with the connection), /echo (a tunnel), /wait (after 300 ms)."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.connections = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = connection.makefile("rb")
        try:
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = stream.readline()
                    if not line:
                        return
                    head += line
                length = re.search(rb"content-length: *(\d+)", head, re.I)
                body = stream.read(int(length.group(1))) if length else b""
                if re.search(rb"transfer-encoding: *chunked", head, re.I):
                    while size := int(stream.readline(), 16):
                        body += stream.read(size)
                        stream.readline()
                    stream.readline()
                path = head.split(b" ")[1].decode()
                answer = b"ok"
                if path.startswith("/bytes/"):
                    answer = payload(int(path[7:]))
                elif path == "/sha":
                    answer = hashlib.sha256(body).hexdigest().encode()
                elif path == "/head":
                    answer = head
                elif path == "/wait":
                    time.sleep(0.3)
                elif path == "/cut":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
                    return
                elif path == "/cut-close":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
                    return
                elif path == "/echo":
                    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n"
                                       b"Connection: Upgrade\r\n\r\n")
                    while data := connection.recv(65536):
                        connection.sendall(data)
                    self.tunnel_end = "end"
                    return
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
        except ConnectionError:
            if path == "/echo":
                self.tunnel_end = "reset"
        finally:
            stream.close()
            connection.close()

    def close(self):
        self.listener.close()


class Edge:
    def __init__(self, binary, origin, certificates, *flags, environment=None):
        self.directory = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"), prefix="edge-")
        self.log = os.path.join(self.directory, "access.log")
        self.errors = os.path.join(self.directory, "stderr")
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [binary, "--listen=127.0.0.1:0", f"--port_file={self.directory}/port",
                 "--tls_listen=127.0.0.1:0", f"--tls_port_file={self.directory}/tls_port",
                 f"--tls_certificates={certificates}", "--workers=2",
                 f"--static_endpoints=app=http://127.0.0.1:{origin.port}",
                 f"--access_log={self.log}", *flags], stderr=errors, env=environment)
        until(lambda: self.process.poll() is not None or os.path.exists(f"{self.directory}/tls_port"),
              "the edge to listen")
        if self.process.poll() is None:
            self.port = self._port("port")
            self.tls_port = self._port("tls_port")

    def _port(self, name):
        with open(os.path.join(self.directory, name), encoding="ascii") as file:
            return int(file.read().strip().rsplit(":", 1)[1])

    def stderr(self):
        with open(self.errors, encoding="utf-8") as file:
            return file.read()

    def lines(self):
        with open(self.log, encoding="ascii") as file:
            return [json.loads(line) for line in file.read().splitlines()]

    def metric(self, name):
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S) as plain:
            plain.sendall(b"GET /_mesh/metrics HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n")
            text = plain.makefile("rb").read().decode()
        for line in text.splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name}")

    def rss_kib(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1))

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
        return self.process.returncode


def context(alpn=None, least=ssl.TLSVersion.TLSv1_2, most=ssl.TLSVersion.TLSv1_3):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = least
    made.maximum_version = most
    # A missing close_notify is an error here, as it is by the standard.
    made.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    if alpn is not None:
        made.set_alpn_protocols(alpn)
    return made


class Client:
    """TLS over memory: what goes on the wire is the test's to decide."""

    def __init__(self, port, name=None, session=None, using=None, handshake=True, chunk=None):
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.chunk = chunk  # Bytes per send; None: all at once.
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (using or context()).wrap_bio(self.incoming, self.outgoing, server_hostname=name,
                                                 session=session)
        self.raw = b""  # All that came in.
        self.ended = False  # By a FIN.
        if handshake:
            self.handshake()

    def flush(self):
        data = self.outgoing.read()
        step = self.chunk or max(1, len(data))
        for at in range(0, len(data), step):
            self.socket.sendall(data[at:at + step])

    def fill(self):
        data = self.socket.recv(65536)
        if data:
            self.raw += data
            self.incoming.write(data)
        else:
            self.ended = True
            self.incoming.write_eof()

    def _run(self, operation):
        while True:
            try:
                value = operation()
                self.flush()
                return value
            except ssl.SSLWantReadError:
                self.flush()
                self.fill()

    def handshake(self):
        try:
            self._run(self.tls.do_handshake)
        except ssl.SSLError:
            self.flush()
            raise

    def write(self, data):
        view = memoryview(data)
        while view:
            view = view[self._run(lambda: self.tls.write(view)):]

    def read(self, size=65536):
        """b"" at close_notify; ssl.SSLEOFError at an end without it."""
        try:
            return self._run(lambda: self.tls.read(size))
        except ssl.SSLZeroReturnError:
            return b""

    def read_end(self):
        data = b""
        while piece := self.read():
            data += piece
        return data

    def response(self):
        """Status, head and body of a response that says its length."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.read()
            assert piece, f"ended in a head: {data!r}"
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        parts = [body]
        left = int(re.search(rb"content-length: *(\d+)", head, re.I).group(1)) - len(body)
        while left > 0:
            piece = self.read()
            assert piece, "ended in a body"
            parts.append(piece)
            left -= len(piece)
        return int(head[9:12]), head.decode("latin-1"), b"".join(parts)

    def get(self, path="/app/x", fields=""):
        self.write(f"GET {path} HTTP/1.1\r\nHost: e.test\r\n{fields}\r\n".encode())
        return self.response()

    def certificate(self):
        der = self.tls.getpeercert(True)
        text = subprocess.run(["openssl", "x509", "-inform", "DER", "-noout", "-subject", "-nameopt",
                               "multiline"], input=der, stdout=subprocess.PIPE, check=True).stdout.decode()
        return re.search(r"commonName\s*= (.*)", text).group(1)

    def send_end(self):
        """close_notify, without waiting for the other's."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()

    def close(self):
        self.socket.close()


def readable(sock, timeout):
    return bool(select.select([sock], [], [], timeout)[0])
