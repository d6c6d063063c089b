"""Each part killed in turn under load, and what users see of it."""

import os
import signal
import threading

import grpc

from harness import contracts, mesh, processes

# What users may lose when a process is killed: the requests that it had.
_CONNECTIONS = 4


class FailureTest(mesh.MeshTestCase):
    def load(self, the_mesh, path="/probe/", **kwargs):
        load = the_mesh.load(path, connections=_CONNECTIONS, **kwargs)
        load.wait_for_more(50)
        return load

    def assert_only_in_flight_failed(self, load):
        failures = load.stop()
        self.assertLessEqual(len(failures), _CONNECTIONS, load.summary())

    def assert_nothing_failed(self, load):
        self.assertEqual(load.stop(), [], load.summary())
        self.assertEqual(load.reopened, 0, load.summary())


class InstanceTest(FailureTest):
    def test_a_killed_instance_is_replaced_and_only_its_requests_are_lost(self):
        the_mesh = self.new_mesh().start()
        the_mesh.deploy(min=2)
        victim = the_mesh.running()[0]
        events = the_mesh.watch("Events", app_name="probe")
        load = self.load(the_mesh)

        processes.kill_pid(victim.pid)

        events.wait_for(
            lambda state: any(e.type == "INSTANCE_EXITED" for e in state.values()),
            what="the exit is an event",
        )
        processes.wait_until(
            lambda: len({i.pid for i in the_mesh.instances()} - {0, victim.pid}) == 2,
            30,
            lambda: f"it is replaced: {the_mesh.instances()}",
        )
        the_mesh.wait_routed("probe", 2)
        load.wait_for_more(100)
        self.assert_only_in_flight_failed(load)
        self.assertNotIn(victim.pid, the_mesh.workload_pids())

    def test_an_instance_that_exits_by_itself_is_started_again(self):
        the_mesh = self.new_mesh().start()
        the_mesh.deploy(min=1)
        before = the_mesh.get_json("/probe/")
        watch = the_mesh.watch("Endpoints", app_name="probe")

        with self.assertRaisesRegex(AssertionError, "502"):
            the_mesh.get_json("/probe/exit?code=3")

        watch.wait_for(
            lambda state: [r for r in watch.history if r[2] is None]
            and any(e.state == mesh.ENDPOINT["STATE_READY"] for e in state.values()),
            what="the endpoint went and came back",
        )
        the_mesh.wait_routed("probe", 1)
        after = the_mesh.get_json("/probe/")
        self.assertNotEqual(after["pid"], before["pid"])


    def test_a_frozen_instance_gets_no_requests_until_it_wakes(self):
        the_mesh = self.new_mesh().start()
        the_mesh.deploy(min=2)
        frozen = the_mesh.running()[0]

        os.kill(frozen.pid, signal.SIGSTOP)

        watch = the_mesh.watch("Endpoints", app_name="probe")
        watch.wait_for(
            lambda state: [
                e
                for e in state.values()
                if e.instance_id == frozen.instance_id
                and e.state == mesh.ENDPOINT["STATE_UNREADY"]
            ],
            20,
            "its probes fail, so it is out of traffic",
        )
        processes.wait_until(
            lambda: frozen.instance_id not in the_mesh.routed("probe"), 5, "routed away"
        )
        for _ in range(20):
            answer = the_mesh.get_json("/probe/")
            self.assertNotEqual(answer["instance"], frozen.instance_id)
        os.kill(frozen.pid, signal.SIGCONT)
        the_mesh.wait_routed("probe", 2)


