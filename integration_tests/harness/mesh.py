"""A mesh of real processes in a directory of its own, on ports of its own."""

import os
import pathlib
import secrets
import shutil
import sys
import tempfile
import unittest

import grpc

from harness import contracts, http_load, paths, processes, spores, watches

FABRIC = "mycelium.fabric.v1.Fabric"
REPO = "mycelium.repo.v1.Repo"
AGENT = "mycelium.agent.v1.Agent"
EDGE = "mycelium.edge.v1.Edge"
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"

SLOT = contracts.enum("mycelium.fabric.v1.Slot.State")
ENDPOINT = contracts.enum("mycelium.fabric.v1.Endpoint.State")
NODE = contracts.enum("mycelium.fabric.v1.Node.State")
ROUTE = contracts.enum("mycelium.edge.v1.RouteEndpoint.State")

_CHUNK_BYTES = 256 * 1024
# Reconnects are as quick as a test wants them, and channels are not shared with
# those of a process that was killed.
_CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # Of one attempt to connect.
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.use_local_subchannel_pool", 1),
]


class Service:
    """A process, where it serves gRPC, and what it takes to start it again."""

    def __init__(self, mesh, name, service, argv, port_flags, env=None):
        self.name = name
        self.addresses = {}
        self._mesh = mesh
        self._service = service
        self._argv = argv
        self._port_flags = port_flags
        self._env = env
        self._channel = None
        self.process = None
        self._start_first()

    def _start_first(self):
        """Starts the process at ports that nobody takes while it is away.

        The kernel gives ports of its ephemeral range to any connection of any
        test, so they are not asked of it. Another test may choose the same
        one; then other ports are tried.
        """
        for last in (False, False, True):
            for listen, _ in self._port_flags:
                self.addresses[listen] = f"127.0.0.1:{processes.unused_port()}"
            try:
                return self.start()
            except AssertionError as error:
                if last or "in use" not in str(error):
                    raise

    def start(self, extra_flags=()):
        """Starts the process; again at the addresses that it had before."""
        argv = list(self._argv) + list(extra_flags)
        files = {}
        for listen, port_file in self._port_flags:
            files[listen] = self._mesh.directory / f"{self.name}.{listen}"
            files[listen].unlink(missing_ok=True)
            argv.append(f"--{listen}={self.addresses[listen]}")
            argv.append(f"--{port_file}={files[listen]}")
        self.process = processes.Process(
            self.name, argv, self._mesh.directory, self._env
        )
        for listen, file in files.items():
            self.addresses[listen] = self.process.read_port_file(file)
        if self._channel is not None:
            self.wait_serving()

    @property
    def grpc_address(self):
        return self.addresses.get("grpc_listen") or self.addresses["listen"]

    @property
    def channel(self):
        if self._channel is None:
            self._channel = self._mesh.connect(self.grpc_address)
        return self._channel

    @property
    def stub(self):
        return contracts.Stub(self.channel, self._service)

    def wait_serving(self):
        """Waits until calls reach the process, which may have been restarted.

        A channel takes a while to see that the process before it is gone.
        """
        health = contracts.Stub(self.channel, HEALTH)
        processes.wait_until(
            lambda: not contracts.failure_of(health.Check, timeout=0.5),
            processes.START_TIMEOUT_S,
            f"{self.name} answers",
        )

    def kill(self):
        self.process.kill()

    def close(self):
        if self._channel is not None:
            self._channel.close()
        if self.process.running:
            self.process.kill()


