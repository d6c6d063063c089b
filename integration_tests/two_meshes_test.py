"""Two meshes on one machine do not know of each other."""

from harness import mesh


class TwoMeshesTest(mesh.MeshTestCase):
    def test_each_serves_its_own_and_survives_the_others_end(self):
        first = self.new_mesh("first").start(agents=2)
        second = self.new_mesh("second").start(agents=2)

        for the_mesh, version in ((first, "first"), (second, "second")):
            the_mesh.deploy(
                min=2, spore=the_mesh.probe_spore(env={"VERSION": version})
            )

        for _ in range(4):
            self.assertEqual(first.get_json("/probe/")["version"], "first")
            self.assertEqual(second.get_json("/probe/")["version"], "second")
        self.assertEqual(len(first.fabric.ListNodes().nodes), 2)
        self.assertNotEqual(first.fabric.Status().epoch, second.fabric.Status().epoch)

        load = second.load("/probe/", connections=2)
        load.wait_for_more(20)
        first.close()
        load.wait_for_more(100)
        self.assertEqual(load.stop(), [], load.summary())
        self.assertEqual(len(second.workload_pids()), 2)

    def test_what_one_trusts_the_other_refuses(self):
        first = self.new_mesh("first")
        second = self.new_mesh("second")
        for the_mesh in (first, second):
            the_mesh.start_repo()
        spore = first.probe_spore()

        first.publish(spore)

        failure = self.assert_fails(
            "PERMISSION_DENIED", "SPORE_UNTRUSTED", second.publish, spore
        )
        self.assertEqual(failure.metadata["key_id"], first.key.key_id)


if __name__ == "__main__":
    mesh.main()