class AgentTest(FailureTest):
    def test_the_slots_of_a_killed_agent_go_to_other_nodes(self):
        the_mesh = self.new_mesh().start(agents=2)
        the_mesh.deploy(min=4)
        victims = the_mesh.running("node-1")
        self.assertEqual(len(victims), 2, "apps are spread over nodes")
        load = self.load(the_mesh)

        the_mesh.services["node-1"].kill()

        nodes = the_mesh.watch("Nodes")
        lost = the_mesh.node_id("node-1")
        nodes.wait_for(
            lambda state: lost in state
            and state[lost].state == mesh.NODE["STATE_LOST"],
            what="the node is lost",
        )
        survivor = the_mesh.node_id("node-2")
        endpoints = the_mesh.wait_routed("probe", 4)
        self.assertEqual({e.node_id for e in endpoints}, {survivor})
        load.wait_for_more(100)
        self.assert_only_in_flight_failed(load)

        # It comes back: what it left behind is not an orphan.
        the_mesh.services["node-1"].start()
        nodes.wait_for(
            lambda state: lost in state
            and state[lost].state == mesh.NODE["STATE_READY"],
            what="the node is back",
        )
        processes.wait_until(
            lambda: set(the_mesh.workload_pids("node-1"))
            <= {i.pid for i in the_mesh.instances("node-1")},
            20,
            lambda: f"no orphans: {the_mesh.workload_pids('node-1')} run, known are "
            f"{[(i.pid, i.state) for i in the_mesh.instances('node-1')]}",
        )
        the_mesh.wait_routed("probe", 4)

    def test_an_agent_that_slept_past_its_lease_gives_up_what_it_lost(self):
        the_mesh = self.new_mesh().start(agents=2)
        the_mesh.deploy(min=2)
        load = self.load(the_mesh)
        sleeper = the_mesh.services["node-1"].process

        sleeper.signal(signal.SIGSTOP)

        nodes = the_mesh.watch("Nodes")
        lost = the_mesh.node_id("node-1")
        nodes.wait_for(
            lambda state: lost in state
            and state[lost].state == mesh.NODE["STATE_LOST"],
            what="the node is lost",
        )
        the_mesh.wait_routed("probe", 2)
        sleeper.signal(signal.SIGCONT)
        nodes.wait_for(
            lambda state: state[lost].state == mesh.NODE["STATE_READY"],
            what="the node is back",
        )
        processes.wait_until(
            lambda: len(the_mesh.workload_pids()) == 2,
            30,
            lambda: f"two instances are left, not {the_mesh.workload_pids()}",
        )
        the_mesh.wait_routed("probe", 2)
        load.wait_for_more(50)
        self.assert_only_in_flight_failed(load)

    def test_an_agent_that_is_told_to_stop_takes_its_instances_along(self):
        the_mesh = self.new_mesh().start(agents=2)
        the_mesh.deploy(min=2)
        load = self.load(the_mesh)

        status, _ = the_mesh.services["node-1"].process.terminate(timeout_s=60)

        self.assertEqual(status, 0)
        self.assertFalse(the_mesh.workload_pids("node-1"))
        the_mesh.wait_routed("probe", 2)
        load.wait_for_more(100)
        self.assert_nothing_failed(load)


