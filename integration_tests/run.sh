#!/bin/bash
# Builds what the integration tests need and runs them by hand.
#
#   integration_tests/run.sh                  all
#   integration_tests/run.sh rolling          files whose name has "rolling"
#   integration_tests/run.sh spores -k tampered   and of these, some tests
#
# Environment: TIMES=10 repeats each file until it fails, at most ten times;
# BUILD=no takes the binaries as they are; MESH_BIN_DIR names another bazel-bin.
set -euo pipefail
cd "$(dirname "$0")"

pattern=${1:-}
shift || true

if [[ ${BUILD:-yes} == yes && -z ${MESH_BIN_DIR:-} ]]; then
  (cd .. && bazel build --noshow_progress //services/... //tools/... \
    //examples/... //integration_tests/...)
  # The symlink bazel-bin shows what was built last, in whatever configuration.
  MESH_BIN_DIR=$(cd .. && bazel info bazel-bin 2>/dev/null)
  export MESH_BIN_DIR
fi

export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$PWD
export BUF=${BUF:-$PWD/tools/node_modules/.bin/buf}
failed=()
for file in *"$pattern"*_test.py; do
  for ((round = 1; round <= ${TIMES:-1}; round++)); do
    echo "=== $file, round $round"
    /usr/bin/python3 "$file" "$@" || { failed+=("$file"); break; }
  done
done

if ((${#failed[@]} > 0)); then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
