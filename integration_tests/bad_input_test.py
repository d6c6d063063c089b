"""Every field of every request is checked, and the answer says what is wrong."""

import dataclasses

from harness import contracts, mesh

_DIGEST = "0123456789abcdef" * 4
_NO_LEASE = "00000000000000aa"

_BAD_NAMES = ["", "Billing", "1app", "app-", "a.b", "a/b", "a b", "ä", "a" * 64]
_BAD_DIGESTS = ["", "abc", _DIGEST.upper(), _DIGEST[:-1], _DIGEST + "0", "g" * 64]
_BAD_IDS = ["", "-node", "node-", "a b", "a/b", "n" * 64]


@dataclasses.dataclass
class Case:
    """A request that is refused, and how."""

    method: str
    request: dict
    fields: list  # Of the BadRequest; empty if there is none.
    reason: str = "REQUEST_INVALID"
    code: str = "INVALID_ARGUMENT"

    def __str__(self):
        return f"{self.method}({str(self.request)[:200]})"


def plan(**change):
    """A good PutPlan request, but for `change`."""
    good = dict(app_name="billing", digest=_DIGEST, min=1, max=2, port=0)
    return dict(plan={**good, **change})


def budget(**change):
    good = dict(app_name="billing", max_instances=2, cpu_milli=100, memory_mb=100)
    return dict(budget={**good, **change})


def node(**change):
    good = dict(
        node_id="node-x",
        address="127.0.0.1:7703",
        capacity=dict(cpu_milli=1000, memory_mb=1000),
    )
    return dict(node={**good, **change})


def endpoint(lease_id=_NO_LEASE, **change):
    good = dict(
        app_name="billing",
        url="http://127.0.0.1:8081",
        node_id="node-x",
        instance_id="billing-0-a",
        digest=_DIGEST,
        generation=1,
        claim_revision=1,
    )
    return dict(endpoint={**good, **change}, lease_id=lease_id)


def event(**change):
    return dict(events=[{**dict(type="TEST"), **change}])


def _seconds(value):
    return dict(seconds=value)


