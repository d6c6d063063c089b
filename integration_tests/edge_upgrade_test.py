"""Upgrades of a running edge: the mesh goes on, and no request fails."""

import os
import signal

from harness import mesh, processes

_QUICK = dict(strategy=dict(min_ready=dict(seconds=0)))


class EdgeUpgradeTest(mesh.MeshTestCase):
    def start(self):
        self.pid_file = self.directory / "edge.pid"
        the_mesh = self.new_mesh()
        the_mesh.start_repo()
        the_mesh.start_fabric()
        the_mesh.start_edge("edge-1", flags=[f"--pid_file={self.pid_file}"])
        the_mesh.start_agent("node-1")
        the_mesh.start_agent("node-2")
        # The processes that follow the first one are not the mesh's own.
        self.addCleanup(self.kill_successor)
        return the_mesh

    def serving(self):
        return int(self.pid_file.read_text())

    def kill_successor(self):
        if self.pid_file.exists():
            processes.kill_pid(self.serving())

    def upgrade(self, the_mesh):
        """Returns when another process serves and answers."""
        edge = the_mesh.services["edge-1"]
        done = "draining what is under way here"
        before = edge.process.log().count(done)
        os.kill(self.serving(), signal.SIGHUP)
        processes.wait_until(
            lambda: edge.process.log().count(done) > before,
            30,
            lambda: f"the edge hands over:\n{edge.process.log_tail()}",
        )
        edge.wait_serving()

    def wait_routed(self, the_mesh, spore, count):
        ready = the_mesh.wait_ready("probe", count, digest=spore.digest)
        wanted = {e.instance_id for e in ready}
        processes.wait_until(
            lambda: the_mesh.routed("probe") == wanted, 10, "the edge routes"
        )

    def edge_ids(self, the_mesh):
        return [e.edge_id for e in the_mesh.fabric.ListEdges().edges]

    def test_no_request_fails_while_the_edge_and_its_app_are_updated(self):
        the_mesh = self.start()
        old = the_mesh.probe_spore(env={"VERSION": "old"})
        new = the_mesh.probe_spore(env={"VERSION": "new"})
        for spore in (old, new):
            the_mesh.publish(spore)
        the_mesh.put_plan("probe", old, min=3, **_QUICK)
        self.wait_routed(the_mesh, old, 3)
        [edge_id] = self.edge_ids(the_mesh)
        first = the_mesh.services["edge-1"].process
        quick = the_mesh.load("/probe/", connections=4)
        slow = the_mesh.load("/probe/slow?ms=300", connections=6)
        slow.wait_for_more(12)

        # Requests of both processes are in flight at what is drained.
        for spore in (new, old, new):
            the_mesh.put_plan("probe", spore, min=3, **_QUICK)
            self.upgrade(the_mesh)
            self.wait_routed(the_mesh, spore, 3)
            slow.wait_for_more(12)

        for load in (quick, slow):
            self.assertEqual(load.stop(), [], load.summary())
            self.assertEqual(load.reopened, 0, load.summary())
        self.assertEqual(first.wait(30), 0)
        self.assertNotEqual(self.serving(), first.pid)
        # With the old ones gone, the last one has the edge's name.
        processes.wait_until(
            lambda: self.edge_ids(the_mesh) == [edge_id],
            30,
            lambda: f"one edge {edge_id}, now {self.edge_ids(the_mesh)}",
        )
        self.assertEqual(the_mesh.get_json("/probe/")["version"], "new")

    def test_an_edge_does_not_hand_over_while_the_fabric_is_away(self):
        the_mesh = self.start()
        spore = the_mesh.probe_spore()
        the_mesh.publish(spore)
        the_mesh.put_plan("probe", spore, min=1, **_QUICK)
        self.wait_routed(the_mesh, spore, 1)
        first = the_mesh.services["edge-1"].process
        load = the_mesh.load("/probe/", connections=2)
        load.wait_for_more(5)
        the_mesh.services["fabric"].kill()

        os.kill(self.serving(), signal.SIGHUP)
        load.wait_for_more(50)
        self.assertEqual(self.serving(), first.pid)
        the_mesh.services["fabric"].start()

        processes.wait_until(
            lambda: self.serving() != first.pid, 30, "the edge hands over"
        )
        load.wait_for_more(50)
        self.assertEqual(load.stop(), [], load.summary())


if __name__ == "__main__":
    mesh.main()
