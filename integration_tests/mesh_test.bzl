"""mesh_test: one file of tests against a mesh of real processes."""

def mesh_test(name, size = "medium", data = [], **kwargs):
    """A test NAME.py that uses //integration_tests:harness.

    Args:
      name: name of the target and, with `.py`, of the file.
      size: Bazel's size, which is also its time limit.
      data: what the test reads beside the harness.
      **kwargs: as in sh_test.
    """
    native.sh_test(
        name = name,
        size = size,
        srcs = ["run_test.sh"],
        args = [name + ".py"],
        data = [name + ".py", "//integration_tests:harness"] + data,
        # Real processes that look at each other in /proc, and files that the
        # sandbox would hide.
        tags = ["local", "no_tsan"],
        **kwargs
    )
