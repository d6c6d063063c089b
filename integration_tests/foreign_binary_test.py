"""Programs of Debian that nobody here wrote, packed and served as they are."""

import os

from harness import mesh, spores


class ForeignBinaryTest(mesh.MeshTestCase):
    def test_caddy_runs_twice_and_answers_through_the_edge(self):
        the_mesh = self.new_mesh().start(agents=2)
        spore = spores.pack(
            the_mesh.key,
            "tools/caddy",
            "/usr/bin/caddy",
            args=[
                "respond",
                "--listen",
                "127.0.0.1:${PORT}",
                "--body",
                "I am ${MYCELIUM_INSTANCE}",
            ],
            health=dict(path="/"),
            nutrients=dict(cpu_milli=100, memory_mb=256),
        )
        the_mesh.publish(spore)
        the_mesh.put_plan("caddy", spore, min=2)
        endpoints = the_mesh.wait_routed("caddy", 2)

        answers = [the_mesh.get("/caddy/") for _ in range(8)]

        self.assertEqual({a.status for a in answers}, {200})
        self.assertEqual(
            {a.body.decode() for a in answers},
            {f"I am {e.instance_id}" for e in endpoints},
        )

    def test_pythons_http_server_answers_through_the_edge(self):
        the_mesh = self.new_mesh().start()
        spore = spores.pack(
            the_mesh.key,
            "files",
            os.path.realpath("/usr/bin/python3"),
            args=["-m", "http.server", "--bind", "127.0.0.1", "${PORT}"],
            health=dict(path="/"),
            nutrients=dict(cpu_milli=100, memory_mb=256),
        )
        the_mesh.publish(spore)
        the_mesh.put_plan("files", spore, min=2)
        the_mesh.wait_routed("files", 2)

        answer = the_mesh.get("/files/")

        self.assertEqual(answer.status, 200)
        self.assertIn("SimpleHTTP", answer.headers["Server"])
        self.assertIn(b"Directory listing", answer.body)


if __name__ == "__main__":
    mesh.main()
