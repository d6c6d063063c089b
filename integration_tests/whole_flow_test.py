"""The main job, step by step with meshctl: from a key to answers, and back."""

import json
import os
import re
import signal
import subprocess
import threading

from harness import http_load, mesh, meshctl, paths, processes, spores

_BILLING = "examples/billing"
_FRONTEND = "examples/frontend"
_PROBE = "integration_tests/probe"


class WholeFlowTest(mesh.MeshTestCase):
    def setUp(self):
        """A key that meshctl makes, and a mesh that trusts it and no other."""
        self.mesh = self.new_mesh()
        self.meshctl = meshctl.Meshctl(self.directory, self.mesh)
        self.trust_store = self.mesh.trust_store
        self.trust_store.unlink()
        self.key = self.directory / "ci.key"
        self.meshctl.ok("keygen", "--out", self.key)
        self.meshctl.ok("trust", "init", "--trust-store", self.trust_store)
        self.meshctl.ok(
            *("trust", "add", f"{self.key}.pub", "--trust-store", self.trust_store),
            *("--name", "billing", "--name", "frontend", "--name", "probe"),
        )
        self.mesh.start(agents=2)

    def build(self, app, binary, *flags, version="1.0.0"):
        spore = self.directory / f"{app}-{version}.spore"
        self.meshctl.ok(
            *("build", "--name", app, "--version", version),
            *("--binary", paths.binary(binary), "--key-file", self.key),
            *("--out", spore, *flags),
        )
        return spore

    def ship(self, app, binary, *flags, minimum=1, maximum=2):
        """Build, verify, publish, apply; returns the digest."""
        spore = self.build(app, binary, *flags)
        verdict = self.meshctl.json("verify", spore, "--trust-store", self.trust_store)
        self.assertEqual(verdict["verdict"], "accept", verdict)
        digest = self.meshctl.ok("publish", "-q", spore).strip()
        self.assertRegex(digest, "^[0-9a-f]{64}$")
        self.meshctl.ok("apply", spore, "--min", minimum, "--max", maximum)
        return digest

    def test_two_apps_from_source_to_answers_and_away_again(self):
        edge = self.mesh.edge_address()
        billing = self.ship(
            "billing", _BILLING, "--env", "GREETING=hello, mesh", minimum=2, maximum=4
        )
        self.ship("frontend", _FRONTEND, "--env", f"EDGE_URL=http://{edge}/billing/hello")

        # Apply came back because they are ready, so they answer.
        self.mesh.wait_routed("billing", 2, digest=billing)
        self.mesh.wait_routed("frontend", 1)
        answers = [self.mesh.get_json("/billing/hello") for _ in range(8)]
        self.assertEqual({a["app"] for a in answers}, {"billing"})
        self.assertEqual({a["message"] for a in answers}, {"hello, mesh"})
        self.assertEqual(len({a["instance"] for a in answers}), 2, "both answer")
        through = self.mesh.get_json("/frontend/hello")
        self.assertIn("hello, mesh", json.dumps(through))

        # What the plan says is the data contract.
        plan = self.meshctl.json("get", "billing")
        self.assertEqual(
            {key: plan.get(key, 0) for key in ("appName", "digest", "min", "max", "port")},
            {"appName": "billing", "digest": billing, "min": 2, "max": 4, "port": 0},
        )
        endpoints = json.dumps(self.meshctl.json("endpoints", "billing"))
        self.assertEqual(endpoints.count('"nodeID"'), 2)
        status = json.dumps(self.meshctl.json("status"))
        for shown in ("billing", "frontend", *self.mesh.node_ids()):
            self.assertIn(shown, status)
        self.assertIn("billing", self.meshctl.ok("status"))
        self.assertEqual(len(self.meshctl.ok("nodes", "--no-headers").splitlines()), 2)

        self.meshctl.ok("delete", "billing", "--yes")
        processes.wait_until(
            lambda: self.mesh.get("/billing/hello").status == 404, 10, "it is forgotten"
        )
        self.assertFalse(self.mesh.fabric.ListEndpoints(app_name="billing").endpoints)
        self.assertEqual(self.meshctl.error("get", "billing")[0], 3)

    def test_an_app_sees_its_environment_and_expanded_arguments(self):
        self.ship(
            *("probe", _PROBE, "--env", "GREETING=hello"),
            *("--", "--listen=127.0.0.1:${PORT}", "--as=${MYCELIUM_INSTANCE}", "a b", "$x"),
        )
        [endpoint] = self.mesh.wait_routed("probe", 1)

        seen = self.mesh.get_json("/probe/started")

        environment = seen["env"]
        port = endpoint.url.rpartition(":")[2]
        self.assertEqual(environment["PORT"], port)
        self.assertEqual(environment["MYCELIUM_APP"], "probe")
        self.assertEqual(environment["MYCELIUM_INSTANCE"], endpoint.instance_id)
        self.assertEqual(environment["MYCELIUM_NODE"], endpoint.node_id)
        self.assertEqual(environment["GREETING"], "hello")
        self.assertEqual(
            seen["args"],
            [f"--listen=127.0.0.1:{port}", f"--as={endpoint.instance_id}", "a b", "$x"],
        )
        # Nothing of the agent's own environment leaks into it.
        self.assertNotIn("TEST_SRCDIR", environment)
        self.assertNotEqual(environment.get("HOME"), str(self.mesh.directory))

    def test_logs_of_all_instances_are_merged_and_followed(self):
        self.ship("probe", _PROBE, minimum=2)
        self.mesh.wait_routed("probe", 2)
        for number in range(4):
            self.mesh.get("/probe/say", method="POST", body=f"line {number}")

        processes.wait_until(
            lambda: all(
                f"line {n}" in self.meshctl.ok("logs", "probe") for n in range(4)
            ),
            20,
            "all lines are in the logs",
        )
        self.assertIn("(stderr)", self.meshctl.ok("logs", "probe", "--stderr"))
        self.assertNotIn("(stderr)", self.meshctl.ok("logs", "probe", "--stdout"))

        follower = subprocess.Popen(
            self.meshctl.command("logs", "probe", "-f", "--tail", "0"),
            env=self.meshctl.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.addCleanup(follower.stdout.close)
        self.addCleanup(follower.wait)
        self.addCleanup(follower.kill)
        # The follower may not be connected yet when the first line is written.
        stop = threading.Event()

        def say():
            while not stop.wait(0.1):
                self.mesh.get("/probe/say", method="POST", body="tick")

        speaker = threading.Thread(target=say, daemon=True)
        speaker.start()
        try:
            for line in follower.stdout:
                if "tick" in line:
                    break
            else:
                self.fail("the follower ended")
        finally:
            stop.set()
            speaker.join()
        follower.send_signal(signal.SIGINT)
        self.assertIn(follower.wait(10), (0, 130, -signal.SIGINT))

    def test_a_plan_is_shown_before_it_is_applied(self):
        spore = self.build("probe", _PROBE)
        self.meshctl.ok("publish", spore)

        shown = self.meshctl.run("plan", spore, "--min", 1, "--detailed-exitcode")

        self.assertEqual(shown.status, 10, shown.err)
        self.assertEqual(self.meshctl.error("get", "probe")[0], 3, "nothing was stored")
        self.meshctl.ok("apply", spore, "--min", 1, "--max", 3)
        again = self.meshctl.run(
            *("plan", spore, "--min", 1, "--max", 3, "--detailed-exitcode")
        )
        self.assertEqual(again.status, 0, again.out)

        self.meshctl.ok("scale", "probe", 3)
        self.assertEqual(len(self.mesh.ready_endpoints("probe")), 3)

    def test_each_failure_has_its_exit_code(self):
        spore = self.build("probe", _PROBE)
        other = self.directory / "other.key"
        self.meshctl.ok("keygen", "--out", other)
        stranger = self.directory / "stranger.spore"
        self.meshctl.ok(
            *("build", "--name", "probe", "--version", "1", "--binary"),
            *(paths.binary(_PROBE), "--key-file", other, "--out", stranger),
        )

        self.assertEqual(self.meshctl.error("get", "nobody")[0], 3)
        self.assertEqual(self.meshctl.error("publish", stranger)[0], 4)
        status, verdict, _ = self.meshctl.run(
            *("verify", stranger, "--trust-store", self.trust_store, "-o", "json")
        )
        self.assertEqual(status, 4)
        self.assertEqual(json.loads(verdict)["code"], "E_UNTRUSTED_KEY")
        self.assertEqual(self.meshctl.error("keygen", "--out", other)[0], 5)
        self.assertEqual(self.meshctl.run("no-such-command").status, 2)
        self.assertEqual(
            self.meshctl.error("list", "--fabric", "127.0.0.1:1")[0], 6
        )
        self.meshctl.ok("publish", spore)
        self.meshctl.ok("apply", spore, "--min", 1, "--max", 1)
        self.assertEqual(
            self.meshctl.error("apply", "probe", "--max", 2, "--check-revision", 1)[0], 5
        )

    def test_an_apply_that_fails_says_why_in_the_apps_own_words(self):
        spore = self.build("probe", _PROBE, "--env", "FAIL_AT_START=yes")
        self.meshctl.ok("publish", spore)

        result = self.meshctl.run(
            "apply", spore, "--min", 1, "--max", 1, "--progress-deadline", "5s"
        )

        self.assertEqual(result.status, 8, result.err)
        self.assertIn("probe: told to fail", result.out + result.err)


class PackTest(mesh.MeshTestCase):
    def test_packing_is_reproducible_and_two_packers_agree(self):
        control = meshctl.Meshctl(self.directory)
        key = self.directory / "ci.key"
        control.ok("keygen", "--out", key)
        environment = {**control.environment(), "SOURCE_DATE_EPOCH": "1767322800"}
        built = []
        for name in ("one", "two"):
            out = self.directory / f"{name}.spore"
            status, _, err = processes.run(
                control.command(
                    *("build", "--name", "probe", "--version", "1.0.0"),
                    *("--binary", paths.binary(_PROBE), "--key-file", key),
                    *("--cpu-milli", 50, "--memory-mb", 32, "--out", out),
                ),
                env=environment,
            )
            self.assertEqual(status, 0, err)
            built.append(out.read_bytes())
        self.assertEqual(built[0], built[1])

        manifest = json.loads(
            spores.entries_of(spores.Spore(built[0]))["manifest.json"]
        )
        self.assertEqual(manifest["created_at"], "2026-01-02T03:00:00Z")
        for member in ("signature", "binary_sha256", "public_key", "kind", "name"):
            manifest.pop(member)
        ours = spores.pack(spores.Key(key), "probe", paths.binary(_PROBE), **manifest)
        self.assertEqual(
            spores.entries_of(ours), spores.entries_of(spores.Spore(built[0]))
        )


class LocalMeshTest(mesh.MeshTestCase):
    def test_run_starts_everything_and_leaves_nothing_behind(self):
        programs = self.directory / "bin"
        programs.mkdir()
        for service in ("fabric", "repo", "agent", "edge"):
            (programs / service).symlink_to(paths.binary(f"services/{service}"))
        place = self.directory / "place"
        place.mkdir()
        control = meshctl.Meshctl(place)
        log = self.directory / "run.log"
        with open(log, "wb") as file:
            run = subprocess.Popen(
                control.command(
                    *("run", "--port", "0", "--nodes", "2", "--bin-dir", programs),
                    *("--min", "2", paths.binary(_BILLING)),
                ),
                cwd=place,
                env=control.environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.addCleanup(run.wait)
        self.addCleanup(run.kill)

        url = processes.wait_until(
            lambda: re.search(r"http://(\S+?)/billing", log.read_text())
            or self.assertIsNone(run.poll(), log.read_text()),
            60,
            lambda: log.read_text(),
        )
        address = url[1].replace("localhost", "127.0.0.1")
        self.assertEqual(http_load.get(address, "/billing/hello").status, 200)
        status = control.json("status")
        self.assertIn("billing", json.dumps(status))
        started = _processes_below(run.pid)
        self.assertGreaterEqual(len(started), 4)

        run.send_signal(signal.SIGINT)

        self.assertIn(run.wait(60), (0, 130), log.read_text())
        left = [pid for pid in started if processes.is_alive(pid)]
        self.assertEqual(left, [], log.read_text())


def _processes_below(root):
    """Ids of all descendants of a process."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = open(f"/proc/{entry}/stat").read()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
    below, found = {root}, []
    while below:
        below = {pid for pid, parent in parents.items() if parent in below}
        found += below
    return found


if __name__ == "__main__":
    mesh.main()
