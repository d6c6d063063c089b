#!/bin/bash
# docs/cli.md is what the table of commands says.
set -euo pipefail

cd "$TEST_SRCDIR/$TEST_WORKSPACE"
if ! tools/meshctl/meshctl help --markdown | diff -u docs/cli.md -; then
  echo "docs/cli.md is out of date. Write it anew:"
  echo "  bazel-bin/tools/meshctl/meshctl help --markdown > docs/cli.md"
  exit 1
fi
