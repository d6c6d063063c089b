"""What every service promises to clients in any language."""

import concurrent.futures
import re
import unittest

import grpc
from google.protobuf import descriptor_pb2, json_format

from harness import contracts, mesh, paths, processes

_SERVING = contracts.enum("grpc.health.v1.HealthCheckResponse.ServingStatus")["SERVING"]

# Which service each process serves beside what all serve.
_SERVED = {
    "fabric": mesh.FABRIC,
    "repo": mesh.REPO,
    "node-1": mesh.AGENT,
    "edge-1": mesh.EDGE,
}

_DIGEST = "0123456789abcdef" * 4


class EveryServiceTest(mesh.MeshTestCase):
    def setUp(self):
        self.mesh = self.new_mesh().start()

    def for_each(self, check):
        """Calls `check` with the service's name and process of each."""
        for name, service in _SERVED.items():
            with self.subTest(name):
                check(service, self.mesh.services[name])

    def test_health_answers_for_the_whole_and_for_each_service(self):
        def check(service, process):
            health = contracts.Stub(process.channel, mesh.HEALTH)

            for name in ("", service, mesh.HEALTH):
                self.assertEqual(health.Check(service=name).status, _SERVING, name)
            failure = contracts.failure_of(health.Check, service="no.such.Service")
            self.assertEqual(failure.code, "NOT_FOUND")

        self.for_each(check)

    def test_reflection_lists_every_service_and_health_too(self):
        def check(service, process):
            self.assertLessEqual({service, mesh.HEALTH}, set(self.reflect(process)))

        self.for_each(check)

    def test_reflection_describes_every_service_as_the_protos_do(self):
        known = {file.name: file for file in contracts.FILES.file}

        def check(service, process):
            for listed in self.reflect(process):
                files = self.describe(process, listed)
                self.assertTrue(files, listed)
                for file in files:
                    if file.name in known and file.name.startswith("mycelium/"):
                        self.assertEqual(
                            _without_options(file), _without_options(known[file.name])
                        )

        self.for_each(check)

    def reflect(self, process):
        [answer] = self.ask(process, [dict(list_services="*")])
        return [s.name for s in answer.list_services_response.service]

    def describe(self, process, symbol):
        """The file of a symbol and all that it imports, as reflection gives them."""
        wanted, seen = [dict(file_containing_symbol=symbol)], {}
        while wanted:
            answers, wanted = self.ask(process, wanted), []
            for answer in answers:
                self.assertFalse(
                    answer.HasField("error_response"),
                    f"{symbol}: {answer.error_response}",
                )
                for raw in answer.file_descriptor_response.file_descriptor_proto:
                    file = descriptor_pb2.FileDescriptorProto.FromString(raw)
                    seen[file.name] = file
            missing = {d for f in seen.values() for d in f.dependency} - set(seen)
            wanted = [dict(file_by_filename=name) for name in sorted(missing)]
        return list(seen.values())

    def ask(self, process, requests):
        stub = contracts.Stub(process.channel, mesh.REFLECTION)
        answers = list(stub.ServerReflectionInfo(requests, timeout=10))
        self.assertEqual(len(answers), len(requests))
        return answers

    def test_unknown_methods_and_undecodable_requests_are_refused(self):
        def check(service, process):
            unknown = process.channel.unary_unary(f"/{service}/NoSuchMethod")
            with self.assertRaises(grpc.RpcError) as raised:
                unknown(b"", timeout=10)
            self.assertEqual(raised.exception.code().name, "UNIMPLEMENTED")

            method = sorted(process.stub.requests)[0]
            raw = process.channel.unary_unary(f"/{service}/{method}")
            with self.assertRaises(grpc.RpcError):
                raw(b"\xff\xff\xff\xff garbage", timeout=10)

            self.assertTrue(process.process.running)

        self.for_each(check)

    def test_messages_above_the_limit_are_refused_and_the_service_goes_on(self):
        def check(service, process):
            method = sorted(process.stub.requests)[0]
            raw = process.channel.stream_stream(f"/{service}/{method}")
            with self.assertRaises(grpc.RpcError) as raised:
                list(raw(iter([bytes(9 << 20)]), timeout=20))
            self.assertEqual(raised.exception.code().name, "RESOURCE_EXHAUSTED", method)
            health = contracts.Stub(process.channel, mesh.HEALTH)
            self.assertEqual(health.Check().status, _SERVING)

        self.for_each(check)

    def test_a_hundred_clients_are_served_at_once(self):
        health = [
            contracts.Stub(p.channel, mesh.HEALTH) for p in self.mesh.services.values()
        ]
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda i: health[i % len(health)].Check(), range(100)))
        self.assertEqual({a.status for a in answers}, {_SERVING})