def fabric_cases():
    invalid = "PLAN_INVALID"
    for name in _BAD_NAMES:
        yield Case("PutPlan", plan(app_name=name), ["plan.appName"], invalid)
        yield Case("PutBudget", budget(app_name=name), ["budget.appName"], "BUDGET_INVALID")
        yield Case("GetPlan", dict(app_name=name), ["appName"])
        yield Case("DeletePlan", dict(app_name=name), ["appName"])
        yield Case("GetBudget", dict(app_name=name), ["appName"])
        yield Case("DeleteBudget", dict(app_name=name), ["appName"])
        yield Case("ScaleApp", dict(app_name=name, count=1), ["appName"])
        if name:
            yield Case("ListEndpoints", dict(app_name=name), ["appName"])
            yield Case("ListSlots", dict(app_name=name), ["appName"])
            yield Case("ListEvents", dict(app_name=name), ["appName"])
            yield Case("WatchPlans", dict(app_name=name), ["appName"])
            yield Case("WatchEndpoints", dict(app_name=name), ["appName"])
            yield Case("WatchSlots", dict(app_name=name), ["appName"])
            yield Case("WatchEvents", dict(app_name=name), ["appName"])
    for digest in _BAD_DIGESTS:
        yield Case("PutPlan", plan(digest=digest), ["plan.digest"], invalid)
    for change, field in [
        (dict(min=-1), "plan.min"),
        (dict(max=0, min=0), "plan.max"),
        (dict(min=3), "plan.max"),
        (dict(max=1001), "plan.max"),
        (dict(port=-1), "plan.port"),
        (dict(port=65536), "plan.port"),
        (dict(strategy=dict(kind=99)), "plan.strategy.kind"),
        (dict(strategy=dict(max_surge=0)), "plan.strategy.maxSurge"),
        (dict(strategy=dict(max_surge=1001)), "plan.strategy.maxSurge"),
        (dict(strategy=dict(min_ready=_seconds(-1))), "plan.strategy.minReady"),
        (dict(strategy=dict(min_ready=_seconds(3601))), "plan.strategy.minReady"),
        (dict(strategy=dict(drain_timeout=_seconds(3601))), "plan.strategy.drainTimeout"),
        (dict(strategy=dict(stop_timeout=_seconds(601))), "plan.strategy.stopTimeout"),
        (
            dict(strategy=dict(progress_deadline=_seconds(0))),
            "plan.strategy.progressDeadline",
        ),
        (
            dict(placement=dict(required_labels={f"k{i}": "v" for i in range(17)})),
            "plan.placement.requiredLabels",
        ),
        (
            dict(placement=dict(required_labels={"a b": "v"})),
            "plan.placement.requiredLabels['a b']",
        ),
        (dict(placement=dict(spread_label="a b")), "plan.placement.spreadLabel"),
    ]:
        yield Case("PutPlan", plan(**change), [field], invalid)
    yield Case("PutPlan", plan(min=1001), ["plan.min", "plan.max"], invalid)
    yield Case(
        "PutPlan",
        plan(app_name="", digest="", max=0, min=-1, port=-1),
        ["plan.appName", "plan.digest", "plan.min", "plan.max", "plan.port"],
        invalid,
    )
    yield Case("PutPlan", dict(plan(), request_id="x" * 65), ["requestId"], invalid)
    yield Case("PutPlan", dict(plan(), expected_revision=-1), ["expectedRevision"], invalid)
    for change, field in [
        (dict(max_instances=-1), "budget.maxInstances"),
        (dict(max_instances=1001), "budget.maxInstances"),
        (dict(cpu_milli=-1), "budget.cpu_milli"),
        (dict(cpu_milli=10**9 + 1), "budget.cpu_milli"),
        (dict(memory_mb=-1), "budget.memory_mb"),
        (dict(memory_mb=2**40 + 1), "budget.memory_mb"),
    ]:
        yield Case("PutBudget", budget(**change), [field], "BUDGET_INVALID")
    for bad in _BAD_IDS:
        yield Case("JoinNode", node(node_id=bad), ["node.nodeID"], "NODE_INVALID")
        yield Case("DrainNode", dict(node_id=bad), ["nodeID"])
        yield Case("CordonNode", dict(node_id=bad), ["nodeID"])
        yield Case("UndrainNode", dict(node_id=bad), ["nodeID"])
        yield Case("DeleteNode", dict(node_id=bad), ["nodeID"])
    for bad in ["", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "1.2.3:1", ":1"]:
        yield Case("JoinNode", node(address=bad), ["node.address"], "NODE_INVALID")
    yield Case(
        "JoinNode",
        node(capacity=dict(cpu_milli=-1, memory_mb=-1)),
        ["node.capacity.cpu_milli", "node.capacity.memory_mb"],
        "NODE_INVALID",
    )
    yield Case(
        "JoinNode",
        node(labels={f"k{i}": "v" for i in range(33)}),
        ["node.labels"],
        "NODE_INVALID",
    )
    yield Case("JoinNode", dict(node(), lease_ttl=_seconds(301)), ["leaseTtl"], "NODE_INVALID")
    for bad in [
        "",
        "127.0.0.1:80",
        "https://127.0.0.1:80",
        "http://127.0.0.1",
        "http://127.0.0.1:0",
        "http://127.0.0.1:65536",
        "http://127.0.0.1:80/path",
        "http://user@127.0.0.1:80",
        "http://256.0.0.1:80",
        "http://:80",
    ]:
        yield Case("RegisterEndpoint", endpoint(url=bad), ["endpoint.url"], "ENDPOINT_INVALID")
    for change, field in [
        (dict(app_name="A"), "endpoint.appName"),
        (dict(node_id=""), "endpoint.nodeID"),
        (dict(instance_id="a b"), "endpoint.instanceId"),
        (dict(digest="abc"), "endpoint.digest"),
        (dict(state=99), "endpoint.state"),
        (dict(claim_revision=0), "endpoint.claimRevision"),
    ]:
        yield Case("RegisterEndpoint", endpoint(**change), [field], "ENDPOINT_INVALID")
    yield Case("RegisterEndpoint", endpoint(lease_id="x"), ["leaseId"], "ENDPOINT_INVALID")
    for change, field in [
        (dict(type=""), "events[0].type"),
        (dict(type="lower"), "events[0].type"),
        (dict(type="T" * 64), "events[0].type"),
        (dict(severity=99), "events[0].severity"),
        (dict(event_id="x" * 65), "events[0].eventId"),
        (dict(message="x" * 4097), "events[0].message"),
        (dict(message="a\x01b"), "events[0].message"),
        (dict(app_name="A"), "events[0].appName"),
        (dict(details={f"k{i}": "v" for i in range(17)}), "events[0].details"),
    ]:
        yield Case("RecordEvents", event(**change), [field], "EVENT_INVALID")
    yield Case("RecordEvents", dict(events=[dict(type="TEST")] * 101), ["events"], "EVENT_INVALID")
    for method in (
        "ListPlans",
        "ListBudgets",
        "ListEndpoints",
        "ListNodes",
        "ListSlots",
        "ListEdges",
        "ListEvents",
    ):
        yield Case(method, dict(page_size=-1), ["pageSize"])
        for token in ("garbage", "AAAA", "x" * 5000):
            yield Case(method, dict(page_token=token), ["pageToken"], "PAGE_TOKEN_INVALID")
    for method in ("WatchPlans", "WatchNodes", "WatchSlots", "WatchEndpoints", "WatchEvents"):
        yield Case(method, dict(after_revision=-1), ["afterRevision"])
    yield Case("ClaimSlot", dict(), ["appName", "generation", "nodeID", "leaseId", "instanceId"])
    yield Case(
        "ClaimSlot",
        dict(
            app_name="billing",
            index=-1,
            generation=1,
            node_id="node-x",
            lease_id=_NO_LEASE,
            instance_id="i",
        ),
        ["index"],
    )


    held = dict(app_name="billing", instance_id="i", lease_id=_NO_LEASE)
    for method in ("UpdateEndpoint", "DeregisterEndpoint"):
        for change, field in [
            (dict(app_name="A"), "appName"),
            (dict(instance_id=""), "instanceId"),
            (dict(lease_id="x"), "leaseId"),
        ]:
            state = dict(state=3) if method == "UpdateEndpoint" else {}
            yield Case(method, {**held, **state, **change}, [field])
    yield Case("UpdateEndpoint", dict(held, state=0), ["state"])
    yield Case("UpdateEndpoint", dict(held, state=4), ["state"])
    yield Case(
        "UpdateEndpoint", dict(held, state=3, drain_timeout=_seconds(3601)), ["drainTimeout"]
    )
    slot = dict(app_name="billing", index=0, generation=1, claim_revision=1)
    for change, field in [
        (dict(app_name="A"), "appName"),
        (dict(index=-1), "index"),
        (dict(generation=0), "generation"),
        (dict(claim_revision=0), "claimRevision"),
        (dict(reason="lower"), "reason"),
    ]:
        yield Case("ReleaseSlot", {**slot, **change}, [field])
        yield Case("UpdateSlot", {"state": 4, **slot, **change}, [field])
    yield Case("UpdateSlot", dict(slot, state=1), ["state"])
    yield Case("UpdateSlot", dict(slot, state=99), ["state"])
    yield Case("UpdateSlot", dict(slot, state=4, message="x" * 4097), ["message"])
    yield Case("LeaveNode", dict(node_id="a b", lease_id="x"), ["nodeID", "leaseId"])
    yield Case(
        "Heartbeat", dict(requests=[dict(node_id="a b", lease_id="x")]), ["nodeID", "leaseId"]
    )
    for change, field in [
        (dict(edge_id="a b"), "edge.edgeId"),
        (dict(edge_id="e", url="ftp://x"), "edge.url"),
        (dict(edge_id="e", address="x"), "edge.address"),
    ]:
        yield Case("ReportEdge", dict(requests=[dict(edge=change)]), [field], "EDGE_INVALID")


