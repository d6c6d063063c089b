"""What agents and edges hold of the fabric, by scripted ones: leases, claims and
acknowledged drains."""

import concurrent.futures
import queue
import threading

import grpc

from harness import contracts, mesh, processes

_DIGEST = "0123456789abcdef" * 4
_READY = mesh.ENDPOINT["STATE_READY"]
_DRAINING = mesh.ENDPOINT["STATE_DRAINING"]
_DRAINED = mesh.ENDPOINT["STATE_DRAINED"]


class ScriptedAgent:
    """Holds a node's lease, and does with it what a test says."""

    def __init__(self, fabric, node_id, ttl_s=10, previous_lease_id=""):
        self.node_id = node_id
        self._fabric = fabric
        self.joined = fabric.JoinNode(
            node=dict(
                node_id=node_id,
                address="127.0.0.1:1",
                capacity=dict(cpu_milli=1000, memory_mb=1000),
            ),
            lease_ttl=dict(seconds=ttl_s),
            previous_lease_id=previous_lease_id,
        )
        self.lease_id = self.joined.lease_id
        self._beats = queue.Queue()
        self._stream = fabric.Heartbeat(iter(self._beats.get, None))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self):
        while not self._stopping.is_set():
            self._beats.put(dict(node_id=self.node_id, lease_id=self.lease_id))
            try:
                next(self._stream)
            except (StopIteration, grpc.RpcError):
                return
            self._stopping.wait(0.2)

    def die(self):
        """Heartbeats end, without a word."""
        self._stopping.set()
        self._stream.cancel()
        self._beats.put(None)
        self._thread.join()

    def claim(self, slot, instance_id):
        return self._fabric.ClaimSlot(
            app_name=slot.app_name,
            index=slot.index,
            generation=slot.generation,
            node_id=self.node_id,
            lease_id=self.lease_id,
            instance_id=instance_id,
        ).slot

    def register(self, slot, port=8081):
        return self._fabric.RegisterEndpoint(
            endpoint=dict(
                app_name=slot.app_name,
                url=f"http://127.0.0.1:{port}",
                node_id=self.node_id,
                instance_id=slot.instance_id,
                digest=slot.digest,
                state=_READY,
                generation=slot.generation,
                index=slot.index,
                claim_revision=slot.claim_revision,
            ),
            lease_id=self.lease_id,
        ).endpoint

    def drain(self, endpoint, timeout_s):
        return self._fabric.UpdateEndpoint(
            app_name=endpoint.app_name,
            instance_id=endpoint.instance_id,
            lease_id=self.lease_id,
            state=_DRAINING,
            drain_timeout=dict(seconds=timeout_s),
        ).endpoint


class ScriptedEdge:
    """An edge that says what a test says."""

    def __init__(self, fabric, edge_id):
        self._reports = queue.Queue()
        self.call = threading.Thread(target=self._run, args=(fabric,), daemon=True)
        self._reports.put(dict(edge=dict(edge_id=edge_id)))
        self._epoch = fabric.Status().epoch
        self.call.start()

    def _run(self, fabric):
        try:
            fabric.ReportEdge(iter(self._reports.get, None), timeout=60)
        except grpc.RpcError:
            pass

    def report(self, endpoint, in_flight, revision=None):
        self._reports.put(
            dict(
                epoch=self._epoch,
                applied_revision=endpoint.revision if revision is None else revision,
                draining=[
                    dict(
                        app_name=endpoint.app_name,
                        instance_id=endpoint.instance_id,
                        in_flight=in_flight,
                    )
                ],
            )
        )

    def leave(self):
        self._reports.put(None)
        self.call.join(10)


class FabricTest(mesh.MeshTestCase):
    def setUp(self):
        self.mesh = self.new_mesh()
        self.mesh.start_fabric()
        self.fabric = self.mesh.fabric

    def agent(self, node_id="node-a", **kwargs):
        agent = ScriptedAgent(self.fabric, node_id, **kwargs)
        self.addCleanup(agent.die)
        return agent

    def edge(self, edge_id):
        edge = ScriptedEdge(self.fabric, edge_id)
        self.addCleanup(edge.leave)
        return edge

    def wait_node(self, nodes, name):
        nodes.wait_for(
            lambda state: [n for n in state.values() if n.state == mesh.NODE[name]],
            10,
            f"the node is {name}",
        )

    def slots(self, count):
        """Plans an app and returns its free slots."""
        self.mesh.put_plan("billing", _DIGEST, min=count)
        watch = self.mesh.watch("Slots", app_name="billing")
        state = watch.wait_for(lambda state: len(state) == count and dict(state))
        return [state[key] for key in sorted(state)]


