"""Minimum, maximum and budgets, held at every revision that anyone can see."""

from harness import contracts, mesh, processes

_QUICK = dict(strategy=dict(min_ready=dict(seconds=0), drain_timeout=dict(seconds=1)))


class ScalingTest(mesh.MeshTestCase):
    def setUp(self):
        self.mesh = self.new_mesh().start(agents=2)

    def scale(self, count):
        self.mesh.fabric.ScaleApp(app_name="probe", count=count)
        self.mesh.wait_routed("probe", count)

    def test_the_count_moves_between_min_and_max_and_not_beyond(self):
        self.mesh.deploy(min=2, max=4, **_QUICK)

        self.scale(4)
        self.scale(3)
        self.scale(2)

        for count in (1, 5, 0, -1):
            failure = contracts.failure_of(
                self.mesh.fabric.ScaleApp, app_name="probe", count=count
            )
            self.assertEqual(
                (failure.code, failure.reason), ("OUT_OF_RANGE", "COUNT_OUT_OF_RANGE")
            )
            self.assertEqual(failure.metadata, dict(min="2", max="4"))
        self.assertEqual(len(self.mesh.ready_endpoints("probe")), 2)

    def test_a_plan_keeps_the_count_as_far_as_its_bounds_allow(self):
        spore = self.mesh.deploy(min=1, max=4, **_QUICK)
        self.scale(3)

        kept = self.mesh.put_plan("probe", spore, min=1, max=4, port=0, **_QUICK)
        raised = self.mesh.put_plan("probe", spore, min=4, max=5, **_QUICK)
        lowered = self.mesh.put_plan("probe", spore, min=1, max=2, **_QUICK)

        self.assertEqual(kept.plan.count, 3)
        self.assertEqual(raised.plan.count, 4)
        self.assertEqual(lowered.plan.count, 2)
        self.mesh.wait_routed("probe", 2)
        processes.wait_until(
            lambda: len(self.mesh.workload_pids()) == 2, 30, "the surplus is gone"
        )

    def test_min_zero_runs_nothing_and_an_app_can_come_back_from_it(self):
        spore = self.mesh.deploy(min=1, **_QUICK)

        self.mesh.put_plan("probe", spore, min=0, max=1, **_QUICK)
        self.mesh.fabric.ScaleApp(app_name="probe", count=0)
        self.mesh.wait_routed("probe", 0)
        processes.wait_until(
            lambda: not self.mesh.workload_pids(), 30, "nothing runs any more"
        )
        self.assertEqual(self.mesh.get("/probe/").status, 503)
        self.scale(1)

        self.assertEqual(self.mesh.get("/probe/").status, 200)

    def test_never_more_than_the_budget_runs_at_any_revision(self):
        limit = _Limit(3)
        slots = self.mesh.watch("Slots", limit.see_slots, app_name="probe")
        endpoints = self.mesh.watch("Endpoints", limit.see_endpoints, app_name="probe")
        self.mesh.fabric.PutBudget(budget=dict(app_name="probe", max_instances=3))
        spore = self.mesh.probe_spore()
        self.mesh.publish(spore)

        answer = self.mesh.put_plan("probe", spore, min=5, max=8, **_QUICK)
        self.assertTrue(answer.warnings, "the budget allows fewer than min")
        self.mesh.wait_routed("probe", 3)
        self.assert_waits_for_budget(slots, 2)

        # A lower budget stops the surplus; a higher one lets the rest in.
        self.put_budget(2)
        self.mesh.wait_routed("probe", 2)
        processes.wait_until(
            lambda: len(self.mesh.workload_pids()) == 2, 30, "the surplus is gone"
        )
        limit.count = 4
        self.put_budget(4)
        self.mesh.wait_routed("probe", 4)

        # Nor does a rollout take more than the budget gives.
        new = self.mesh.probe_spore(env={"VERSION": "new"})
        self.mesh.publish(new)
        self.mesh.put_plan("probe", new, min=5, max=8, **_QUICK)
        self.mesh.wait_routed("probe", 4, digest=new.digest)

        self.mesh.fabric.DeleteBudget(app_name="probe")
        limit.count = 8
        self.mesh.wait_routed("probe", 5)
        self.assertEqual(limit.violations, [])
        self.assertEqual(slots.violations + endpoints.violations, [])

    def put_budget(self, count):
        self.mesh.fabric.PutBudget(budget=dict(app_name="probe", max_instances=count))

    def assert_waits_for_budget(self, slots, count):
        def waiting(state):
            pending = [s for s in state.values() if s.claim_revision == 0]
            return all(s.reason for s in pending) and len(pending) <= count

        slots.wait_for(waiting, what="what is not claimed says why")

    def test_a_budget_of_processor_time_bounds_what_is_reserved(self):
        self.mesh.fabric.PutBudget(budget=dict(app_name="probe", cpu_milli=100))
        spore = self.mesh.probe_spore(nutrients=dict(cpu_milli=50, memory_mb=32))
        self.mesh.publish(spore)
        limit = _Limit(2)
        self.mesh.watch("Slots", limit.see_slots, app_name="probe")

        self.mesh.put_plan("probe", spore, min=3, max=3, **_QUICK)

        self.mesh.wait_routed("probe", 2)
        self.mesh.fabric.PutBudget(budget=dict(app_name="probe", cpu_milli=150))
        limit.count = 3
        self.mesh.wait_routed("probe", 3)
        self.assertEqual(limit.violations, [])

    def test_what_no_node_has_room_for_waits_and_says_so(self):
        spore = self.mesh.probe_spore(nutrients=dict(cpu_milli=5000, memory_mb=32))
        self.mesh.publish(spore)
        slots = self.mesh.watch("Slots", app_name="probe")

        # 8000 on each of two nodes: room for one on each.
        self.mesh.put_plan("probe", spore, min=3, max=3, **_QUICK)

        self.mesh.wait_routed("probe", 2)
        slots.wait_for(
            lambda state: any(s.reason == "NO_CAPACITY" for s in state.values()),
            what="the third slot says that there is no room",
        )
        self.mesh.start_agent("node-3")
        self.mesh.wait_routed("probe", 3)

    def test_a_deleted_plan_stops_everything_and_is_forgotten_by_the_edge(self):
        self.mesh.deploy(min=2, **_QUICK)

        self.mesh.fabric.DeletePlan(app_name="probe")

        self.mesh.wait_ready("probe", 0)
        processes.wait_until(
            lambda: not self.mesh.workload_pids(), 30, "all instances are stopped"
        )
        processes.wait_until(
            lambda: self.mesh.get("/probe/").status == 404, 10, "the edge forgets it"
        )
        processes.wait_until(
            lambda: not self.mesh.fabric.ListSlots(app_name="probe").slots,
            10,
            "no slot is left",
        )

    def test_a_drained_node_is_emptied_without_going_below_min(self):
        self.mesh.deploy(min=2, **_QUICK)
        drained = self.mesh.node_id("node-1")
        seen = []

        def observe(_, state):
            seen.append(
                sum(e.state == mesh.ENDPOINT["STATE_READY"] for e in state.values())
            )

        self.mesh.watch("Endpoints", observe, app_name="probe")
        self.mesh.fabric.DrainNode(node_id=drained)

        processes.wait_until(
            lambda: not self.mesh.workload_pids("node-1"), 60, "the node is empty"
        )
        endpoints = self.mesh.wait_routed("probe", 2)
        self.assertEqual({e.node_id for e in endpoints}, {self.mesh.node_id("node-2")})
        self.assertGreaterEqual(min(seen), 2, "replacements come first")


class _Limit:
    """Counts at each revision what holds a claim or an endpoint."""

    def __init__(self, count):
        self.count = count
        self.violations = []

    def see_slots(self, revision, state):
        claimed = [s for s in state.values() if s.claim_revision]
        if len(claimed) > self.count:
            self.violations.append(f"{len(claimed)} claims at revision {revision}")

    def see_endpoints(self, revision, state):
        if len(state) > self.count:
            self.violations.append(f"{len(state)} endpoints at revision {revision}")


if __name__ == "__main__":
    mesh.main()
