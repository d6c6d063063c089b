"""What a plan says about an app's traffic, from meshctl to the edge's answers."""

import threading

from harness import mesh, meshctl, processes

_QUICK = dict(strategy=dict(min_ready=dict(seconds=0), drain_timeout=dict(seconds=1)))


class TrafficTest(mesh.MeshTestCase):
    def setUp(self):
        self.mesh = self.new_mesh().start(agents=1)
        self.meshctl = meshctl.Meshctl(self.directory, self.mesh)

    def apply(self, *flags):
        """Changes the policy of a running app, which starts no instance anew."""
        before = self.mesh.routed("probe")
        self.meshctl.ok("apply", "probe", *flags)
        self.assertEqual(self.mesh.routed("probe"), before)

    def wait_for_answer(self, status, **request):
        """Plans reach the edge a moment after they are stored."""
        return processes.wait_until(
            lambda: self.answer_if(status, **request), 10, f"the edge answers {status}"
        )

    def answer_if(self, status, path="/probe/", **request):
        answer = self.mesh.get(path, **request)
        return answer if answer.status == status else None

    def test_a_request_waits_for_an_app_that_is_started_for_it(self):
        spore = self.mesh.deploy(min=1, **_QUICK)
        hold = dict(max_wait=dict(seconds=60))
        self.mesh.put_plan(
            "probe", spore, min=0, max=1, traffic=dict(hold=hold), **_QUICK
        )
        self.mesh.fabric.ScaleApp(app_name="probe", count=0)
        self.mesh.wait_routed("probe", 0)
        answers = []
        client = threading.Thread(
            target=lambda: answers.append(self.mesh.get("/probe/", timeout_s=60))
        )

        client.start()
        processes.wait_until(
            lambda: self.held("probe") == 1, 10, "the edge holds the request"
        )
        self.mesh.fabric.ScaleApp(app_name="probe", count=1)
        client.join()

        self.assertEqual([a.status for a in answers], [200], answers)
        self.assertEqual(self.held("probe"), 0)

    def held(self, app):
        """Requests of the app that wait, as the edge's metrics say."""
        text = self.mesh.get("/_mesh/metrics").body.decode()
        total = 0
        for line in text.splitlines():
            if line.startswith(f'mycelium_edge_upstream_queue{{mycelium_app="{app}"'):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def test_a_rate_limit_refuses_one_app_and_not_another(self):
        self.mesh.deploy(min=1, **_QUICK)
        self.mesh.deploy("other", min=1, **_QUICK)

        self.apply("--rate-limit", "0.01:2")

        refused = self.wait_for_answer(429)
        self.assertEqual(refused.headers["X-Mycelium-Reason"], "rate_limited")
        self.assertGreaterEqual(int(refused.headers["Retry-After"]), 1)
        self.assertEqual(self.mesh.get("/other/").status, 200)

        self.apply("--rate-limit", "0")
        self.wait_for_answer(200)

    def test_requests_in_flight_are_limited(self):
        self.mesh.deploy(min=1, **_QUICK)
        self.apply("--max-in-flight", "1")
        refusals_seen = threading.Event()
        slow = threading.Thread(target=self.occupy, args=(refusals_seen,))

        slow.start()
        refused = self.wait_for_answer(503)
        refusals_seen.set()
        self.assertEqual(refused.headers["X-Mycelium-Reason"], "overloaded")
        self.apply("--hold", "30s")
        processes.wait_until(
            lambda: self.answer_if(200, timeout_s=60), 60, "a held request is answered"
        )
        slow.join()

    def occupy(self, done):
        """Holds the one slot again and again, though polls may take it first."""
        while not done.is_set():
            self.mesh.get("/probe/slow?ms=2000", timeout_s=30)

    def test_a_body_beyond_the_limit_is_refused(self):
        self.mesh.deploy(min=1, **_QUICK)

        self.apply("--max-request-body-bytes", "10")

        self.wait_for_answer(413, path="/probe/echo", method="POST", body=b"x" * 11)
        fits = self.mesh.get("/probe/echo", method="POST", body=b"x" * 10)
        self.assertEqual((fits.status, fits.body), (200, b"x" * 10))

    def test_a_policy_that_makes_no_sense_is_refused_and_changes_nothing(self):
        self.mesh.deploy(min=1, **_QUICK)
        before = self.mesh.fabric.GetPlan(app_name="probe").plan

        for flags, field in (
            (("--rate-limit", "-1"), "plan.traffic.rateLimit.requestsPerSecond"),
            (("--rate-limit", "nan"), "plan.traffic.rateLimit.requestsPerSecond"),
            (("--max-in-flight", "-1"), "plan.traffic.maxInFlight"),
            (("--slow-start", "2h"), "plan.traffic.slowStart"),
            (("--hold", "6m"), "plan.traffic.hold.maxWait"),
        ):
            with self.subTest(flags=flags):
                result = self.meshctl.run("apply", "probe", *flags)
                self.assertNotEqual(result.status, 0)
                self.assertIn(field, result.err)
        for flags in (("--rate-limit", "fast"), ("--hold-requests", "5")):
            with self.subTest(flags=flags):
                self.assertEqual(self.meshctl.run("apply", "probe", *flags).status, 2)

        self.assertEqual(self.mesh.fabric.GetPlan(app_name="probe").plan, before)


if __name__ == "__main__":
    mesh.main()