def fabric_unknown_cases():
    """Well-formed requests for what is not there."""
    missing = [
        ("GetPlan", dict(app_name="nobody"), "PLAN_NOT_FOUND"),
        ("DeletePlan", dict(app_name="nobody"), "PLAN_NOT_FOUND"),
        ("ScaleApp", dict(app_name="nobody", count=1), "PLAN_NOT_FOUND"),
        ("GetBudget", dict(app_name="nobody"), "BUDGET_NOT_FOUND"),
        ("DeleteBudget", dict(app_name="nobody"), "BUDGET_NOT_FOUND"),
        ("DrainNode", dict(node_id="nowhere"), "NODE_NOT_FOUND"),
        ("CordonNode", dict(node_id="nowhere"), "NODE_NOT_FOUND"),
        ("UndrainNode", dict(node_id="nowhere"), "NODE_NOT_FOUND"),
        ("DeleteNode", dict(node_id="nowhere"), "NODE_NOT_FOUND"),
        ("RegisterEndpoint", endpoint(), "LEASE_NOT_FOUND"),
        (
            "Heartbeat",
            dict(requests=[dict(node_id="nowhere", lease_id=_NO_LEASE)]),
            "LEASE_NOT_FOUND",
        ),
    ]
    for method, request, reason in missing:
        yield Case(method, request, [], reason, "NOT_FOUND")
    yield Case(
        "DeletePlan",
        dict(app_name="nobody", expected_revision=7),
        [],
        "REVISION_MISMATCH",
        "ABORTED",
    )
    yield Case(
        "PutPlan", dict(plan(), expected_revision=7), [], "REVISION_MISMATCH", "ABORTED"
    )