class Mesh:
    """Starts services, publishes spores, puts plans; stops only its own pids."""

    def __init__(self, directory, tls=None):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.tls = tls
        self.id = secrets.token_hex(3)
        self.key = spores.Key(self.directory / "signing.key.pem")
        self.trust_store = self.directory / "trust.json"
        self.trust_store.write_text(spores.trust_store({self.key: ["*", "*/*"]}))
        self.services = {}
        self._watches = []
        self._loads = []

    # Starting and stopping.

    def start(self, agents=1, edges=1, agent_flags=()):
        """Starts a whole mesh: fabric, repo, `edges` and `agents`."""
        self.start_repo()
        self.start_fabric()
        for number in range(edges):
            self.start_edge(f"edge-{number + 1}")
        for number in range(agents):
            self.start_agent(f"node-{number + 1}", flags=agent_flags)
        return self

    def start_fabric(self, store="sqlite", repo=True):
        flags = [f"--store={store}", f"--data_dir={self.data_dir('fabric')}"]
        if repo:
            flags += self._peer("repo")
        return self._start("fabric", FABRIC, flags)

    def start_repo(self, flags=(), trusting=True):
        flags = [f"--data_dir={self.data_dir('repo')}", *flags]
        if trusting:
            flags.append(f"--trust_store={self.trust_store}")
        return self._start("repo", REPO, flags)

    def start_edge(self, name="edge-1", flags=()):
        return self._start(
            name,
            EDGE,
            [f"--edge_id={name}-{self.id}", *self._peer("fabric"), *flags],
            binary="services/edge",
            port_flags=[("listen", "port_file"), ("grpc_listen", "grpc_port_file")],
        )

    def start_agent(self, name="node-1", flags=()):
        return self._start(
            name,
            AGENT,
            [
                f"--node_id={self.node_id(name)}",
                f"--data_dir={self.data_dir(name)}",
                f"--trust_store={self.trust_store}",
                "--cpu_milli=8000",
                "--memory_mb=4096",
                *self._peer("fabric"),
                *self._peer("repo"),
                *flags,
            ],
            binary="services/agent",
        )

    def _start(self, name, service, flags, binary=None, port_flags=None):
        argv = [paths.binary(binary or f"services/{name}"), *flags]
        if self.tls:
            argv += self.tls.service_flags()
        started = Service(
            self,
            name,
            service,
            argv,
            port_flags or [("listen", "port_file")],
        )
        self.services[name] = started
        return started

    def _peer(self, name):
        if name not in self.services:
            return []
        return [f"--{name}={self.services[name].grpc_address}"]

    def data_dir(self, name):
        path = self.directory / f"{name}.data"
        path.mkdir(exist_ok=True)
        return path

    def node_id(self, name):
        """Node ids are the mesh's own, so that its workloads can be told."""
        return f"{name}-{self.id}"

    def node_ids(self):
        return [self.node_id(n) for n in self.services if n.startswith("node-")]

    def workload_pids(self, node=None):
        return processes.workload_pids(
            [self.node_id(node)] if node else self.node_ids()
        )

    def close(self):
        for load in self._loads:
            load.stop()
        for watch in self._watches:
            watch.stop()
        # Agents first: none may start again what the lines below kill.
        for name, service in sorted(
            self.services.items(), key=lambda item: not item[0].startswith("node-")
        ):
            service.close()
        for pid in self.workload_pids():
            processes.kill_pid(pid)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # Speaking to it.

    def connect(self, address):
        if self.tls:
            return grpc.secure_channel(
                address, self.tls.channel_credentials(), _CHANNEL_OPTIONS
            )
        return grpc.insecure_channel(address, _CHANNEL_OPTIONS)

    @property
    def fabric(self):
        return self.services["fabric"].stub

    @property
    def repo(self):
        return self.services["repo"].stub

    def edge(self, name="edge-1"):
        return self.services[name].stub

    def agent(self, name="node-1"):
        return self.services[name].stub

    def edge_address(self, name="edge-1"):
        """Where users send their requests: HOST:PORT."""
        return self.services[name].addresses["listen"]

    def watch(self, what, observer=None, **request):
        watch = watches.Watch(self.fabric, what, observer, **request)
        self._watches.append(watch)
        return watch

    def load(self, path, edges=("edge-1",), **kwargs):
        load = http_load.Load([self.edge_address(e) for e in edges], path, **kwargs)
        self._loads.append(load)
        return load

    def get(self, path, edge="edge-1", **kwargs):
        return http_load.get(self.edge_address(edge), path, **kwargs)

    def get_json(self, path, edge="edge-1", **kwargs):
        return http_load.get_json(self.edge_address(edge), path, **kwargs)

    # Shipping.

    def probe_spore(self, app="probe", **members):
        """A spore of the test's own app; a version makes it another digest."""
        return spores.pack(
            self.key, app, paths.binary("integration_tests/probe"), **members
        )

    def publish(self, spore):
        return put_spore(self.repo, spore)

    def put_plan(self, app, spore, min=1, max=None, port=0, **plan):
        digest = spore if isinstance(spore, str) else spore.digest
        return self.fabric.PutPlan(
            plan=dict(
                app_name=app,
                digest=digest,
                min=min,
                max=min if max is None else max,
                port=port,
                **plan,
            )
        )

    def deploy(self, app="probe", min=1, max=None, spore=None, **plan):
        """Publishes and plans the probe, and waits for it at every edge."""
        spore = spore or self.probe_spore(app)
        self.publish(spore)
        self.put_plan(app, spore, min, max, **plan)
        self.wait_routed(app, min, digest=spore.digest)
        return spore

    # Waiting.

    def ready_endpoints(self, app, digest=None):
        page = self.fabric.ListEndpoints(app_name=app, page_size=1000)
        return [
            e
            for e in page.endpoints
            if e.state == ENDPOINT["STATE_READY"] and digest in (None, e.digest)
        ]

    def wait_ready(self, app, count, digest=None, timeout_s=60):
        """Waits for exactly `count` READY endpoints (of a digest); returns them."""
        watch = watches.Watch(self.fabric, "Endpoints", app_name=app)
        try:

            def matching(state):
                ready = [
                    e
                    for e in state.values()
                    if e.state == ENDPOINT["STATE_READY"] and digest in (None, e.digest)
                ]
                return (ready or True) if len(ready) == count else None

            found = watch.wait_for(
                matching, timeout_s, lambda: f"{count} endpoints of {app} are ready"
                f" {self.describe_slots(app)}"
            )
            return [] if found is True else found
        finally:
            watch.stop()

    def wait_routed(self, app, count, digest=None, timeout_s=60):
        """wait_ready, and then until every edge sends requests to just these."""
        ready = self.wait_ready(app, count, digest, timeout_s)
        wanted = {e.instance_id for e in ready}
        for name in self.services:
            if name.startswith("edge-") and self.services[name].process.running:
                processes.wait_until(
                    lambda: self.routed(app, name) == wanted,
                    10,
                    lambda: f"{name} routes {app} to {wanted}, now to "
                    f"{self.routed(app, name)}",
                )
        return ready

    def routed(self, app, edge="edge-1"):
        """Ids of the instances that an edge sends requests of `app` to."""
        response = self.edge(edge).ListRoutes(app_name=app)
        return {
            e.instance_id
            for route in response.routes
            for e in route.endpoints
            if e.state == ROUTE["STATE_READY"]
        }

    def describe_slots(self, app):
        try:
            slots = self.fabric.ListSlots(app_name=app).slots
        except grpc.RpcError as error:
            return f"(slots unknown: {error.details()})"
        states = {number: name for name, number in SLOT.items()}
        return "; slots: " + ", ".join(
            f"{s.index}/{s.generation} {states[s.state]} {s.reason} {s.message!r} "
            f"at {s.node_id or '-'}{' surplus' if s.surplus else ''}"
            for s in slots
        )

    def instances(self, node="node-1", app=""):
        return self.agent(node).ListInstances(app_name=app).instances

    def running(self, node="node-1", app=""):
        """Instances of a node that have a process."""
        return [i for i in self.instances(node, app) if i.pid]

    def instances_of(self, app):
        """Instances of an app on all nodes that still have a process."""
        nodes = [name for name in self.services if name.startswith("node-")]
        return [i for node in nodes for i in self.running(node, app)]

    def events(self, **query):
        return self.fabric.ListEvents(page_size=1000, **query).events