class FabricTest(FailureTest):
    def staleness_s(self, the_mesh):
        """What the metrics of the edge say."""
        page = the_mesh.get("/_mesh/metrics").body.decode()
        name = "mycelium_edge_config_staleness_seconds "
        return float(page.split("\n" + name)[1].split("\n")[0])

    def test_users_notice_nothing_of_a_killed_fabric(self):
        the_mesh = self.new_mesh().start()
        the_mesh.deploy(min=2)
        pids = the_mesh.workload_pids()
        load = self.load(the_mesh)

        the_mesh.services["fabric"].kill()
        processes.wait_until(
            lambda: the_mesh.edge().ListRoutes().HasField("staleness"),
            20,
            "the edge says that what it knows is stale",
        )
        stale = self.staleness_s(the_mesh)
        self.assertGreater(stale, 0)
        processes.wait_until(
            lambda: self.staleness_s(the_mesh) >= stale + 1,
            20,
            "its metric grows with the time",
        )
        load.wait_for_more(200)
        refused = contracts.failure_of(
            the_mesh.fabric.ScaleApp, app_name="probe", count=1
        )
        self.assertEqual(refused.code, "UNAVAILABLE", "new deploys: refused, clearly")

        the_mesh.services["fabric"].start()
        processes.wait_until(
            lambda: not the_mesh.edge().ListRoutes().HasField("staleness"),
            20,
            "the edge hears from the fabric again",
        )
        self.assertEqual(self.staleness_s(the_mesh), 0)
        the_mesh.wait_routed("probe", 2)
        load.wait_for_more(200)
        self.assert_nothing_failed(load)
        self.assertEqual(the_mesh.workload_pids(), pids, "no instance was touched")

    def test_an_instance_that_dies_while_the_fabric_is_away_is_started_again(self):
        the_mesh = self.new_mesh().start()
        the_mesh.deploy(min=2)
        the_mesh.services["fabric"].kill()
        before = set(the_mesh.workload_pids())
        victim = min(before)

        processes.kill_pid(victim)

        processes.wait_until(
            lambda: len(set(the_mesh.workload_pids()) - {victim}) == 2,
            20,
            "the agent started it again by itself",
        )
        the_mesh.services["fabric"].start()
        the_mesh.wait_routed("probe", 2)

    def test_no_acknowledged_write_is_lost_and_watches_resume_exactly(self):
        the_mesh = self.new_mesh()
        fabric = the_mesh.start_fabric()
        watch = the_mesh.watch("Plans")
        writers = [_Writer(the_mesh.fabric, f"w{i}") for i in range(4)]

        for _ in range(5):
            goal = len(writers[0].acknowledged) + 20
            processes.wait_until(
                lambda: len(writers[0].acknowledged) >= goal, 30, "writes go on"
            )
            fabric.kill()
            fabric.start()
        for writer in writers:
            writer.stop()

        stored = {}
        token = ""
        while True:
            page = the_mesh.fabric.ListPlans(page_size=1000, page_token=token)
            stored.update({p.app_name: p for p in page.plans})
            token = page.next_page_token
            if not token:
                break
        for writer in writers:
            for name, maximum in writer.acknowledged.items():
                self.assertIn(name, stored, "acknowledged and lost")
                self.assertEqual(stored[name].max, maximum)
        watch.wait_for_revision(page.revision)
        self.assertEqual(watch.violations, [])
        self.assertEqual(watch.resyncs, 0, "what was missed is still kept")
        self.assertGreaterEqual(watch.resumes, 5)
        self.assertEqual(
            {k: v.revision for k, v in watch.state.items()},
            {k: v.revision for k, v in stored.items()},
        )
        revisions = [revision for revision, _, _ in watch.history]
        self.assertEqual(revisions, sorted(revisions))


class _Writer:
    """Puts plans one after another, and remembers those that it was promised."""

    def __init__(self, fabric, prefix):
        self.acknowledged = {}
        self._fabric = fabric
        self._prefix = prefix
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        number = 0
        while not self._stopping.is_set():
            name = f"{self._prefix}-{number}"
            plan = dict(app_name=name, digest="a" * 64, min=0, max=1 + number % 7)
            try:
                self._fabric.PutPlan(plan=plan, timeout=2)
                self.acknowledged[name] = plan["max"]
                number += 1
            except grpc.RpcError:
                self._stopping.wait(0.02)

    def stop(self):
        self._stopping.set()
        self._thread.join(10)