def repo_cases():
    for digest in _BAD_DIGESTS:
        yield Case("Stat", dict(digest=digest), [], "DIGEST_INVALID")
        yield Case("Get", dict(digest=digest), [], "DIGEST_INVALID")
        yield Case("Delete", dict(digest=digest), [], "DIGEST_INVALID")
        if digest:
            yield Case("Gc", dict(keep_digests=[digest]), ["keepDigests[0]"])
        yield put(
            [dict(header=dict(digest=digest, size_bytes=10))], "HEADER_INVALID", ["header.digest"]
        )
    for size in (0, -1):
        yield put(
            [dict(header=dict(digest=_DIGEST, size_bytes=size))],
            "HEADER_INVALID",
            ["header.sizeBytes"],
        )
    yield put([], "HEADER_INVALID", ["header"])
    yield put([dict(chunk=b"x")], "HEADER_INVALID", ["header"])
    header = dict(header=dict(digest=_DIGEST, size_bytes=10))
    yield put([header, header], "HEADER_INVALID", ["chunk"])
    yield put(
        [dict(header=dict(digest=_DIGEST, size_bytes=1 << 60))],
        "SPORE_TOO_LARGE",
        code="RESOURCE_EXHAUSTED",
    )
    yield Case("List", dict(page_size=-1), ["pageSize"])
    yield Case("List", dict(page_token="garbage"), ["pageToken"], "PAGE_TOKEN_INVALID")
    yield Case("Gc", dict(min_age=_seconds(-1), keep_digests=[_DIGEST]), ["minAge"])
    for method in ("Stat", "Get", "Delete"):
        yield Case(method, dict(digest=_DIGEST), [], "SPORE_NOT_FOUND", "NOT_FOUND")


def put(messages, reason, fields=(), code="INVALID_ARGUMENT"):
    return Case("Put", dict(requests=messages), list(fields), reason, code)


def agent_cases():
    yield Case("ListInstances", dict(page_size=-1), ["pageSize"])
    yield Case("ListInstances", dict(page_token="garbage"), ["pageToken"], "PAGE_TOKEN_INVALID")
    yield Case("ListInstances", dict(app_name="A"), ["appName"])
    yield Case("GetLogs", dict(), ["instanceId"])
    yield Case("GetLogs", dict(instance_id="a", app_name="b"), ["instanceId"])
    yield Case("GetLogs", dict(app_name="A"), ["appName"])
    yield Case("GetLogs", dict(app_name="a", tail_lines=-2), ["tailLines"])
    yield Case("GetLogs", dict(app_name="a", stream=9), ["stream"])
    yield Case("GetLogs", dict(app_name="nobody"), [], "APP_NOT_FOUND", "NOT_FOUND")
    for method in ("GetLogs", "StopInstance", "RestartInstance"):
        yield Case(
            method, dict(instance_id="nobody"), [], "INSTANCE_NOT_FOUND", "NOT_FOUND"
        )
    for method in ("StopInstance", "RestartInstance"):
        yield Case(method, dict(), ["instanceId"])
        yield Case(
            method, dict(instance_id="a", stop_timeout=_seconds(601)), ["stopTimeout"]
        )