class LeaseTest(FabricTest):
    def test_what_a_dead_agent_held_goes_in_one_revision(self):
        agent = self.agent(ttl_s=1)
        claimed = [agent.claim(s, f"i-{s.index}") for s in self.slots(3)]
        endpoints = self.mesh.watch("Endpoints")
        slots = self.mesh.watch("Slots")
        nodes = self.mesh.watch("Nodes")
        for slot in claimed:
            agent.register(slot, 8081 + slot.index)
        endpoints.wait_for(lambda state: len(state) == 3)
        slots.wait_for(lambda state: all(s.claim_revision for s in state.values()))

        agent.die()

        endpoints.wait_for(lambda state: not state, 10, "all endpoints are gone")
        slots.wait_for(
            lambda state: not any(s.claim_revision for s in state.values()),
            10,
            "all claims are gone",
        )
        self.wait_node(nodes, "STATE_LOST")
        gone = {revision for revision, _, endpoint in endpoints.history if not endpoint}
        freed = {
            revision
            for revision, _, slot in slots.history
            if slot and not slot.claim_revision and slot.state == mesh.SLOT["STATE_PENDING"]
        }
        self.assertEqual(len(gone), 1)
        self.assertLessEqual(gone, freed)
        self.assertLessEqual(gone, {revision for revision, _, _ in nodes.history})
        for watch in (endpoints, slots, nodes):
            self.assertEqual(watch.violations, [])

    def test_an_agent_that_is_quiet_is_suspect_before_it_is_lost(self):
        agent = self.agent(ttl_s=10)
        nodes = self.mesh.watch("Nodes")
        self.wait_node(nodes, "STATE_READY")

        agent.die()

        self.wait_node(nodes, "STATE_SUSPECT")
        back = self.agent(ttl_s=10, previous_lease_id=agent.lease_id)
        self.assertTrue(back.joined.resumed)
        self.wait_node(nodes, "STATE_READY")

    def test_an_agent_that_returns_in_time_keeps_what_it_had(self):
        agent = self.agent()
        [slot] = self.slots(1)
        slot = agent.claim(slot, "i-0")
        agent.register(slot)
        agent.die()

        back = self.agent(previous_lease_id=agent.lease_id)

        self.assertTrue(back.joined.resumed)
        [endpoint] = self.fabric.ListEndpoints().endpoints
        self.assertEqual(endpoint.claim_revision, slot.claim_revision)
        self.assertEqual(back.claim(slot, "i-0").claim_revision, slot.claim_revision)

    def test_a_node_has_one_agent_at_a_time(self):
        self.agent()
        failure = self.assert_fails(
            "ALREADY_EXISTS", "NODE_ACTIVE", ScriptedAgent, self.fabric, "node-a"
        )
        self.assertEqual(failure.metadata["address"], "127.0.0.1:1")

    def test_an_agent_that_leaves_takes_everything_along(self):
        agent = self.agent()
        [slot] = self.slots(1)
        agent.register(agent.claim(slot, "i-0"))

        left = self.fabric.LeaveNode(node_id="node-a", lease_id=agent.lease_id)

        self.assertGreater(left.revision, 0)
        self.assertFalse(self.fabric.ListEndpoints().endpoints)
        [slot] = self.fabric.ListSlots().slots
        self.assertEqual(slot.claim_revision, 0)
        [node] = self.fabric.ListNodes().nodes
        self.assertEqual(node.state, mesh.NODE["STATE_LEFT"])


