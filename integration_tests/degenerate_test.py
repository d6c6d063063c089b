"""Full disks, taken ports, wrong flags and orderly ends."""

import os
import socket
import subprocess
import unittest

from harness import contracts, mesh, paths, processes, spores


class DiskTest(mesh.MeshTestCase):
    @unittest.skipIf(os.geteuid() != 0, "mounting a small file system needs root")
    def test_a_full_disk_is_a_clean_error_and_small_spores_still_fit(self):
        the_mesh = self.new_mesh()
        disk = the_mesh.data_dir("repo")
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], check=True
        )
        self.addCleanup(subprocess.run, ["umount", "-l", str(disk)], check=True)
        the_mesh.start_repo()
        large = spores.pack(the_mesh.key, "large", os.urandom(8 << 20))

        for _ in range(3):
            self.assert_fails(
                "RESOURCE_EXHAUSTED", "DISK_FULL", mesh.put_spore, the_mesh.repo, large
            )

        self.assertFalse(the_mesh.repo.List().spores)
        used = os.statvfs(disk)
        self.assertLess((used.f_blocks - used.f_bfree) * used.f_frsize, 1 << 20)
        the_mesh.publish(spores.pack(the_mesh.key, "small", os.urandom(1 << 20)))
        self.assertEqual(len(the_mesh.repo.List().spores), 1)

    @unittest.skipIf(os.geteuid() != 0, "mounting a small file system needs root")
    def test_a_fabric_without_disk_refuses_writes_keeps_reading_and_recovers(self):
        the_mesh = self.new_mesh()
        disk = the_mesh.data_dir("fabric")
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True
        )
        self.addCleanup(subprocess.run, ["umount", "-l", str(disk)], check=True)
        the_mesh.start_fabric()
        digest = "a" * 64
        the_mesh.put_plan("first", digest, min=0, max=1)
        filler = disk / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

        failure, acknowledged = None, []
        ballast = [dict(type="TEST", message="x" * 4000)] * 50
        for number in range(500):
            name = f"app-{number}"
            failure = contracts.failure_of(
                the_mesh.put_plan, name, digest, min=0, max=1
            )
            if failure:
                break
            acknowledged.append(name)
            failure = contracts.failure_of(
                the_mesh.fabric.RecordEvents, events=ballast
            )
            if failure:
                break

        self.assertIsNotNone(failure, "the disk never got full")
        self.assertEqual((failure.code, failure.reason), ("UNAVAILABLE", "STORE_UNAVAILABLE"))
        self.assertIsNotNone(failure.retry_delay_s)
        self.assertTrue(the_mesh.fabric.GetPlan(app_name="first").plan)

        filler.unlink()
        processes.wait_until(
            lambda: not contracts.failure_of(
                the_mesh.put_plan, "after", digest, min=0, max=1
            ),
            20,
            "writes work again when there is room",
        )
        the_mesh.services["fabric"].kill()
        the_mesh.services["fabric"].start()
        for name in ["first", *acknowledged, "after"]:
            the_mesh.fabric.GetPlan(app_name=name)

    def test_a_data_directory_that_cannot_be_used_is_named(self):
        in_the_way = self.directory / "file"
        in_the_way.write_text("not a directory")
        for service in ("fabric", "repo"):
            with self.subTest(service):
                status, _, err = processes.run(
                    [
                        paths.binary(f"services/{service}"),
                        "--listen=127.0.0.1:0",
                        f"--data_dir={in_the_way}/data",
                    ]
                )
                self.assertNotEqual(status, 0)
                self.assertIn(str(in_the_way), err)

    def test_a_store_of_rubbish_is_refused_and_left_as_it_is(self):
        the_mesh = self.new_mesh()
        the_mesh.start_fabric()
        the_mesh.put_plan("billing", "a" * 64)
        the_mesh.services["fabric"].process.terminate()
        stores = [p for p in the_mesh.data_dir("fabric").rglob("*") if p.is_file()]
        self.assertTrue(stores)
        rubbish = b"this is not a database" * 1000
        for path in stores:
            path.write_bytes(rubbish)

        status, _, err = processes.run(
            [
                paths.binary("services/fabric"),
                "--listen=127.0.0.1:0",
                f"--data_dir={the_mesh.data_dir('fabric')}",
            ]
        )

        self.assertNotEqual(status, 0)
        self.assertIn(str(the_mesh.data_dir("fabric")), err)
        self.assertIn(rubbish, [path.read_bytes() for path in stores])


