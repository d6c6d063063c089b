"""Where the tests find binaries and sources: Bazel's runfiles, or the tree."""

import os
import pathlib


def _root():
    runfiles = os.environ.get("TEST_SRCDIR")
    if runfiles:
        return pathlib.Path(runfiles) / os.environ["TEST_WORKSPACE"]
    return pathlib.Path(__file__).resolve().parents[2]


ROOT = _root()

# MESH_BIN_DIR names a directory laid out like bazel-bin.
_BIN_DIR = pathlib.Path(
    os.environ.get(
        "MESH_BIN_DIR", ROOT if "TEST_SRCDIR" in os.environ else ROOT / "bazel-bin"
    )
)

PROTO_DIR = ROOT / "proto"


def binary(label):
    """Path of a binary, such as `services/fabric`, whose name is its directory."""
    path = _BIN_DIR / label / pathlib.PurePath(label).name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: bazel build //{label}")
    return str(path)
