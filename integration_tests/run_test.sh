#!/bin/bash
# Runs one file of tests under Bazel: the system's Python, which has Debian's
# grpcio, whatever else is on the PATH.
set -euo pipefail
cd "$TEST_SRCDIR/$TEST_WORKSPACE/integration_tests"
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$PWD
exec /usr/bin/python3 "$@"
