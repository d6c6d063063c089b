"""Requests as users make them, and every one that did not get its 200."""

import collections
import http.client
import json
import threading
import time

Response = collections.namedtuple("Response", "status headers body")


def get(address, path, timeout_s=10, method="GET", body=None, headers=None):
    """One request on a connection of its own; an OSError when it breaks."""
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read())
    finally:
        connection.close()


def get_json(address, path, **kwargs):
    response = get(address, path, **kwargs)
    if response.status != 200:
        raise AssertionError(f"GET {path}: {response.status} {response.body!r}")
    return json.loads(response.body)


class Failed(collections.namedtuple("Failed", "time cause")):
    """A request without a 200: when it ended, and what it met instead."""


class Load:
    """Keep-alive connections that ask for `path` without a pause until stop().

    Whatever is not a 200 is a failure, except that a kept-alive connection may
    be closed before it answers: it is opened anew, and `reopened` counts that.
    Each connection makes at most `rate` requests per second, so that a small
    machine has time for the mesh.
    """

    def __init__(self, addresses, path, connections=4, rate=100, timeout_s=10):
        self._addresses = [addresses] if isinstance(addresses, str) else addresses
        self._path = path
        self._period = 1 / rate
        self._timeout_s = timeout_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._progress = threading.Condition(self._lock)
        self.ok = 0
        self.reopened = 0
        self.failures = []
        self.slowest_s = 0.0
        self.answered_by = collections.Counter()
        self._threads = [
            threading.Thread(target=self._run, args=(i,), daemon=True)
            for i in range(connections)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, index):
        address = self._addresses[index % len(self._addresses)]
        connection = http.client.HTTPConnection(address, timeout=self._timeout_s)
        while not self._stop.is_set():
            begin = time.monotonic()
            fresh = connection.sock is None
            cause = instance = None
            try:
                connection.request("GET", self._path)
                response = connection.getresponse()
                body = response.read()
                if response.status == 200:
                    instance = _instance_of(body)
                else:
                    reason = response.headers.get("X-Mycelium-Reason", "")
                    cause = f"{response.status} {reason}".strip()
            except http.client.RemoteDisconnected:
                connection.close()
                if not fresh:
                    with self._lock:
                        self.reopened += 1
                    continue
                cause = "closed without an answer"
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                cause = f"{type(error).__name__}: {error}"
            end = time.monotonic()
            with self._progress:
                if cause is None:
                    self.ok += 1
                    self.answered_by[instance] += 1
                    self.slowest_s = max(self.slowest_s, end - begin)
                else:
                    self.failures.append(Failed(end, cause))
                self._progress.notify_all()
            self._stop.wait(max(0.0, begin + self._period - end))
        connection.close()

    def wait_for_more(self, count, timeout_s=30):
        """Waits until `count` more requests have got their 200."""
        with self._progress:
            wanted = self.ok + count
            if not self._progress.wait_for(lambda: self.ok >= wanted, timeout_s):
                raise AssertionError(
                    f"{wanted - self.ok} of {count} requests are missing after "
                    f"{timeout_s} s; {self.summary()}"
                )

    def wait_for_instance(self, instance, timeout_s=30):
        with self._progress:
            if not self._progress.wait_for(
                lambda: self.answered_by[instance], timeout_s
            ):
                raise AssertionError(f"{instance} got no request; {self.summary()}")

    def stop(self):
        """Ends the load and returns what failed."""
        self._stop.set()
        for thread in self._threads:
            thread.join(self._timeout_s + 5)
        return self.failures

    def summary(self):
        causes = collections.Counter(failed.cause for failed in self.failures)
        return (
            f"{self.ok} requests got 200, {len(self.failures)} did not: "
            f"{dict(causes)}; "
            f"{self.reopened} connections reopened; answered by {dict(self.answered_by)}"
        )


def _instance_of(body):
    try:
        return json.loads(body).get("instance", "")
    except (ValueError, AttributeError):
        return ""
