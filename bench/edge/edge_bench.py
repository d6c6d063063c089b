#!/usr/bin/env python3
"""Measures what a proxied request costs: the edge beside a bare relay, nginx
and HAProxy, interleaved in one run.

    bazel build //services/edge:edge //bench/edge:all
    bench/edge/edge_bench.py [--short] [--rows get64,g1m] [--peers edge,nginx]

Every proxy runs one worker on the first core; the load and the origin share the
last one. Each row runs for several rounds, every peer once in each, in turning
order. Printed are medians over the rounds, and of each round's ratio between
the edge and a peer the smallest, the median and the largest.

  us          CPU microseconds (user + system, of all threads of the proxy) per
              request, under a closed loop
  req/s/core  requests per second of a whole core of the proxy: 1e6 / us
  p50 ...     latency under an open loop at --rate, from the time a request was
              due
  KiB         private memory per idle connection, times 10,000 in the last row

The relay knows no HTTP: it connects anew for each client connection. What other
processes on the two cores disturb is measured again, twice at most. The run
fails if any response is not what the origin sent.
"""

import argparse
import collections
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

Row = collections.namedtuple("Row", "label variant connections path expect_bytes flags")

ROWS = {
    "get64": Row("small GET, 64 connections", "plain", 64, "/", 20, []),
    "get256": Row("small GET, 256 connections", "plain", 256, "/", 20, []),
    "get1024": Row("small GET, 1024 connections", "plain", 1024, "/", 20, []),
    "g1k": Row("1 KiB response", "plain", 64, "/1k", 1 << 10, []),
    "g64k": Row("64 KiB response", "plain", 64, "/64k", 64 << 10, []),
    "g1m": Row("1 MiB response, 16 connections", "plain", 16, "/1m", 1 << 20, []),
    "p64k": Row("64 KiB POST", "plain", 64, "/", 20, [f"--post_bytes={64 << 10}"]),
    "new": Row("connection per request", "plain", 64, "/", 20, ["--new_connections"]),
    "log": Row("small GET, access log on", "log", 64, "/", 20, []),
    "tls": Row("small GET, TLS kept alive", "tls", 64, "/", 20, ["--tls"]),
    "tls64k": Row("64 KiB response, TLS", "tls", 64, "/64k", 64 << 10, ["--tls"]),
    "tlsnew": Row("TLS, full handshake per request", "tls", 32, "/", 20,
                  ["--tls", "--new_connections"]),
    "tlsresume": Row("TLS, resumed handshake per request", "tls", 32, "/", 20,
                     ["--tls", "--new_connections", "--resume"]),
}
LATENCY_ROW, MEMORY_ROW = "rate", "idle"
PEERS = ["relay", "edge", "nginx", "haproxy"]
BASE = "base"  # The edge of another build.
INSTALL = {"nginx": "nginx-light", "haproxy": "haproxy"}

# The log lines of nginx and HAProxy say about what the edge's do.
NGINX = """
worker_processes 1;
worker_rlimit_nofile {files};
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log crit;
events {{ worker_connections {connections}; multi_accept on; }}
http {{
  log_format json escape=json '{{"ts":"$time_iso8601","client":"$remote_addr",'
    '"method":"$request_method","host":"$host","path":"$uri","upstream":"$upstream_addr",'
    '"status":$status,"bytes_in":$request_length,"bytes_out":$bytes_sent,'
    '"duration":$request_time,"first_byte":"$upstream_header_time","request_id":"$request_id"}}';
  access_log {log};
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u;
  scgi_temp_path {dir}/s;
  client_max_body_size 0;
  client_body_buffer_size 128k;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  upstream app {{
    server 127.0.0.1:{origin};
    keepalive 1024;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096 {ssl};
    {tls}
    location /app/ {{
      proxy_pass http://app/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Prefix /app;
      proxy_set_header X-Request-Id $request_id;
      proxy_buffers 16 32k;
      proxy_buffer_size 32k;
      proxy_busy_buffers_size 64k;
      proxy_max_temp_file_size 0;
    }}
  }}
}}
"""