def edge_cases():
    yield Case("ListRoutes", dict(page_size=-1), ["pageSize"])
    yield Case("ListRoutes", dict(page_token="garbage"), ["pageToken"], "PAGE_TOKEN_INVALID")
    yield Case("ListRoutes", dict(app_name="A"), ["appName"])
    yield Case("GetStats", dict(app_name="A"), ["appName"])
    yield Case("GetStats", dict(app_name="nobody"), [], "APP_NOT_FOUND", "NOT_FOUND")
    yield Case("WatchStats", dict(app_name="A"), ["appName"])
    yield Case("WatchStats", dict(interval=dict(nanos=1)), ["interval"])
    yield Case("WatchStats", dict(interval=_seconds(3601)), ["interval"])


class BadInputTest(mesh.MeshTestCase):
    def setUp(self):
        self.mesh = self.new_mesh()

    def check(self, stub, domain, cases):
        for case in cases:
            with self.subTest(str(case)):
                failure = contracts.failure_of(
                    getattr(stub, case.method), **{"timeout": 10, **case.request}
                )

                self.assertIsNotNone(failure, "must be refused")
                self.assertEqual(
                    (failure.code, failure.reason, failure.domain),
                    (case.code, case.reason, domain),
                    str(failure),
                )
                self.assertEqual(sorted(failure.fields), sorted(case.fields), str(failure))
                for description in failure.fields.values():
                    self.assertGreater(len(description), 10, "says value and rule")
                self.assertTrue(failure.message)

    def test_the_fabric_names_field_value_and_rule_and_changes_nothing(self):
        self.mesh.start_fabric()
        fabric = self.mesh.fabric
        before = fabric.Status()

        self.check(fabric, "fabric.mycelium", fabric_cases())
        self.check(fabric, "fabric.mycelium", fabric_unknown_cases())

        after = fabric.Status()
        self.assertEqual(after.start_time, before.start_time)
        self.assertEqual(after.revision, before.revision, "nothing is half-done")
        self.assertEqual((after.plans, after.nodes, after.endpoints), (0, 0, 0))

    def test_the_repo_names_field_value_and_rule_and_keeps_nothing(self):
        self.mesh.start_repo()

        self.check(self.mesh.repo, "repo.mycelium", repo_cases())

        self.assertFalse(self.mesh.repo.List().spores)
        self.assertEqual(self.files_of_the_repo(), 0)
        self.mesh.publish(self.mesh.probe_spore())
        self.assertEqual(len(self.mesh.repo.List().spores), 1)

    def files_of_the_repo(self):
        """Bytes that refused uploads left in the data directory."""
        return sum(
            path.stat().st_size
            for path in self.mesh.data_dir("repo").rglob("*")
            if path.is_file() and "spore" in str(path.relative_to(self.mesh.directory))
        )

    def test_the_agent_names_field_value_and_rule(self):
        self.mesh.start(edges=0)

        self.check(self.mesh.agent(), "agent.mycelium", agent_cases())

    def test_the_edge_names_field_value_and_rule(self):
        self.mesh.start_fabric()
        self.mesh.start_edge()

        self.check(self.mesh.edge(), "edge.mycelium", edge_cases())

    def test_wrong_bytes_and_sizes_are_told_apart_by_the_repo(self):
        self.mesh.start_repo()
        repo = self.mesh.repo
        spore = self.mesh.probe_spore()

        failure = self.assert_fails(
            "DATA_LOSS", "DIGEST_MISMATCH", mesh.put_spore, repo, spore, digest=_DIGEST
        )
        self.assertEqual(failure.metadata, dict(want=_DIGEST, got=spore.digest))
        for size in (len(spore.data) - 1, len(spore.data) + 1):
            self.assert_fails(
                "OUT_OF_RANGE", "SIZE_MISMATCH", mesh.put_spore, repo, spore, size=size
            )

        self.assertFalse(repo.List().spores)
        self.assertEqual(self.files_of_the_repo(), 0)

    def test_no_bytes_that_are_not_a_spore_get_into_the_repo(self):
        self.mesh.start_repo()
        for name, data in {
            "text": b"hello, this is no spore",
            "zeros": bytes(4096),
            "an empty zip": b"PK\5\6" + bytes(18),
            "an ELF file": open(mesh.paths.binary("services/repo"), "rb").read(1 << 16),
        }.items():
            with self.subTest(name):
                junk = mesh.spores.Spore(data)
                failure = self.assert_fails(
                    "INVALID_ARGUMENT", "SPORE_REFUSED", mesh.put_spore, self.mesh.repo, junk
                )
                self.assertRegex(failure.metadata["code"], "^E_[A-Z_]+$")
                self.assertTrue(failure.metadata["detail"])
        self.assertFalse(self.mesh.repo.List().spores)


