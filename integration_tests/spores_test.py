"""Spores that must not run do not, and the mesh says which check they failed."""

from harness import contracts, mesh, paths, spores


class RefusedByTheRepoTest(mesh.MeshTestCase):
    """What the repo can tell is refused while it arrives, and leaves nothing."""

    def setUp(self):
        self.mesh = self.new_mesh()
        self.mesh.start_repo()

    def assert_refused(self, spore, code, reason, check):
        failure = self.assert_fails(code, reason, mesh.put_spore, self.mesh.repo, spore)
        self.assertEqual(failure.metadata["code"], check)
        self.assertIn(check, failure.message)
        self.assert_fails(
            "NOT_FOUND", "SPORE_NOT_FOUND", self.mesh.repo.Stat, digest=spore.digest
        )
        self.assertFalse(self.mesh.repo.List().spores)

    def test_a_spore_whose_binary_was_changed(self):
        entries = spores.entries_of(self.mesh.probe_spore())
        entries["probe"] = entries["probe"][:-1] + bytes([entries["probe"][-1] ^ 1])

        tampered = spores.Spore(spores.container(entries))

        self.assert_refused(tampered, "INVALID_ARGUMENT", "SPORE_REFUSED", "E_HASH")

    def test_a_spore_whose_manifest_was_changed(self):
        entries = spores.entries_of(self.mesh.probe_spore(args=["--safe"]))
        entries["manifest.json"] = entries["manifest.json"].replace(b"--safe", b"--evil")

        tampered = spores.Spore(spores.container(entries))

        self.assert_refused(tampered, "INVALID_ARGUMENT", "SPORE_REFUSED", "E_SIG")

    def test_a_spore_that_brings_an_unsigned_file(self):
        entries = spores.entries_of(self.mesh.probe_spore())
        entries["zz"] = b"#!/bin/sh\n"

        tampered = spores.Spore(spores.container(entries))

        self.assert_refused(
            tampered, "INVALID_ARGUMENT", "SPORE_REFUSED", "E_UNSIGNED_FILE"
        )

    def test_a_spore_signed_by_a_stranger(self):
        stranger = spores.Key(self.directory / "stranger.pem")

        spore = spores.pack(stranger, "probe", b"#!/bin/true")

        self.assert_refused(
            spore, "PERMISSION_DENIED", "SPORE_UNTRUSTED", "E_UNTRUSTED_KEY"
        )

    def test_a_spore_signed_for_a_name_that_is_not_the_signers(self):
        team = spores.Key(self.directory / "team.pem")
        self.mesh.trust_store.write_text(
            spores.trust_store({self.mesh.key: ["*"], team: ["payments/*"]})
        )
        self.mesh.services["repo"].process.terminate()
        self.mesh.services["repo"].start()

        self.mesh.publish(spores.pack(team, "payments/probe", b"#!/bin/true"))
        spore = spores.pack(team, "probe", b"#!/bin/true")

        failure = self.assert_fails(
            "PERMISSION_DENIED", "SPORE_UNTRUSTED", mesh.put_spore, self.mesh.repo, spore
        )
        self.assertEqual(failure.metadata["code"], "E_NOT_AUTHORIZED")
        self.assertEqual(len(self.mesh.repo.List().spores), 1)

    def test_what_a_stranger_packs_by_the_document_is_stored_as_it_is(self):
        spore = self.mesh.probe_spore("shop/probe", version="2.1.0")

        put = self.mesh.publish(spore)
        again = self.mesh.publish(spore)

        self.assertFalse(put.existed)
        self.assertTrue(again.existed)
        self.assertEqual(put.spore.digest, spore.digest)
        self.assertEqual(put.spore.size_bytes, len(spore.data))
        self.assertEqual(put.spore.name, "shop/probe")
        self.assertEqual(put.spore.app_name, "probe")
        self.assertEqual(put.spore.version, "2.1.0")
        self.assertEqual(put.spore.key_id, self.mesh.key.key_id)
        self.assertTrue(put.spore.trusted)
        got = b"".join(r.chunk for r in self.mesh.repo.Get(digest=spore.digest))
        self.assertEqual(got, spore.data)
        rest = b"".join(r.chunk for r in self.mesh.repo.Get(digest=spore.digest, offset=1000))
        self.assertEqual(rest, spore.data[1000:])


