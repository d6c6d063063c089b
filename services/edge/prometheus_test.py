"""The metrics of an edge, judged by promtool, by the Python client's strict
parser of OpenMetrics, and by a real Prometheus that scrapes them.

    prometheus_test.py --edge EDGE
"""

import http.client
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse

from prometheus_client.openmetrics import parser

EDGE = sys.argv.pop(2)
sys.argv.remove("--edge")
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"x" * 1000
        self.send_response(500 if self.path == "/broken" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *args):
        pass


def wait_until(condition, what, timeout_s=60):
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"timed out: {what}")
        time.sleep(0.1)


def stop(process):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class PrometheusTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=origin.serve_forever, daemon=True).start()
        cls.addClassCleanup(origin.server_close)
        cls.addClassCleanup(origin.shutdown)
        # An address that was taken a moment ago and refuses now.
        closed = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        closed.server_close()
        port_file = os.path.join(cls.directory, "port")
        edge = subprocess.Popen(
            [
                EDGE,
                "--listen=127.0.0.1:0",
                f"--port_file={port_file}",
                "--workers=2",
                f"--access_log={cls.directory}/access.log",
                "--static_endpoints="
                f"shop=http://127.0.0.1:{origin.server_port},"
                f"dead=http://127.0.0.1:{closed.server_port},"
                "empty=",
            ]
        )
        cls.addClassCleanup(stop, edge)
        wait_until(lambda: os.path.exists(port_file), "the edge to listen")
        with open(port_file) as f:
            cls.port = int(f.read().strip().rsplit(":", 1)[1])
        for _ in range(20):
            cls.ask("/shop/", headers={"traceparent": PARENT})
        for _ in range(5):
            cls.ask("/shop/", method="POST", body=b"y" * 5000)
        for _ in range(3):
            cls.ask("/shop/broken")
        for _ in range(2):
            cls.ask("/empty/")
        cls.ask("/dead/")
        cls.ask("/nobody/")
        # The client is served before the request is counted.
        wait_until(
            lambda: 'mycelium_app="",http_request_method="GET",'
            'http_response_status_class="4xx"} 1' in cls.ask("/_mesh/metrics")[1],
            "the last request is counted",
        )

    @classmethod
    def ask(cls, path, method="GET", body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", cls.port, timeout=10)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response, response.read().decode()
        finally:
            connection.close()

    def test_promtool_finds_no_fault_in_the_text_format(self):
        response, page = self.ask("/_mesh/metrics")

        self.assertEqual(
            response.headers["Content-Type"],
            "text/plain; version=0.0.4; charset=utf-8",
        )
        checked = subprocess.run(
            ["promtool", "check", "metrics"],
            input=page,
            capture_output=True,
            text=True,
        )
        self.assertEqual(
            (checked.returncode, checked.stdout, checked.stderr), (0, "", "")
        )

    def test_a_strict_parser_takes_the_open_metrics_format(self):
        response, page = self.ask("/_mesh/metrics", headers={"Accept": OPEN_METRICS})

        self.assertEqual(
            response.headers["Content-Type"],
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )
        self.assertTrue(page.endswith("# EOF\n"))
        families = {f.name: f for f in parser.text_string_to_metric_families(page)}
        for name, kind, unit in [
            ("http_server_request_duration_seconds", "histogram", "seconds"),
            ("http_server_request_body_size_bytes", "histogram", "bytes"),
            ("mycelium_edge_requests", "counter", ""),
            ("mycelium_edge_loop_lag_seconds", "histogram", "seconds"),
            ("process_cpu_seconds", "counter", "seconds"),
            ("process_open_fds", "gauge", ""),
            ("mycelium_build_info", "gauge", ""),
        ]:
            with self.subTest(name):
                self.assertEqual(families[name].type, kind)
                self.assertEqual(families[name].unit, unit)
        exemplars = [
            sample.exemplar
            for sample in families["http_server_request_duration_seconds"].samples
            if sample.exemplar
        ]
        self.assertTrue(exemplars)
        for exemplar in exemplars:
            self.assertEqual(exemplar.labels, {"trace_id": TRACE})
            self.assertLess(abs(float(exemplar.timestamp) - time.time()), 3600)

    def test_both_formats_name_the_same_series(self):
        def series(accept):
            _, page = self.ask("/_mesh/metrics", headers={"Accept": accept})
            return {
                line.split(" # ")[0].rsplit(" ", 1)[0]
                for line in page.splitlines()
                if not line.startswith("#")
            }

        self.assertEqual(series(OPEN_METRICS), series("text/plain"))

    def test_a_real_prometheus_knows_what_happened(self):
        config = os.path.join(self.directory, "prometheus.json")
        with open(config, "w") as f:
            json.dump(  # JSON is YAML.
                {
                    "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                    "scrape_configs": [
                        {
                            "job_name": "edge",
                            "metrics_path": "/_mesh/metrics",
                            "static_configs": [
                                {"targets": [f"127.0.0.1:{self.port}"]}
                            ],
                        }
                    ],
                },
                f,
            )
        log_path = os.path.join(self.directory, "prometheus.log")
        with open(log_path, "w") as log:
            prometheus = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self.directory}/data",
                    "--web.listen-address=127.0.0.1:0",
                    "--enable-feature=exemplar-storage",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.addCleanup(stop, prometheus)

        def address():
            with open(log_path) as log:
                text = log.read()
            self.assertIsNone(prometheus.poll(), text)
            return re.search(r"address=127\.0\.0\.1:([1-9]\d*)", text)

        port = int(wait_until(address, "Prometheus to listen").group(1))

        def api(path, **arguments):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request(
                    "GET", f"/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
                )
                answer = json.loads(connection.getresponse().read())
            finally:
                connection.close()
            return answer["data"] if answer["status"] == "success" else None

        def value(query):
            data = api("query", query=query)
            if not data or not data["result"]:
                return None
            return float(data["result"][0]["value"][1])

        def scraped():
            try:
                return value("up") == 1
            except (OSError, ValueError):
                return False  # It says in words that it is starting.

        wait_until(scraped, "Prometheus to scrape")
        wait_until(
            lambda: value("count_over_time(up[1m])") >= 3, "Prometheus to scrape again"
        )
        requests = "mycelium_edge_requests_total"
        duration = "http_server_request_duration_seconds"
        for query, want in [
            (f'sum({requests}{{mycelium_app="shop"}})', 28),
            (
                f'{requests}{{mycelium_app="shop",http_request_method="GET",'
                'http_response_status_class="2xx"}',
                20,
            ),
            (
                f'{requests}{{mycelium_app="shop",http_request_method="POST",'
                'http_response_status_class="2xx"}',
                5,
            ),
            (
                f'sum({requests}{{mycelium_app="shop",'
                'http_response_status_class="5xx"})',
                3,
            ),
            (f'sum({requests}{{mycelium_app=""}})', 1),
            ('sum(mycelium_edge_rejected_total{reason="no_endpoint"})', 2),
            ('sum(mycelium_edge_rejected_total{reason="unknown_app"})', 1),
            (
                'sum(mycelium_edge_rejected_total{mycelium_app="dead",'
                'reason="connect_failed"})',
                1,
            ),
            (f'sum({duration}_count{{mycelium_app="shop"}})', 28),
            (f'sum({duration}_bucket{{mycelium_app="shop",le="+Inf"}})', 28),
            (
                f'count(count by (le) ({duration}_bucket{{mycelium_app="shop"}}))',
                20,
            ),
            ('http_client_request_duration_seconds_count{mycelium_app="shop"}', 28),
            ('http_server_active_requests{mycelium_app="shop"}', 0),
            (
                'http_server_request_body_size_bytes_sum{mycelium_app="shop"}',
                25000,
            ),
            (
                'http_server_response_body_size_bytes_bucket{mycelium_app="shop",'
                'le="1024.0"}',
                28,
            ),
            ('mycelium_edge_endpoint_requests_total{mycelium_app="shop"}', 28),
            ('mycelium_edge_endpoint_failures_total{mycelium_app="shop"}', 3),
            ('mycelium_edge_endpoint_healthy{mycelium_app="shop"}', 1),
            (
                'mycelium_edge_endpoint_connect_failures_total{mycelium_app="dead"} '
                ">= bool 1",
                1,
            ),
            ("mycelium_edge_log_drops_total", 0),
            ("mycelium_edge_log_write_errors_total", 0),
            ("mycelium_edge_accept_pauses_total", 0),
            ("mycelium_edge_route_version", 1),
            ("mycelium_build_info", 1),
            ("process_threads > bool 2", 1),
            ("process_resident_memory_bytes > bool 1e6", 1),
            ("process_open_fds > bool 5", 1),
            ("mycelium_edge_loop_lag_seconds_count > bool 10", 1),
            ("time() - process_start_time_seconds < bool 3600", 1),
        ]:
            with self.subTest(query):
                self.assertEqual(value(query), want)
        # What dashboards ask for.
        self.assertLess(
            value(
                "histogram_quantile(0.99, sum by (le) "
                f'({duration}_bucket{{mycelium_app="shop"}}))'
            ),
            10,
        )
        found = api(
            "query_exemplars",
            query=f"{duration}_bucket",
            start=time.time() - 600,
            end=time.time() + 60,
        )
        self.assertTrue(found, "no exemplar")
        self.assertEqual(
            {e["labels"]["trace_id"] for s in found for e in s["exemplars"]}, {TRACE}
        )


if __name__ == "__main__":
    unittest.main()
