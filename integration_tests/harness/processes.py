"""Processes that a test starts, and the traces that workloads leave."""

import contextlib
import os
import pathlib
import random
import signal
import socket
import subprocess
import time

# How long a service may take to listen. Generous: CI runs builds beside it.
START_TIMEOUT_S = 30


def wait_until(condition, timeout_s, what, interval_s=0.01):
    """Polls until `condition()` is true and returns its value.

    For what no stream reports: files and processes. `what` is what a failure
    says, a string or a function that makes one.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            text = what() if callable(what) else what
            raise AssertionError(f"not within {timeout_s} s: {text}")
        time.sleep(interval_s)


def unused_port():
    """A loopback port below the ephemeral range that nothing listens on."""
    for port in random.sample(range(10_000, 32_000), 100):
        with socket.socket() as probe:
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise AssertionError("all of 100 ports from 10000 to 31999 are taken")


class Process:
    """One service as a real process, its output in a file."""

    def __init__(self, name, argv, directory, env=None):
        self.name = name
        self.argv = [str(arg) for arg in argv]
        self.log_path = pathlib.Path(directory) / f"{name}.log"
        environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
        environment.update(env or {})
        with open(self.log_path, "ab") as log:
            # setpriv: a service dies with the test, however that ends.
            self._popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=environment,
            )

    @property
    def pid(self):
        return self._popen.pid

    @property
    def running(self):
        return self._popen.poll() is None

    def read_port_file(self, path):
        """Waits for the address that the process writes once it listens."""

        def ready():
            if not self.running:
                raise AssertionError(
                    f"{self.name} exited with {self._popen.returncode} before it "
                    f"listened:\n{self.log_tail()}"
                )
            return path.read_text().strip() if path.exists() else ""

        return wait_until(ready, START_TIMEOUT_S, f"{self.name} listens")

    def signal(self, number):
        self._popen.send_signal(number)

    def kill(self):
        """kill -9, and reaps."""
        self._popen.kill()
        self._popen.wait()

    def terminate(self, timeout_s=30):
        """SIGTERM; returns the exit status and the seconds that it took."""
        start = time.monotonic()
        self._popen.terminate()
        status = self.wait(timeout_s)
        return status, time.monotonic() - start

    def wait(self, timeout_s=30):
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} still runs after {timeout_s} s:\n{self.log_tail()}"
            ) from None

    def log(self):
        return self.log_path.read_text(errors="replace")

    def log_tail(self, lines=60):
        return "\n".join(self.log().splitlines()[-lines:])


def run(argv, timeout_s=60, env=None, cwd=None, input=None):
    """Runs a command to its end; returns (status, stdout, stderr)."""
    environment = dict(os.environ) if env is None else env
    done = subprocess.run(
        [str(arg) for arg in argv],
        capture_output=True,
        timeout=timeout_s,
        env=environment,
        cwd=cwd,
        input=input,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stdout, done.stderr


def kill_pid(pid):
    """kill -9 of one process; 0 and below would mean whole groups."""
    if pid <= 1:
        raise ValueError(f"{pid} is no process of a test")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def is_alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def workload_pids(node_ids):
    """Processes of instances of these nodes that still run.

    They are known by their environment, not by their parents: orphans count.
    """
    wanted = {f"MYCELIUM_NODE={node_id}".encode() for node_id in node_ids}
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            environ = pathlib.Path("/proc", entry, "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if wanted.intersection(environ.split(b"\0")) and is_alive(int(entry)):
            found.append(int(entry))
    return sorted(found)