HAPROXY = """
global
  nbthread 1
  maxconn {connections}
  ulimit-n {files}
  no strict-limits
  {log}
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  timeout http-request 60s
  option http-keep-alive
  option splice-auto
frontend in
  bind 127.0.0.1:{port} backlog 4096 {tls}
  maxconn {connections}
  {logging}
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Prefix /app
  http-request set-header X-Request-Id %[uuid]
  http-request replace-path /app/(.*) /\\1
  default_backend app
backend app
  http-reuse always
  server one 127.0.0.1:{origin} pool-purge-delay 600s
"""
HAPROXY_LOG = """
  log stdout format raw local0
  log-format '{"ts":"%tr","client":"%ci","request":%{+Q}r,"upstream":"%s","status":%ST,"bytes_in":%U,"bytes_out":%B,"duration":%Ta,"first_byte":%Tr,"end":"%ts"}'
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, process):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args[0]} ended with {process.returncode}")
            time.sleep(0.02)
    raise RuntimeError(f"{process.args[0]} does not listen on {port}")


def with_children(pid):
    pids = [pid]
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        pids += [int(child) for child in f.read().split()]
    return pids


def private_kib(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/status") as f:
            total += sum(int(line.split()[1]) for line in f if line.startswith("RssAnon:"))
    return total


class Bench:
    def __init__(self, args, directory):
        self.args = args
        self.directory = directory
        self.cores = sorted(os.sched_getaffinity(0))
        self.started = []
        self.running = {}
        self.files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        origin = self.start([args.origin], self.cores[-1], stdout=subprocess.PIPE, text=True)
        self.origin_port = int(origin.stdout.readline())
        self.origin_pid = origin.pid
        self.disturbed = 0

    def start(self, command, core, **options):
        process = subprocess.Popen(command,
                                   preexec_fn=lambda: os.sched_setaffinity(0, {core}), **options)
        self.started.append(process)
        return process

    def stop(self, process):
        self.started.remove(process)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self):
        for process in list(reversed(self.started)):
            self.stop(process)

    def certificates(self):
        """A directory with one certificate as edge, nginx and HAProxy want it."""
        path = f"{self.directory}/certs"
        if not os.path.exists(path):
            os.mkdir(path)
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                            "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                            "/CN=bench.test", "-addext", "subjectAltName=DNS:bench.test",
                            "-keyout", f"{path}/bench.test.key", "-out", f"{path}/bench.test.crt"],
                           check=True, capture_output=True)
            with open(f"{self.directory}/both.pem", "w") as out:
                for end in ("crt", "key"):
                    with open(f"{path}/bench.test.{end}") as f:
                        out.write(f.read())
        return path

    def peer(self, name, variant, connections=8192):
        """The port and the processes of a running peer; None: it has no such variant."""
        key = (name, variant, connections)
        if key not in self.running:
            self.running[key] = self.start_peer(name, variant, connections)
        return self.running[key]

    def start_peer(self, name, variant, connections):
        core = self.cores[0]
        port = free_port()
        directory = tempfile.mkdtemp(dir=self.directory, prefix=f"{name}.")
        log = variant == "log"
        tls = variant == "tls"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if name == "relay":
            if variant != "plain":
                return None
            relay = self.start([self.args.relay, str(self.origin_port)], core,
                               stdout=subprocess.PIPE, text=True)
            return int(relay.stdout.readline()), [relay.pid], relay
        if name in ("edge", BASE):
            binary = self.args.edge if name == "edge" else self.args.base
            command = [binary, "--workers=1", "--idle_timeout_ms=600000",
                       f"--max_connections={connections}",
                       f"--static_endpoints=app=http://127.0.0.1:{self.origin_port}"]
            command.append(f"--listen=127.0.0.1:{free_port() if tls else port}")
            if log:
                command.append(f"--access_log={directory}/access.log")
            if tls:
                text = subprocess.run([binary, "--help"], capture_output=True,
                                      text=True).stdout
                if "-tls_listen" not in text:
                    return None
                command += [f"--tls_listen=127.0.0.1:{port}",
                            f"--tls_certificates={self.certificates()}"]
            process = self.start(command + self.args.edge_flags.split(), core, **quiet)
        elif name == "nginx":
            certs = self.certificates() if tls else ""
            config = NGINX.format(
                dir=directory, origin=self.origin_port, port=port, files=self.files,
                connections=connections, ssl="ssl" if tls else "",
                log=f"{directory}/access.log json buffer=64k flush=1s" if log else "off",
                tls=f"ssl_certificate {certs}/bench.test.crt;"
                    f"ssl_certificate_key {certs}/bench.test.key;"
                    "ssl_session_cache shared:bench:10m;" if tls else "")
            with open(f"{directory}/nginx.conf", "w") as f:
                f.write(config)
            process = self.start([self.args.nginx, "-p", directory, "-c",
                                  f"{directory}/nginx.conf", "-e", f"{directory}/error.log"], core)
        else:
            if tls:
                self.certificates()
            with open(f"{directory}/haproxy.cfg", "w") as f:
                f.write(HAPROXY.format(
                    port=port, origin=self.origin_port, files=self.files, connections=connections,
                    log="", logging=HAPROXY_LOG if log else "",
                    tls=f"ssl crt {self.directory}/both.pem" if tls else ""))
            with open(f"{directory}/access.log", "w") as out:
                process = self.start([self.args.haproxy, "-db", "-q", "-f",
                                      f"{directory}/haproxy.cfg"], core, stdout=out,
                                     stderr=subprocess.DEVNULL)
        wait_for(port, process)
        return port, with_children(process.pid), process

    def load_command(self, name, row, port, pids):
        path = row.path if name == "relay" else "/app" + row.path
        return [self.args.load, f"--port={port}", f"--connections={row.connections}",
                f"--path={path}", f"--expect_bytes={row.expect_bytes}",
                f"--pids={','.join(map(str, pids))}"] + row.flags

    def load(self, name, row, flags):
        """A measurement that nothing else on the cores disturbed, if one of three is so."""
        results = []
        for _ in range(3):
            result = self.load_once(name, row, flags)
            if result is None or result["foreign_us"] < 0.04e6 * result["seconds"] + 10000:
                return result
            results.append(result)
        self.disturbed += 1
        return min(results, key=lambda r: r["foreign_us"])

    def load_once(self, name, row, flags):
        found = self.peer(name, row.variant)
        if found is None:
            return None
        port, pids, _ = found
        command = self.load_command(name, row, port, pids) + flags + [
            f"--helper_pids={self.origin_pid}", f"--cores={self.cores[0]},{self.cores[-1]}"]
        run = subprocess.run(command, capture_output=True, text=True,
                             preexec_fn=lambda: os.sched_setaffinity(0, {self.cores[-1]}))
        if run.returncode != 0 or not run.stdout:
            raise RuntimeError(f"{name}: {' '.join(command)}: {run.stderr}{run.stdout}")
        result = json.loads(run.stdout)
        if result["errors"] or not result["requests"]:
            raise RuntimeError(f"{name}: {' '.join(command)}: {run.stdout}{run.stderr}")
        return result

    def rounds(self, row, flags):
        results = {name: [] for name in self.args.peers}
        order = list(self.args.peers)
        for _ in range(self.args.rounds):
            for name in order:
                result = self.load(name, row, flags)
                if result is not None:
                    results[name].append(result)
            order = order[1:] + order[:1]
        return results

    def idle_kib(self, name, count):
        """Private KiB that `count` idle connections cost."""
        row = Row("", "plain", 16, "/", 20, [])
        small = self.start_peer(name, "plain", 512)
        subprocess.run(self.load_command(name, row, small[0], []) + ["--seconds=0.3"], check=True,
                       stdout=subprocess.DEVNULL)
        before = private_kib(small[1])
        self.stop(small[2])
        # nginx sets its connections up in advance, so they belong to the cost.
        # It also closes idle ones when less than a 16th are free.
        large = self.start_peer(name, "plain", count + count // 8)
        idle = subprocess.Popen(
            self.load_command(name, row._replace(connections=count), large[0], []) + ["--idle"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            begun = json.loads(idle.stdout.readline())
            if begun["errors"]:
                raise RuntimeError(f"{name}: {begun}")
            time.sleep(0.5)
            used = private_kib(large[1]) - before
        finally:
            out, _ = idle.communicate()
        if json.loads(out)["open"] != count:
            raise RuntimeError(f"{name}: {out} of {count} idle connections are left")
        self.stop(large[2])
        return used


def spread(numbers):
    return f"{min(numbers):.2f}-{statistics.median(numbers):.2f}-{max(numbers):.2f}"


def ratios(results, key):
    """Of each round, the edge's figure over each peer's."""
    out = {}
    for name, rows in results.items():
        if name != "edge" and rows and results.get("edge"):
            out[name] = [key(a) / key(b) for a, b in zip(results["edge"], rows)]
    return out


def print_row(name, label, results, key, form, more=""):
    medians = {n: statistics.median(map(key, r)) for n, r in results.items() if r}
    line = f"{name:10}" + "".join(
        f"{form.format(medians[n]) if n in medians else '-':>9}" for n in results)
    for other, values in ratios(results, key).items():
        line += f"   /{other} {spread(values)}"
    print(line + more + f"   {label}", flush=True)


def main():
    everything = list(ROWS) + [LATENCY_ROW, MEMORY_ROW]
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="two rounds of 0.25 s, no TLS")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of one measurement")
    parser.add_argument("--rows", help=f"of {','.join(everything)}")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {','.join(PEERS)}")
    parser.add_argument("--rate", type=int, default=10000, help="requests/s of the open loop")
    parser.add_argument("--idle", type=int, default=10000, help="idle connections")
    parser.add_argument("--json", help="file for every single result")
    bin_dir = os.path.join(ROOT, "bazel-bin")
    parser.add_argument("--edge", default=f"{bin_dir}/services/edge/edge")
    for tool in ("origin", "relay", "load"):
        parser.add_argument(f"--{tool}", default=f"{bin_dir}/bench/edge/{tool}")
    parser.add_argument("--edge_flags", default="", help="more flags for the edge")
    parser.add_argument("--base", help="another build of the edge, as one more peer")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.short else 5)
    args.seconds = args.seconds or (0.25 if args.short else 1.0)
    rows = args.rows.split(",") if args.rows else [
        r for r in everything if not (args.short and ROWS.get(r) and ROWS[r].variant == "tls")]
    unknown = set(rows) - set(everything)
    args.peers = args.peers.split(",")
    unknown |= set(args.peers) - set(PEERS)
    if unknown:
        parser.error(f"no such row or peer: {', '.join(sorted(unknown))}")
    if args.base:
        args.peers.insert(args.peers.index("edge") + 1, BASE)
    for tool in (args.edge, args.base or args.edge, args.origin, args.relay, args.load):
        if not os.path.exists(tool):
            parser.error(f"{tool} is not there: bazel build //services/edge:edge //bench/edge:all")
    for name, package in INSTALL.items():
        path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
        setattr(args, name, path)
        if path is None and name in args.peers:
            print(f"{name} is not installed, so not compared: apt install {package}")
            args.peers.remove(name)
    if len(os.sched_getaffinity(0)) < 2:
        print("there is one core only: the load and the proxy share it", file=sys.stderr)

    directory = tempfile.mkdtemp(prefix="edge_bench.")
    bench = None
    record = {}
    try:
        bench = Bench(args, directory)
        warm = "0.05" if args.short else "0.2"
        flags = [f"--seconds={args.seconds}", f"--warmup_seconds={warm}"]
        print(f"{'us/request':10}" + "".join(f"{n:>9}" for n in args.peers) +
              "   ratio of the edge to each: min-median-max")
        for name in rows:
            if name not in ROWS:
                continue
            row = ROWS[name]
            results = record[name] = bench.rounds(row, flags)

            def cost(result):
                return result["cpu_us"] / result["requests"]

            rate = [1e6 / cost(r) for r in results.get("edge", [])]
            more = f"   edge {statistics.median(rate):.0f} req/s/core" if rate else ""
            print_row(name, row.label, results, cost, "{:.1f}", more)
        if LATENCY_ROW in rows:
            results = record[LATENCY_ROW] = bench.rounds(
                ROWS["get64"], flags + [f"--rate={args.rate}"])
            print(f"\nlatency in us, small GET, 64 connections, open loop of {args.rate} req/s")
            for key in ("p50", "p99", "p999"):
                print_row(key, "", results, lambda r, k=key: r[k + "_us"], "{:.0f}")
        if MEMORY_ROW in rows:
            # HAProxy wants two descriptors for each connection it may have.
            count = min(args.idle, bench.files // 2 - 500)
            results = record[MEMORY_ROW] = {}
            for name in args.peers:
                # Two descriptors for each connection.
                if name == "relay" and 2 * count + 100 > bench.files:
                    results[name] = []
                    continue
                results[name] = [bench.idle_kib(name, count) / count]
            print(f"\nprivate memory of {count} idle connections that have asked once")
            print_row("KiB each", "", results, lambda r: r, "{:.2f}")
            print_row("MiB/10,000", "", results, lambda r: r * 10000 / 1024, "{:.1f}")
        if bench.disturbed:
            print(f"\n{bench.disturbed} measurements were disturbed by other processes")
    finally:
        if bench is not None:
            bench.close()
        shutil.rmtree(directory, ignore_errors=True)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(record, f, indent=1)


if __name__ == "__main__":
    main()
