#!/usr/bin/env python3
"""Measures what a proxied request costs: the edge beside nginx, in one run.

    bazel build //services/edge:edge //bench/edge:origin
    bench/edge/edge_bench.py [--rounds 5] [--seconds 3] [--only get64,g64k]

Prints CPU microseconds (user + system, of the proxy alone) per request and
requests per second: medians of interleaved rounds, one worker each. Needs wrk,
and nginx for the comparison.
"""

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

CASES = {
    "get64": (64, "/app/", None),
    "get256": (256, "/app/", None),
    "get1024": (1024, "/app/", None),
    "g1k": (64, "/app/1k", None),
    "g64k": (64, "/app/64k", None),
    "g1m": (16, "/app/1m", None),
    "p64k": (64, "/app/", "post.lua"),
    "close": (64, "/app/", "close.lua"),
}

NGINX = """
worker_processes 1;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log crit;
events {{ worker_connections 8192; multi_accept on; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u;
  scgi_temp_path {dir}/s;
  client_max_body_size 0;
  client_body_buffer_size 128k;
  keepalive_requests 1000000000;
  upstream app {{
    server 127.0.0.1:{origin};
    keepalive 1024;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location /app/ {{
      proxy_pass http://app/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Prefix /app;
      proxy_set_header X-Request-Id $request_id;
      proxy_buffers 16 32k;
      proxy_buffer_size 32k;
      proxy_busy_buffers_size 64k;
    }}
  }}
}}
"""


def free_port():
    import socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def children(pid):
    out = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout
    return [int(p) for p in out.split()]


def wait_for(port):
    import socket
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing listens on {port}")


def measure(port, pids, connections, path, script, seconds):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency"]
    if script:
        command += ["-s", script]
    before = cpu_seconds(pids)
    out = subprocess.run(command + [f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True,
                         check=True).stdout
    used = cpu_seconds(pids) - before
    requests = int(re.search(r"(\d+) requests in", out).group(1))
    errors = re.search(r"(Socket errors|Non-2xx).*", out)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", out)
    p99_ms = float(p99.group(1)) * {"us": 0.001, "ms": 1, "s": 1000}[p99.group(2)]
    return used * 1e6 / max(requests, 1), requests / seconds, p99_ms, errors.group(0) if errors else ""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", default="get64,get256,get1024,g1k,g64k,g1m,p64k")
    parser.add_argument("--edge", default=os.path.join(ROOT, "bazel-bin/services/edge/edge"))
    parser.add_argument("--origin", default=os.path.join(ROOT, "bazel-bin/bench/edge/origin"))
    parser.add_argument("--edge_flags", default="")
    args = parser.parse_args()

    started = []
    directory = tempfile.mkdtemp(prefix="edge_bench.")
    try:
        with open(f"{directory}/post.lua", "w") as f:
            f.write('wrk.method = "POST"\nwrk.body = string.rep("x", 65536)\n')
        with open(f"{directory}/close.lua", "w") as f:
            f.write('wrk.headers["Connection"] = "close"\n')
        origin = subprocess.Popen([args.origin], stdout=subprocess.PIPE, text=True)
        started.append(origin)
        origin_port = int(origin.stdout.readline())

        proxies = {}
        port = free_port()
        edge = subprocess.Popen([args.edge, f"--listen=127.0.0.1:{port}", "--workers=1",
                                 f"--static_endpoints=app=http://127.0.0.1:{origin_port}"] +
                                args.edge_flags.split(), stderr=subprocess.DEVNULL)
        started.append(edge)
        wait_for(port)
        proxies["edge"] = (port, [edge.pid])
        if shutil.which("nginx"):
            port = free_port()
            with open(f"{directory}/nginx.conf", "w") as f:
                f.write(NGINX.format(dir=directory, origin=origin_port, port=port))
            nginx = subprocess.Popen(["nginx", "-p", directory, "-c", f"{directory}/nginx.conf",
                                      "-e", f"{directory}/error.log"])
            started.append(nginx)
            wait_for(port)
            proxies["nginx"] = (port, [nginx.pid] + children(nginx.pid))
        else:
            print("nginx is not installed: no comparison")

        print(f"{'case':8}" + "".join(f"{n:>8} us {'req/s':>8} {'p99 ms':>7}" for n in proxies) +
              "   ratio")
        for name in args.only.split(","):
            connections, path, script = CASES[name]
            results = {n: [] for n in proxies}
            notes = set()
            for _ in range(args.rounds):
                for n, (port, pids) in proxies.items():
                    us, rate, p99, error = measure(port, pids, connections, path,
                                                   script and f"{directory}/{script}", args.seconds)
                    results[n].append((us, rate, p99))
                    if error:
                        notes.add(f"{n}: {error}")
            medians = {n: [statistics.median(r[i] for r in results[n]) for i in range(3)]
                       for n in proxies}
            line = f"{name:8}" + "".join(f"{m[0]:>8.1f}    {m[1]:>8.0f} {m[2]:>7.2f}"
                                         for m in medians.values())
            if "nginx" in medians:
                line += f"   {medians['edge'][0] / medians['nginx'][0]:.2f}"
            print(line + "".join(f"  [{note}]" for note in sorted(notes)), flush=True)
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