class ClaimTest(FabricTest):
    def test_one_of_many_claimers_wins(self):
        agents = [self.agent(f"node-{i}") for i in range(8)]
        slots = self.slots(5)

        def claim(agent):
            won, lost = [], []
            for slot in slots:
                try:
                    won.append(agent.claim(slot, f"{agent.node_id}-{slot.index}"))
                except grpc.RpcError as error:
                    lost.append(contracts.Failure(error))
            return won, lost

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            results = list(pool.map(claim, agents))

        won = [slot for result in results for slot in result[0]]
        lost = [failure for result in results for failure in result[1]]
        self.assertEqual(sorted(s.index for s in won), list(range(5)))
        self.assertEqual(len(lost), 8 * 5 - 5)
        for failure in lost:
            self.assertEqual((failure.code, failure.reason), ("ABORTED", "SLOT_CLAIMED"))
            self.assertIn(failure.metadata["node_id"], {a.node_id for a in agents})
        self.assertEqual(len({s.claim_revision for s in won}), 5, "tokens are unique")

    def test_a_claim_that_was_lost_is_good_for_nothing(self):
        agent = self.agent()
        [slot] = self.slots(1)
        old = agent.claim(slot, "i-old")
        self.fabric.ReleaseSlot(
            app_name="billing",
            index=old.index,
            generation=old.generation,
            claim_revision=old.claim_revision,
        )
        new = agent.claim(slot, "i-new")
        self.assertGreater(new.claim_revision, old.claim_revision)

        self.assert_fails(
            "FAILED_PRECONDITION",
            "CLAIM_LOST",
            self.fabric.UpdateSlot,
            app_name="billing",
            index=old.index,
            generation=old.generation,
            claim_revision=old.claim_revision,
            state=mesh.SLOT["STATE_STARTING"],
        )
        self.assert_fails("FAILED_PRECONDITION", "CLAIM_LOST", agent.register, old)

    def test_a_cordoned_node_claims_nothing(self):
        agent = self.agent()
        [slot] = self.slots(1)
        self.fabric.CordonNode(node_id="node-a")

        self.assert_fails(
            "FAILED_PRECONDITION", "NODE_NOT_SCHEDULABLE", agent.claim, slot, "i"
        )

        self.fabric.UndrainNode(node_id="node-a")
        self.assertTrue(agent.claim(slot, "i").claim_revision)


class DrainTest(FabricTest):
    def setUp(self):
        super().setUp()
        self.owner = self.agent()
        [slot] = self.slots(1)
        self.endpoint = self.owner.register(self.owner.claim(slot, "i-0"))
        self.watch = self.mesh.watch("Endpoints")

    def wait_edges(self, *edge_ids):
        processes.wait_until(
            lambda: {e.edge_id for e in self.fabric.ListEdges().edges} == set(edge_ids),
            10,
            f"the edges {edge_ids} report",
        )

    def state(self):
        [endpoint] = self.fabric.ListEndpoints().endpoints
        return endpoint.state

    def wait_drained(self, timeout_s):
        self.watch.wait_for(
            lambda state: [e for e in state.values() if e.state == _DRAINED],
            timeout_s,
            "it is drained",
        )

    def test_it_ends_when_every_edge_has_applied_it_and_nothing_is_in_flight(self):
        first, second = self.edge("edge-1"), self.edge("edge-2")
        self.wait_edges("edge-1", "edge-2")
        draining = self.owner.drain(self.endpoint, 60)
        self.assertEqual(draining.state, _DRAINING)

        first.report(draining, in_flight=0)
        second.report(draining, in_flight=3)
        second.report(draining, in_flight=1)
        self.put_marker()
        self.assertEqual(self.state(), _DRAINING, "a request is in flight")
        second.report(draining, in_flight=0)

        self.wait_drained(5)

    def test_an_edge_that_has_not_applied_it_is_waited_for(self):
        first = self.edge("edge-1")
        self.wait_edges("edge-1")
        draining = self.owner.drain(self.endpoint, 60)

        first.report(draining, in_flight=0, revision=draining.revision - 1)
        self.put_marker()
        self.assertEqual(self.state(), _DRAINING)
        first.report(draining, in_flight=0)

        self.wait_drained(5)

    def put_marker(self):
        """Something that the fabric does after what it was sent before."""
        marker = self.fabric.RecordEvents(events=[dict(type="MARKER")]).revision
        self.watch.wait_for_revision(marker)

    def test_an_edge_that_leaves_is_not_waited_for(self):
        first, second = self.edge("edge-1"), self.edge("edge-2")
        self.wait_edges("edge-1", "edge-2")
        draining = self.owner.drain(self.endpoint, 60)
        first.report(draining, in_flight=0)

        second.leave()

        self.wait_drained(5)

    def test_it_ends_at_its_timeout_whatever_edges_say(self):
        first = self.edge("edge-1")
        self.wait_edges("edge-1")
        draining = self.owner.drain(self.endpoint, 1)
        first.report(draining, in_flight=7)

        self.wait_drained(5)

    def test_without_edges_it_ends_at_once(self):
        self.owner.drain(self.endpoint, 60)
        self.wait_drained(5)


if __name__ == "__main__":
    mesh.main()