class PagesTest(mesh.MeshTestCase):
    def test_pages_hold_everything_once_whatever_their_size(self):
        the_mesh = self.new_mesh()
        the_mesh.start_fabric()
        names = [f"app-{i:03}" for i in range(25)]
        for name in names:
            the_mesh.put_plan(name, _DIGEST, min=0, max=1)

        for size in (0, 1, 7, 25, 1000, 2**31 - 1):
            with self.subTest(size=size):
                self.assertEqual(self.read_pages(the_mesh.fabric, size), names)

    def read_pages(self, fabric, size):
        names, token = [], ""
        while True:
            page = fabric.ListPlans(page_size=size, page_token=token)
            names += [p.app_name for p in page.plans]
            token = page.next_page_token
            if not token:
                return names
            self.assertEqual(len(page.plans), size)

    def test_a_token_belongs_to_the_query_that_it_came_from(self):
        the_mesh = self.new_mesh()
        the_mesh.start_repo()
        the_mesh.start_fabric()
        for number in range(3):
            the_mesh.fabric.RecordEvents(events=[dict(type="TEST", app_name="a")])
        page = the_mesh.fabric.ListEvents(page_size=1, app_name="a")
        self.assertTrue(page.next_page_token)

        self.assert_fails(
            "INVALID_ARGUMENT",
            "PAGE_TOKEN_INVALID",
            the_mesh.fabric.ListEvents,
            page_size=1,
            app_name="b",
            page_token=page.next_page_token,
        )


class IdempotencyTest(mesh.MeshTestCase):
    def setUp(self):
        self.mesh = self.new_mesh()
        self.mesh.start_fabric()

    def test_a_stale_write_gets_both_revisions_and_changes_nothing(self):
        stored = self.mesh.put_plan("billing", _DIGEST).plan
        self.mesh.put_plan("billing", _DIGEST, min=1, max=3)

        failure = self.assert_fails(
            "ABORTED",
            "REVISION_MISMATCH",
            self.mesh.fabric.PutPlan,
            **plan(),
            expected_revision=stored.revision,
        )

        current = self.mesh.fabric.GetPlan(app_name="billing").plan
        self.assertEqual(current.max, 3)
        self.assertEqual(failure.metadata["expected_revision"], str(stored.revision))
        self.assertEqual(failure.metadata["current_revision"], str(current.revision))

    def test_the_same_plan_again_changes_nothing(self):
        first = self.mesh.put_plan("billing", _DIGEST)
        again = self.mesh.put_plan("billing", _DIGEST)

        self.assertTrue(first.changed)
        self.assertFalse(again.changed)
        self.assertEqual(again.plan.revision, first.plan.revision)
        self.assertEqual(again.plan.generation, first.plan.generation)

    def test_a_retry_with_the_same_request_id_is_answered_as_before(self):
        first = self.mesh.fabric.PutPlan(**plan(), request_id="r-1", expected_revision=0)
        again = self.mesh.fabric.PutPlan(**plan(), request_id="r-1", expected_revision=0)
        self.assertEqual(again.plan.revision, first.plan.revision)

    def test_validate_only_answers_as_if_and_changes_nothing(self):
        before = self.mesh.fabric.Status().revision
        answer = self.mesh.fabric.PutPlan(**plan(), validate_only=True)

        self.assertEqual(answer.plan.app_name, "billing")
        self.assertEqual(self.mesh.fabric.Status().revision, before)
        self.assert_fails(
            "NOT_FOUND", "PLAN_NOT_FOUND", self.mesh.fabric.GetPlan, app_name="billing"
        )

    def test_a_budget_may_come_before_its_plan(self):
        self.mesh.fabric.PutBudget(**budget())
        self.assertEqual(
            self.mesh.fabric.GetBudget(app_name="billing").budget.cpu_milli, 100
        )


if __name__ == "__main__":
    mesh.main()