class RepoTest(FailureTest):
    def test_only_digests_that_no_node_has_need_the_repo(self):
        the_mesh = self.new_mesh().start()
        old = the_mesh.probe_spore(env={"VERSION": "old"})
        new = the_mesh.probe_spore(env={"VERSION": "new"})
        quick = dict(strategy=dict(min_ready=dict(seconds=0)))
        the_mesh.deploy(min=2, spore=old, **quick)
        the_mesh.deploy(min=2, spore=new, **quick)
        load = self.load(the_mesh)

        the_mesh.services["repo"].kill()

        # A crash is healed from the cache.
        processes.kill_pid(the_mesh.running()[0].pid)
        the_mesh.wait_routed("probe", 2, digest=new.digest)
        # What the node has in its cache can still be deployed.
        answer = the_mesh.put_plan("probe", old, min=2, **quick)
        self.assertTrue(answer.warnings, "says that the repo could not be asked")
        the_mesh.wait_routed("probe", 2, digest=old.digest)
        self.assertEqual(the_mesh.get_json("/probe/")["version"], "old")
        self.assert_only_in_flight_failed(load)

        # What it has not waits for the repo, and what runs goes on meanwhile.
        newest = the_mesh.probe_spore(env={"VERSION": "newest"})
        slots = the_mesh.watch("Slots", app_name="probe")
        the_mesh.put_plan("probe", newest, min=2, **quick)
        slots.wait_for(
            lambda state: any(
                s.digest == newest.digest and s.reason for s in state.values()
            ),
            what="the slot says what it waits for",
        )
        self.assertEqual(the_mesh.get_json("/probe/")["version"], "old")
        the_mesh.services["repo"].start()
        the_mesh.publish(newest)
        the_mesh.wait_routed("probe", 2, digest=newest.digest)
        self.assertEqual(the_mesh.get_json("/probe/")["version"], "newest")


class EdgeTest(FailureTest):
    def test_users_of_the_other_edge_notice_nothing(self):
        the_mesh = self.new_mesh().start(edges=2)
        old = the_mesh.deploy(min=2)
        load = self.load(the_mesh, edges=["edge-2"])

        the_mesh.services["edge-1"].kill()

        # Drains wait for edges that live, and a dead one for its lease at most.
        new = the_mesh.probe_spore(env={"VERSION": "new"})
        self.assertNotEqual(new.digest, old.digest)
        the_mesh.publish(new)
        the_mesh.put_plan("probe", new, min=2, strategy=dict(min_ready=dict(seconds=0)))
        the_mesh.wait_ready("probe", 0, digest=old.digest)
        the_mesh.wait_routed("probe", 2, digest=new.digest)
        load.wait_for_more(100)
        self.assert_nothing_failed(load)

        the_mesh.services["edge-1"].start()
        processes.wait_until(
            lambda: self.status(the_mesh, "edge-1") == 200, 20, "edge-1 serves again"
        )

    def status(self, the_mesh, edge):
        try:
            return the_mesh.get("/probe/", edge=edge).status
        except OSError:
            return None

    def test_an_edge_that_is_told_to_stop_finishes_what_it_has(self):
        the_mesh = self.new_mesh().start()
        the_mesh.deploy(min=1)
        answers = []
        slow = threading.Thread(
            target=lambda: answers.append(the_mesh.get("/probe/slow?ms=1000"))
        )
        slow.start()
        processes.wait_until(
            lambda: the_mesh.edge().GetStats().stats.total.in_flight == 1,
            10,
            "the slow request is in flight",
        )

        status, _ = the_mesh.services["edge-1"].process.terminate()

        slow.join(10)
        self.assertEqual([a.status for a in answers], [200])
        self.assertEqual(status, 0)

    def test_the_edge_says_what_it_cannot_do(self):
        the_mesh = self.new_mesh().start()
        the_mesh.put_plan("planned", "a" * 64)
        processes.wait_until(
            lambda: the_mesh.get("/planned/").status == 503, 10, "the plan arrived"
        )

        self.assertEqual(the_mesh.get("/nobody/").status, 404)
        planned = the_mesh.get("/planned/")
        self.assertTrue(int(planned.headers["Retry-After"]) > 0)
        for response in (planned, the_mesh.get("/nobody/")):
            self.assertTrue(response.headers["X-Mycelium-Reason"])
            self.assertTrue(response.headers["X-Request-Id"])


if __name__ == "__main__":
    mesh.main()
