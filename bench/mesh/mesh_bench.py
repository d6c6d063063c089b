#!/usr/bin/python3
"""Times what users of a mesh wait for, on real processes on this machine.

    bench/mesh/mesh_bench.py [--rounds N] [--instances N] [--json]

Each figure is from the act to the first thing that a user sees of it: an answer
through the edge, or the last of the instances that were wanted.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "integration_tests"))

from harness import mesh, processes  # noqa: E402

_QUICK = dict(strategy=dict(min_ready=dict(seconds=0)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="of each measurement")
    parser.add_argument("--instances", type=int, default=30, help="of the large app")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="mesh-bench-")
    try:
        with mesh.Mesh(directory) as the_mesh:
            results = measure(the_mesh.start(agents=2), options)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for name, value in results.items():
        print(f"{name:50} {show(value)}")


def measure(the_mesh, options):
    results = {
        "plan put to first 200, spore published": first_answers(the_mesh, options.rounds),
        "only instance killed again and again to next 200": restarts(the_mesh, options.rounds),
        "update of 4 instances under load": updates(the_mesh, max(1, options.rounds // 3)),
    }
    results.update(growth(the_mesh, options.instances))
    return results


def first_answers(the_mesh, rounds):
    samples = []
    for number in range(rounds):
        app = f"first-{number}"
        spore = the_mesh.probe_spore(app)
        the_mesh.publish(spore)
        begin = time.monotonic()
        the_mesh.put_plan(app, spore)
        wait_for_200(the_mesh, app)
        samples.append(time.monotonic() - begin)
        the_mesh.fabric.DeletePlan(app_name=app)
    return spread(samples)


def restarts(the_mesh, rounds):
    the_mesh.deploy("restarted")
    samples = []
    for _ in range(rounds):
        pid = the_mesh.get_json("/restarted/")["pid"]
        begin = time.monotonic()
        processes.kill_pid(pid)
        processes.wait_until(lambda: other_pid(the_mesh, pid), 60, "it is back", 0.002)
        samples.append(time.monotonic() - begin)
    the_mesh.fabric.DeletePlan(app_name="restarted")
    return spread(samples)


def other_pid(the_mesh, pid):
    try:
        return the_mesh.get_json("/restarted/")["pid"] != pid
    except (OSError, AssertionError):
        return False


def updates(the_mesh, rounds):
    samples = []
    the_mesh.deploy("updated", min=4, **_QUICK)
    load = the_mesh.load("/updated/", connections=4, rate=50)
    for number in range(rounds):
        spore = the_mesh.probe_spore("updated", env={"VERSION": str(number)})
        the_mesh.publish(spore)
        begin = time.monotonic()
        the_mesh.put_plan("updated", spore, min=4, **_QUICK)
        the_mesh.wait_routed("updated", 4, digest=spore.digest)
        samples.append(time.monotonic() - begin)
    failures = load.stop()
    the_mesh.fabric.DeletePlan(app_name="updated")
    return {**spread(samples), "failed_requests": len(failures), "requests": load.ok}


def growth(the_mesh, instances):
    spore = the_mesh.probe_spore("large")
    the_mesh.publish(spore)
    begin = time.monotonic()
    the_mesh.put_plan("large", spore, min=instances, **_QUICK)
    the_mesh.wait_routed("large", instances, timeout_s=300)
    grown = time.monotonic() - begin
    results = {f"{instances} instances planned to all routed": {"seconds": grown}}
    for name, service in the_mesh.services.items():
        results[f"memory of {name} then"] = {"rss_mib": rss_mib(service.process.pid)}
    begin = time.monotonic()
    the_mesh.fabric.DeletePlan(app_name="large")
    the_mesh.wait_ready("large", 0, timeout_s=300)
    processes.wait_until(
        lambda: not the_mesh.instances_of("large"), 300, "all are gone", 0.05
    )
    results["plan deleted to all gone"] = {"seconds": time.monotonic() - begin}
    return results


def wait_for_200(the_mesh, app):
    processes.wait_until(
        lambda: the_mesh.get(f"/{app}/").status == 200, 60, f"{app} answers", 0.002
    )


def rss_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def spread(samples):
    ordered = sorted(samples)
    return {
        "p50_ms": 1000 * statistics.median(ordered),
        "worst_ms": 1000 * ordered[-1],
        "samples": len(ordered),
    }


def show(value):
    return "  ".join(
        f"{name} {number:.1f}" if isinstance(number, float) else f"{name} {number}"
        for name, number in value.items()
    )


if __name__ == "__main__":
    main()