class FlagsTest(mesh.MeshTestCase):
    def flags(self, service):
        return {
            "fabric": [f"--data_dir={self.directory / 'fabric'}"],
            "repo": [f"--data_dir={self.directory / 'repo'}"],
            "edge": ["--static_endpoints=app=http://127.0.0.1:1"],
        }[service]

    def test_a_port_that_is_taken_is_named(self):
        for service in ("fabric", "repo", "edge"):
            with self.subTest(service), socket.create_server(("127.0.0.1", 0)) as taken:
                address = "127.0.0.1:{}".format(taken.getsockname()[1])
                flags = self.flags(service)
                if service == "edge":
                    flags.append("--grpc_listen=127.0.0.1:0")
                status, _, err = processes.run(
                    [
                        paths.binary(f"services/{service}"),
                        f"--listen={address}",
                        *flags,
                    ]
                )

                self.assertNotEqual(status, 0)
                self.assertIn(address, err)
                self.assertRegex(err.lower(), "in use|taken")

    def test_an_edges_grpc_port_that_is_taken_is_named(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = "127.0.0.1:{}".format(taken.getsockname()[1])
            status, _, err = processes.run(
                [
                    paths.binary("services/edge"),
                    "--listen=127.0.0.1:0",
                    f"--grpc_listen={address}",
                    *self.flags("edge"),
                ]
            )
        self.assertNotEqual(status, 0)
        self.assertIn(address, err)

    def test_wrong_values_of_flags_are_named(self):
        cases = [
            ("fabric", ["--store=paper"], "paper"),
            ("fabric", ["--listen=nonsense"], "nonsense"),
            ("fabric", ["--listen=127.0.0.1:99999"], "99999"),
            ("repo", ["--listen=127.0.0.1:0", "--trust_store=/nothing"], "/nothing"),
            ("repo", ["--listen=127.0.0.1:0", "--max_spore_bytes=-1"], "max_spore_bytes"),
            ("edge", ["--listen=127.0.0.1:0", "--static_endpoints=junk"], "junk"),
        ]
        for service, flags, named in cases:
            with self.subTest(service=service, flags=flags):
                status, _, err = processes.run(
                    [paths.binary(f"services/{service}"), *self.flags(service), *flags]
                )
                self.assertNotEqual(status, 0)
                self.assertIn(named, err)

    def test_an_agent_without_a_trust_store_does_not_start(self):
        flags = [
            "--node_id=n",
            f"--data_dir={self.directory / 'agent'}",
            "--listen=127.0.0.1:0",
            "--fabric=127.0.0.1:1",
            "--repo=127.0.0.1:1",
        ]
        for trust in ([], ["--trust_store=/nothing"]):
            with self.subTest(trust):
                status, _, err = processes.run(
                    [paths.binary("services/agent"), *flags, *trust]
                )
                self.assertNotEqual(status, 0)
                self.assertIn("trust_store" if not trust else "/nothing", err)


class OrderTest(mesh.MeshTestCase):
    def test_each_service_ends_quickly_with_0_and_leaves_nothing(self):
        the_mesh = self.new_mesh().start(agents=2)
        the_mesh.deploy(min=4)
        watch = the_mesh.watch("Plans")  # An open stream must not hold the end up.

        for name in ("node-1", "node-2", "edge-1", "repo", "fabric"):
            with self.subTest(name):
                status, seconds = the_mesh.services[name].process.terminate(60)
                self.assertEqual(status, 0)
                self.assertLess(seconds, 10)

        watch.stop()
        self.assertFalse(the_mesh.workload_pids())

    def test_services_may_start_in_any_order(self):
        the_mesh = self.new_mesh()
        fabric = the_mesh.start_fabric(repo=False)
        the_mesh.start_repo()
        fabric.kill()
        # Nothing that an agent or an edge needs is there.
        the_mesh.services["repo"].kill()
        the_mesh.start_agent()
        the_mesh.start_edge()
        the_mesh.services["repo"].start()
        fabric.start()

        the_mesh.deploy(min=1)

        self.assertEqual(the_mesh.get("/probe/").status, 200)

    def test_a_node_id_that_is_in_use_is_not_taken_over(self):
        the_mesh = self.new_mesh().start()
        the_mesh.deploy(min=1)
        before = the_mesh.get_json("/probe/")
        twin = processes.Process(
            "twin",
            [
                paths.binary("services/agent"),
                f"--node_id={the_mesh.node_id('node-1')}",
                f"--data_dir={the_mesh.data_dir('twin')}",
                f"--trust_store={the_mesh.trust_store}",
                "--listen=127.0.0.1:0",
                f"--fabric={the_mesh.services['fabric'].grpc_address}",
                f"--repo={the_mesh.services['repo'].grpc_address}",
            ],
            the_mesh.directory,
        )
        self.addCleanup(lambda: twin.running and twin.kill())

        processes.wait_until(
            lambda: "NODE_ACTIVE" in twin.log() or not twin.running,
            20,
            "the second agent is told that the id is in use",
        )
        self.assertIn(the_mesh.node_id("node-1"), twin.log())
        self.assertEqual(the_mesh.get_json("/probe/"), before)


if __name__ == "__main__":
    mesh.main()