class RefusedByTheAgentTest(mesh.MeshTestCase):
    """Agents trust nobody but their own trust store, least of all the repo."""

    def setUp(self):
        self.mesh = self.new_mesh()
        self.mesh.start_repo(trusting=False)
        self.mesh.start_fabric(repo=False)
        self.mesh.start_agent()

    def assert_refused(self, app, spore, check):
        """The plan's slot is REFUSED, an event names the check, nothing runs."""
        events = self.mesh.watch("Events", app_name=app)
        slots = self.mesh.watch("Slots", app_name=app)

        self.mesh.put_plan(app, spore)

        slot = slots.wait_for(
            lambda state: next(
                (s for s in state.values() if s.state == mesh.SLOT["STATE_REFUSED"]), None
            ),
            what=f"the slot of {app} is refused",
        )
        self.assertIn(check, slot.reason + slot.message)
        event = events.wait_for(
            lambda state: next(
                (e for e in state.values() if e.type == "SPORE_REFUSED"), None
            ),
            what="an event says so",
        )
        self.assertIn(check, f"{event.message} {dict(event.details)}")
        self.assertEqual(event.node_id, self.mesh.node_id("node-1"))
        self.assertFalse(self.mesh.workload_pids(), "no instance was started")
        self.assertFalse(self.mesh.fabric.ListEndpoints(app_name=app).endpoints)

    def test_a_spore_signed_by_a_stranger(self):
        stranger = spores.Key(self.directory / "stranger.pem")
        spore = spores.pack(stranger, "probe", paths.binary("integration_tests/probe"))
        self.mesh.publish(spore)

        self.assert_refused("probe", spore, "E_UNTRUSTED_KEY")

    def test_a_spore_that_was_signed_for_another_app(self):
        spore = self.mesh.probe_spore("frontend")
        self.mesh.publish(spore)

        self.assert_refused("billing", spore, "NAME_MISMATCH")

    def test_a_refused_app_does_not_keep_others_from_running(self):
        stranger = spores.Key(self.directory / "stranger.pem")
        spore = spores.pack(stranger, "evil", paths.binary("integration_tests/probe"))
        self.mesh.publish(spore)
        self.mesh.put_plan("evil", spore)

        self.mesh.deploy("probe")

        self.assertFalse(self.mesh.fabric.ListEndpoints(app_name="evil").endpoints)

    def test_a_spore_that_changed_on_the_repos_disk_never_runs(self):
        spore = self.mesh.probe_spore()
        self.mesh.publish(spore)
        self.change_on_disk(spore)
        slots = self.mesh.watch("Slots", app_name="probe")

        self.mesh.put_plan("probe", spore)

        slots.wait_for(
            lambda state: any(
                s.reason and s.state in (mesh.SLOT["STATE_PULLING"], mesh.SLOT["STATE_REFUSED"],
                                         mesh.SLOT["STATE_BACKOFF"], mesh.SLOT["STATE_PENDING"])
                for s in state.values()
            ),
            what="the slot says why it does not run",
        )
        self.assertFalse(self.mesh.workload_pids())

    def change_on_disk(self, spore):
        for path in self.mesh.data_dir("repo").rglob("*"):
            if path.is_file() and path.read_bytes() == spore.data:
                path.chmod(0o644)
                with open(path, "r+b") as file:
                    file.seek(len(spore.data) // 2)
                    byte = file.read(1)
                    file.seek(len(spore.data) // 2)
                    file.write(bytes([byte[0] ^ 1]))
                return
        self.fail("the repo's file was not found")


class UnknownDigestTest(mesh.MeshTestCase):
    def test_a_plan_for_an_unknown_digest_is_accepted_and_heals_when_it_comes(self):
        the_mesh = self.new_mesh().start()
        spore = the_mesh.probe_spore()
        slots = the_mesh.watch("Slots", app_name="probe")

        answer = the_mesh.put_plan("probe", spore)

        [warning] = [w for w in answer.warnings if _reason(w) == "SPORE_NOT_FOUND"]
        self.assertIn(spore.digest, warning.message)
        slots.wait_for(
            lambda state: [s for s in state.values() if s.reason],
            what="the slot says what it waits for",
        )
        self.assertEqual(the_mesh.get("/probe/").status, 503)

        the_mesh.publish(spore)

        the_mesh.wait_routed("probe", 1, digest=spore.digest)
        self.assertEqual(the_mesh.get("/probe/").status, 200)
        self.assertFalse(slots.violations)

    def test_a_plan_for_another_apps_spore_is_refused_when_the_repo_can_tell(self):
        the_mesh = self.new_mesh()
        the_mesh.start_repo()
        the_mesh.start_fabric()
        spore = the_mesh.probe_spore("frontend")
        the_mesh.publish(spore)

        failure = self.assert_fails(
            "FAILED_PRECONDITION", "NAME_MISMATCH", the_mesh.put_plan, "billing", spore
        )

        self.assertEqual(failure.metadata["spore_name"], "frontend")
        self.assert_fails(
            "NOT_FOUND", "PLAN_NOT_FOUND", the_mesh.fabric.GetPlan, app_name="billing"
        )

    def test_a_spore_that_a_plan_names_is_not_deleted_by_mistake(self):
        the_mesh = self.new_mesh()
        the_mesh.start_fabric()
        the_mesh.start_repo(
            flags=[f"--fabric={the_mesh.services['fabric'].grpc_address}"]
        )
        planned, other = the_mesh.probe_spore("a"), the_mesh.probe_spore("b")
        for spore in (planned, other):
            the_mesh.publish(spore)
        the_mesh.put_plan("a", planned)

        failure = self.assert_fails(
            "FAILED_PRECONDITION",
            "SPORE_IN_USE",
            the_mesh.repo.Delete,
            digest=planned.digest,
        )
        self.assertEqual(failure.metadata["app_name"], "a")
        collected = the_mesh.repo.Gc(min_age=dict(nanos=1))

        self.assertEqual(list(collected.deleted_digests), [other.digest])
        self.assertEqual(
            [s.digest for s in the_mesh.repo.List().spores], [planned.digest]
        )


def _reason(status):
    for detail in status.details:
        if detail.type_url.endswith("/google.rpc.ErrorInfo"):
            info = contracts.message("google.rpc.ErrorInfo")
            return info.FromString(detail.value).reason
    return ""


if __name__ == "__main__":
    mesh.main()