def _without_options(file):
    """A file as it is on the wire: what both protocs must agree on."""
    copy = descriptor_pb2.FileDescriptorProto()
    copy.CopyFrom(file)
    copy.ClearField("source_code_info")
    # protoc fills these in, C++ leaves them out where they are the default.
    for message in copy.message_type:
        _clear_json_names(message)
    return copy


def _clear_json_names(message):
    for field in message.field:
        if field.json_name == _camel(field.name):
            field.ClearField("json_name")
    for nested in message.nested_type:
        _clear_json_names(nested)


def _camel(name):
    return re.sub(r"_(.)", lambda match: match[1].upper(), name)


class DataContractTest(unittest.TestCase):
    """JSON names are fixed: clients without protobuf live on them."""

    def as_json(self, name, **fields):
        return json_format.MessageToDict(
            contracts.message(f"mycelium.fabric.v1.{name}")(**fields)
        )

    def test_a_plan_is_written_as_documented(self):
        plan = dict(app_name="billing", digest=_DIGEST, min=2, max=4, port=8080)
        self.assertEqual(
            self.as_json("Plan", **plan),
            {"appName": "billing", "digest": _DIGEST, "min": 2, "max": 4, "port": 8080},
        )

    def test_a_budget_is_written_as_documented(self):
        budget = dict(
            app_name="billing", max_instances=4, cpu_milli=500, memory_mb=256
        )
        self.assertEqual(
            self.as_json("Budget", **budget),
            {
                "appName": "billing",
                "maxInstances": 4,
                "cpu_milli": "500",
                "memory_mb": "256",
            },
        )

    def test_an_endpoint_is_written_as_documented(self):
        endpoint = dict(
            app_name="billing",
            url="http://127.0.0.1:8081",
            node_id="node-1",
            instance_id="billing-0-abc",
            digest=_DIGEST,
            state=mesh.ENDPOINT["STATE_READY"],
        )
        self.assertEqual(
            self.as_json("Endpoint", **endpoint),
            {
                "appName": "billing",
                "url": "http://127.0.0.1:8081",
                "nodeID": "node-1",
                "instanceId": "billing-0-abc",
                "digest": _DIGEST,
                "state": "STATE_READY",
            },
        )

    def test_the_documented_json_is_read_as_written(self):
        budget = contracts.message("mycelium.fabric.v1.Budget")()
        json_format.Parse(
            '{"appName": "billing", "maxInstances": 4, "cpu_milli": 500, '
            '"memory_mb": 256}',
            budget,
        )
        self.assertEqual((budget.cpu_milli, budget.memory_mb), (500, 256))


class BinariesTest(mesh.MeshTestCase):
    BINARIES = [
        "services/fabric",
        "services/repo",
        "services/agent",
        "services/edge",
    ]

    def test_help_explains_the_binary_and_each_of_its_flags(self):
        for binary in self.BINARIES:
            with self.subTest(binary):
                status, out, err = processes.run([paths.binary(binary), "--help"])

                self.assertEqual(status, 0, err)
                for flag in ("listen", "port_file", "tls_cert", "tls_key", "tls_ca"):
                    self.assertRegex(out, rf"(?m)^  --{flag} ")
                self.assertEqual(_flags_without_text(out), [])

    def test_unknown_flags_are_refused_with_their_name(self):
        for binary in self.BINARIES:
            with self.subTest(binary):
                status, _, err = processes.run([paths.binary(binary), "--no_such_flag=1"])
                self.assertNotEqual(status, 0)
                self.assertIn("no_such_flag", err)


def _flags_without_text(text):
    """Flags that no indented line follows."""
    return re.findall(r"(?m)^  (--[a-z_]+) .*\n(?!      \S)", text)


if __name__ == "__main__":
    mesh.main()