def put_spore(repo, spore, digest=None, size=None):
    """Repo.Put of the spore's bytes, under another digest or size if asked."""

    def parts():
        yield dict(
            header=dict(
                digest=digest or spore.digest,
                size_bytes=len(spore.data) if size is None else size,
            )
        )
        for offset in range(0, len(spore.data), _CHUNK_BYTES):
            yield dict(chunk=spore.data[offset : offset + _CHUNK_BYTES])

    return repo.Put(parts())


class MeshTestCase(unittest.TestCase):
    """Gives each test a directory, and prints the logs of one that fails."""

    longMessage = True

    def run(self, result=None):
        # Short, because socket paths are; not TEST_TMPDIR, which is long.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="mesh-"))
        os.chmod(self.directory, 0o755)
        result = result if result is not None else self.defaultTestResult()
        before = len(result.failures) + len(result.errors)
        try:
            return super().run(result)
        finally:
            if len(result.failures) + len(result.errors) > before:
                self._print_logs()
            shutil.rmtree(self.directory, ignore_errors=True)

    def _print_logs(self):
        for log in sorted(self.directory.rglob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            print(f"---- {log.name}, last of {len(lines)} lines", file=sys.stderr)
            print("\n".join(lines[-80:]), file=sys.stderr, flush=True)

    def new_mesh(self, name="mesh", **kwargs):
        mesh = Mesh(self.directory / name, **kwargs)
        self.addCleanup(mesh.close)
        return mesh

    def assert_fails(self, code, reason, call, *args, **kwargs):
        """Asserts code, reason and domain of a failing call; returns it."""
        failure = contracts.failure_of(call, *args, **kwargs)
        self.assertIsNotNone(failure, f"must fail with {code} ({reason})")
        self.assertEqual(
            (failure.code, failure.reason), (code, reason), str(failure)
        )
        return failure


def main():
    """Runs a test file: `x_test.py [-v] [TestClass.test]`."""
    unittest.main(module="__main__", verbosity=2, failfast=False)


