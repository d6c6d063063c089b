"""Updates under load: no request fails, though the app has no shutdown code."""

from harness import mesh, processes

_QUICK = dict(strategy=dict(min_ready=dict(seconds=0)))


class RollingUpdateTest(mesh.MeshTestCase):
    def version(self, the_mesh, version, **members):
        spore = the_mesh.probe_spore(env={"VERSION": version, **members})
        the_mesh.publish(spore)
        return spore

    def test_no_request_fails_while_all_instances_are_replaced(self):
        the_mesh = self.new_mesh().start(agents=2, edges=2)
        edges = ["edge-1", "edge-2"]
        old = self.version(the_mesh, "old")
        new = self.version(the_mesh, "new")
        the_mesh.put_plan("probe", old, min=3, **_QUICK)
        the_mesh.wait_routed("probe", 3, digest=old.digest)
        # Slow requests are in flight at every moment of every drain.
        quick = the_mesh.load("/probe/", edges, connections=4)
        slow = the_mesh.load("/probe/slow?ms=300", edges, connections=6)
        slow.wait_for_more(12)

        for spore in (new, old, new):
            before = {e.instance_id for e in the_mesh.ready_endpoints("probe")}
            the_mesh.put_plan("probe", spore, min=3, **_QUICK)
            after = the_mesh.wait_routed("probe", 3, digest=spore.digest)
            the_mesh.wait_ready("probe", 3)
            self.assertFalse(before & {e.instance_id for e in after})
            slow.wait_for_more(12)

        for load in (quick, slow):
            self.assertEqual(load.stop(), [], load.summary())
            self.assertEqual(load.reopened, 0, load.summary())
        self.assertGreaterEqual(len(quick.answered_by), 6, "old and new ones answered")
        self.assertEqual(the_mesh.get_json("/probe/")["version"], "new")
        processes.wait_until(
            lambda: len(the_mesh.workload_pids()) == 3, 30, "the old ones are gone"
        )

    def test_an_update_that_does_not_start_leaves_the_old_ones_in_place(self):
        the_mesh = self.new_mesh().start()
        good = self.version(the_mesh, "good")
        broken = self.version(the_mesh, "broken", FAIL_AT_START="yes")
        the_mesh.put_plan("probe", good, min=2, **_QUICK)
        the_mesh.wait_routed("probe", 2)
        slots = the_mesh.watch("Slots", app_name="probe")
        load = the_mesh.load("/probe/", connections=2)

        the_mesh.put_plan("probe", broken, min=2, **_QUICK)

        slots.wait_for(
            lambda state: any(
                s.digest == broken.digest and s.restarts >= 2 for s in state.values()
            ),
            60,
            "the new instance fails again and again",
        )
        load.wait_for_more(50)
        self.assertEqual(len(the_mesh.ready_endpoints("probe", good.digest)), 2)
        the_mesh.put_plan("probe", good, min=2, **_QUICK)
        the_mesh.wait_routed("probe", 2, digest=good.digest)
        self.assertEqual(load.stop(), [], load.summary())
        self.assertEqual(load.reopened, 0, load.summary())

    def test_an_update_that_never_gets_healthy_leaves_the_old_ones_in_place(self):
        the_mesh = self.new_mesh().start()
        good = self.version(the_mesh, "good")
        sick = the_mesh.probe_spore(
            env={"VERSION": "sick"}, health=dict(path="/unhealthy")
        )
        the_mesh.publish(sick)
        the_mesh.put_plan("probe", good, min=2, **_QUICK)
        the_mesh.wait_routed("probe", 2)
        load = the_mesh.load("/probe/", connections=2)
        slots = the_mesh.watch("Slots", app_name="probe")

        the_mesh.put_plan("probe", sick, min=2, **_QUICK)

        slots.wait_for(
            lambda state: any(
                s.digest == sick.digest and s.state == mesh.SLOT["STATE_STARTING"]
                for s in state.values()
            ),
            what="the new instance starts",
        )
        load.wait_for_more(100)
        self.assertEqual(len(the_mesh.ready_endpoints("probe", good.digest)), 2)
        self.assertFalse(the_mesh.ready_endpoints("probe", sick.digest))
        self.assertEqual(load.stop(), [], load.summary())


if __name__ == "__main__":
    mesh.main()
