"""A mesh under mutual TLS: who has no certificate of its CA gets nothing."""

import grpc

from harness import contracts, mesh, paths, processes, tls


class TlsTest(mesh.MeshTestCase):
    def setUp(self):
        self.authority = tls.Authority(self.directory / "tls")
        self.mesh = self.new_mesh(tls=self.authority.issue("mesh"))

    def test_a_whole_mesh_works_and_refuses_strangers(self):
        self.mesh.start()
        self.mesh.deploy(min=2)
        self.assertEqual(self.mesh.get("/probe/").status, 200)

        for name, service in self.mesh.services.items():
            with self.subTest(name):
                self.assert_refuses_strangers(service.grpc_address)
                health = contracts.Stub(service.channel, mesh.HEALTH)
                self.assertTrue(health.Check().status)

        # What the mesh does when it changes goes over TLS too.
        self.mesh.fabric.DeletePlan(app_name="probe")
        self.mesh.wait_ready("probe", 0)

    def assert_refuses_strangers(self, address):
        ca = self.authority.certificate.read_bytes()
        stranger = tls.Authority(self.directory / "stranger").issue("stranger")
        attempts = {
            "no TLS": grpc.insecure_channel(address),
            "no certificate": grpc.secure_channel(
                address, grpc.ssl_channel_credentials(ca)
            ),
            "a certificate of another CA": grpc.secure_channel(
                address,
                grpc.ssl_channel_credentials(
                    ca, stranger.key.read_bytes(), stranger.certificate.read_bytes()
                ),
            ),
        }
        for what, channel in attempts.items():
            with channel:
                health = contracts.Stub(channel, mesh.HEALTH)
                failure = contracts.failure_of(health.Check, timeout=5)
                self.assertIsNotNone(failure, what)
                self.assertEqual(failure.code, "UNAVAILABLE", what)

    def test_a_client_does_not_talk_to_a_server_of_another_ca(self):
        self.mesh.start_repo()
        stranger = tls.Authority(self.directory / "stranger").issue("stranger")
        channel = grpc.secure_channel(
            self.mesh.services["repo"].grpc_address, stranger.channel_credentials()
        )
        with channel:
            stub = contracts.Stub(channel, mesh.REPO)
            failure = contracts.failure_of(stub.List, timeout=5)
        self.assertEqual(failure.code, "UNAVAILABLE")

    def test_without_certificates_only_loopback_is_served(self):
        for binary in ("fabric", "repo"):
            with self.subTest(binary):
                status, _, err = processes.run(
                    [
                        paths.binary(f"services/{binary}"),
                        "--listen=0.0.0.0:0",
                        f"--data_dir={self.directory / binary}",
                    ]
                )
                self.assertNotEqual(status, 0)
                self.assertIn("0.0.0.0:0", err)
                self.assertIn("tls_", err)

    def test_half_an_identity_is_refused_with_what_is_missing(self):
        status, _, err = processes.run(
            [
                paths.binary("services/repo"),
                "--listen=127.0.0.1:0",
                f"--data_dir={self.directory / 'repo'}",
                f"--tls_cert={self.mesh.tls.certificate}",
            ]
        )
        self.assertNotEqual(status, 0)
        self.assertIn("tls_key", err)

    def test_a_missing_certificate_file_is_named(self):
        missing = self.directory / "nothing.pem"
        flags = [f"--tls_{part}={missing}" for part in ("cert", "key", "ca")]
        status, _, err = processes.run(
            [
                paths.binary("services/repo"),
                "--listen=127.0.0.1:0",
                f"--data_dir={self.directory / 'repo'}",
                *flags,
            ]
        )
        self.assertNotEqual(status, 0)
        self.assertIn(str(missing), err)


if __name__ == "__main__":
    mesh.main()
