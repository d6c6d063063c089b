"""Ship and run an app with nothing but the contracts, in two other languages.

Once with `buf curl`, which knows only what reflection tells it, and once with
Python's grpcio and messages that protoc makes from the .proto files.
"""

import base64
import json
import os
import shutil
import subprocess
import unittest

import grpc

from harness import contracts, http_load, mesh, processes

_BUF = os.environ.get("BUF", "")


@unittest.skipUnless(
    shutil.which(_BUF), "BUF does not name a buf; integration_tests/README.md says how"
)
class BufCurlTest(mesh.MeshTestCase):
    def setUp(self):
        self.mesh = self.new_mesh().start()

    def command(self, service, method, request_file):
        name = {"Repo": "repo", "Fabric": "fabric"}[service]
        package = f"mycelium.{name}.v1.{service}"
        address = self.mesh.services[name].grpc_address
        return [
            *(_BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge"),
            *("--data", f"@{request_file}"),
            f"http://{address}/{package}/{method}",
        ]

    def environment(self):
        return {**os.environ, "HOME": str(self.directory)}

    def call(self, service, method, *requests):
        """Status and JSON answer of a call, or the JSON error."""
        file = self.directory / "request.json"
        file.write_text("\n".join(json.dumps(request) for request in requests))
        status, out, err = processes.run(
            self.command(service, method, file), env=self.environment()
        )
        text = out or err
        return status, json.loads(text) if text.strip().startswith("{") else text

    def test_put_plan_and_watch(self):
        spore = self.mesh.probe_spore()
        watched = self.start_watch(dict(appName="probe"))

        status, answer = self.call(
            "Repo",
            "Put",
            dict(header=dict(digest=spore.digest, sizeBytes=len(spore.data))),
            *(
                dict(chunk=base64.b64encode(spore.data[at : at + 50_000]).decode())
                for at in range(0, len(spore.data), 50_000)
            ),
        )
        self.assertEqual(status, 0, answer)
        self.assertEqual(answer["spore"]["digest"], spore.digest)
        self.assertEqual(answer["spore"]["appName"], "probe")

        plan = {"appName": "probe", "digest": spore.digest, "min": 2, "max": 4, "port": 0}
        status, answer = self.call("Fabric", "PutPlan", dict(plan=plan))
        self.assertEqual(status, 0, answer)
        stored = {"port": 0, **answer["plan"]}
        self.assertEqual({key: stored[key] for key in plan}, plan)

        ready = {}
        for message in watched:
            for change in message.get("changes", []):
                endpoint = change.get("put", {})
                if endpoint.get("state") == "STATE_READY":
                    ready[endpoint["instanceId"]] = endpoint
            if len(ready) == 2:
                break
        for endpoint in ready.values():
            self.assertEqual(endpoint["nodeID"], self.mesh.node_id("node-1"))
            self.assertEqual(endpoint["appName"], "probe")
            address = endpoint["url"].removeprefix("http://")
            self.assertEqual(http_load.get(address, "/health").status, 200)

    def start_watch(self, request):
        """The messages of WatchEndpoints, from the moment of the snapshot on."""
        file = self.directory / "watch.json"
        file.write_text(json.dumps(request))
        process = subprocess.Popen(
            self.command("Fabric", "WatchEndpoints", file),
            stdout=subprocess.PIPE,
            env=self.environment(),
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        messages = _json_values(process.stdout)
        for message in messages:
            if message["kind"] == "WATCH_KIND_SNAPSHOT_END":
                break
        return messages

    def test_an_error_is_decoded_with_all_that_it_says(self):
        status, answer = self.call(
            "Fabric", "PutPlan", {"plan": {"appName": "Not A Name", "digest": "x"}}
        )

        self.assertNotEqual(status, 0)
        self.assertEqual(answer["code"], "invalid_argument")
        details = {}
        for detail in answer["details"]:
            value = base64.b64decode(detail["value"] + "==")
            details[detail["type"]] = contracts.message(detail["type"]).FromString(value)
        self.assertEqual(details["google.rpc.ErrorInfo"].reason, "PLAN_INVALID")
        fields = {v.field for v in details["google.rpc.BadRequest"].field_violations}
        self.assertEqual(fields, {"plan.appName", "plan.digest", "plan.max"})


def _json_values(stream):
    """JSON values written one after another, each as soon as it is complete."""
    decoder = json.JSONDecoder()
    text = ""
    while True:
        try:
            value, end = decoder.raw_decode(text)
            text = text[end:].lstrip()
            yield value
            continue
        except ValueError:
            pass
        data = os.read(stream.fileno(), 65536)
        if not data:
            return
        text = (text + data.decode()).lstrip()


class PythonTest(mesh.MeshTestCase):
    def test_put_plan_and_watch(self):
        the_mesh = self.new_mesh().start()
        spore = the_mesh.probe_spore()
        repo = contracts.Stub(the_mesh.services["repo"].channel, mesh.REPO)
        fabric = contracts.Stub(the_mesh.services["fabric"].channel, mesh.FABRIC)
        watch = fabric.WatchEndpoints(app_name="probe", timeout=60)

        put = repo.Put(
            [
                dict(header=dict(digest=spore.digest, size_bytes=len(spore.data))),
                dict(chunk=spore.data),
            ]
        )
        self.assertEqual(put.spore.digest, spore.digest)
        stored = fabric.PutPlan(
            plan=dict(app_name="probe", digest=spore.digest, min=2, max=4, port=0)
        )
        self.assertFalse(stored.warnings)

        ready = {}
        revisions = []
        for message in watch:
            revisions.append(message.revision)
            for change in message.changes:
                if change.put.state == mesh.ENDPOINT["STATE_READY"]:
                    ready[change.put.instance_id] = change.put
            if len(ready) == 2:
                break
        watch.cancel()

        for endpoint in ready.values():
            address = endpoint.url.removeprefix("http://")
            self.assertEqual(http_load.get(address, "/health").status, 200)
        self.assertEqual(revisions, sorted(revisions))
        self.assertGreater(stored.plan.revision, 0)


class WatchTest(mesh.MeshTestCase):
    """The watch promise, as a client of another language can check it."""

    def setUp(self):
        self.mesh = self.new_mesh()
        self.mesh.start_fabric()

    def put(self, name, maximum=1):
        return self.mesh.put_plan(name, "a" * 64, min=0, max=maximum).plan.revision

    def test_a_snapshot_then_every_change_then_bookmarks(self):
        names = [f"app-{i}" for i in range(20)]
        for name in names:
            self.put(name)
        watch = self.mesh.watch("Plans")
        watch.wait_for(lambda state: len(state) == 20)
        last = self.put("later")
        self.mesh.fabric.DeletePlan(app_name="app-0")
        watch.wait_for(lambda state: "app-0" not in state and "later" in state)

        watch.wait_for(lambda _: watch.kinds.count("BOOKMARK") >= 2, 10, "bookmarks")

        self.assertEqual(watch.violations, [])
        self.assertEqual(watch.resyncs, 0)
        self.assertEqual(set(watch.state), {*names[1:], "later"})
        self.assertGreater(watch.revision, last)

    def test_a_resume_gets_exactly_what_was_missed(self):
        self.put("one")
        first = self.mesh.watch("Plans")
        first.wait_for(lambda state: "one" in state)
        first.stop()
        missed = [self.put(f"missed-{i}") for i in range(10)]

        second = self.mesh.watch(
            "Plans", epoch=first.epoch, after_revision=first.revision
        )
        second.wait_for_revision(missed[-1])

        changes = [(plan.revision, key) for _, key, plan in second.history]
        self.assertEqual(
            changes, [(r, f"missed-{i}") for i, r in enumerate(missed)]
        )
        self.assertNotIn("SNAPSHOT_END", second.kinds)
        self.assertEqual(second.violations, [])

    def test_another_epoch_or_a_revision_of_the_future_is_resynced(self):
        revision = self.put("one")
        epoch = self.mesh.fabric.Status().epoch
        for request in (
            dict(epoch="another", after_revision=revision),
            dict(epoch=epoch, after_revision=revision + 1_000_000),
        ):
            with self.subTest(str(request)):
                watch = self.mesh.watch("Plans", **request)
                watch.wait_for(lambda state: "one" in state)
                self.assertEqual(watch.kinds[0], "RESYNC")
                self.assertEqual(watch.resyncs, 1)
                self.assertEqual(watch.violations, [])

    def test_a_filtered_watch_sees_one_app_and_bookmarks_for_the_others(self):
        watch = self.mesh.watch("Plans", app_name="mine")
        self.put("mine")
        watch.wait_for(lambda state: "mine" in state)
        theirs = self.put("theirs")

        watch.wait_for_revision(theirs)

        self.assertEqual(set(watch.state), {"mine"})

    def test_a_list_says_where_a_watch_can_start(self):
        self.put("one")
        page = self.mesh.fabric.ListPlans()
        self.put("two")

        watch = self.mesh.watch("Plans", epoch=page.epoch, after_revision=page.revision)

        watch.wait_for(lambda state: "two" in state)
        self.assertEqual([k for _, k, _ in watch.history], ["two"])

    def test_a_fabric_that_stops_tells_its_watchers_when_to_come_back(self):
        stream = self.mesh.fabric.WatchPlans()
        next(stream)

        self.mesh.services["fabric"].process.terminate()

        with self.assertRaises(grpc.RpcError) as raised:
            for _ in stream:
                pass
        failure = contracts.Failure(raised.exception)
        self.assertEqual(failure.code, "UNAVAILABLE")
        self.assertGreater(failure.retry_delay_s, 0)


if __name__ == "__main__":
    mesh.main()
