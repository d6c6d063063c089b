"""meshctl as its users call it: arguments in; status, JSON and text out."""

import collections
import json
import os

from harness import paths, processes

Result = collections.namedtuple("Result", "status out err")


class Meshctl:
    """Runs meshctl in a directory, against a mesh or without one."""

    def __init__(self, directory, mesh=None):
        self._directory = directory
        self._mesh = mesh

    def command(self, *args):
        return [paths.binary("tools/meshctl"), *map(str, args)]

    def environment(self):
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._directory),
            "CI": "true",
        }
        if self._mesh:
            services = self._mesh.services
            for name, variable in (
                ("fabric", "MESHCTL_FABRIC"),
                ("repo", "MESHCTL_REPO"),
                ("edge-1", "MESHCTL_EDGE"),
            ):
                if name in services:
                    environment[variable] = services[name].grpc_address
        return environment

    def run(self, *args, timeout_s=120, input=None):
        return Result(
            *processes.run(
                self.command(*args),
                timeout_s=timeout_s,
                env=self.environment(),
                cwd=self._directory,
                input=input,
            )
        )

    def ok(self, *args, **kwargs):
        """The output of a call that must succeed."""
        result = self.run(*args, **kwargs)
        if result.status != 0:
            raise AssertionError(
                f"meshctl {' '.join(map(str, args))} exited with {result.status}\n"
                f"{result.out}{result.err}"
            )
        return result.out

    def json(self, *args, **kwargs):
        """The one JSON document that `-o json` prints."""
        return json.loads(self.ok(*args, "-o", "json", **kwargs))

    def error(self, *args, **kwargs):
        """Status and JSON error of a call that must fail, its stdout empty."""
        result = self.run(*args, "-o", "json", **kwargs)
        if result.status == 0:
            raise AssertionError(f"must fail, but printed {result.out}")
        if result.out.strip():
            raise AssertionError(f"failed, and printed {result.out}")
        return result.status, json.loads(result.err)["error"]
