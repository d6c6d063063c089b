#!/usr/bin/env bash
# Sets up, builds, and runs every test and every lint; the last line says
# `N passed, N failed`.
#
#   tools/test.sh           what CI runs
#   tools/test.sh --quick   without the sanitizers and clang-tidy
#   tools/test.sh --full    with clang-tidy over the tests, too, and all tests
#                           under the sanitizers, not only the unit tests of
#                           what parses foreign bytes or shares memory
set -uo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0"; }

quick=false
full=false
for argument in "$@"; do
  case $argument in
    --quick) quick=true ;;
    --full) full=true ;;
    -h | --help) usage; exit 0 ;;
    *) echo "test.sh: unknown argument '$argument'" >&2; usage >&2; exit 2 ;;
  esac
done

passed=0
failed=0
failures=()
log=$(mktemp -d "${TMPDIR:-/tmp}/mycelium-test.XXXXXX")
trap 'rm -rf "$log"' EXIT

started=$SECONDS
stage() { printf '\n=== %s (%d s)\n' "$1" $((SECONDS - started)); }

succeeded() { passed=$((passed + 1)); }
failure() { failed=$((failed + 1)); failures+=("$1"); }

# check NAME COMMAND...: one check that passes if the command does.
check() {
  local name=$1
  shift
  stage "$name"
  if "$@"; then succeeded; else failure "$name"; fi
}

# bazel_tests NAME ARGUMENTS...: every test target counts by itself.
bazel_tests() {
  local name=$1 line status
  shift
  stage "$name"
  bazel test --config=ci --keep_going "$@" 2>&1 | tee "$log/tests"
  status=${PIPESTATUS[0]}
  local counted=0
  while read -r line; do
    counted=$((counted + 1))
    case $line in
      *PASSED* | *FLAKY*) succeeded ;;
      *) failure "$name: ${line%% *}" ;;
    esac
  done < <(grep -E '^//[^ ]+ +(\(cached\) )?(PASSED|FLAKY|FAILED|TIMEOUT|NO STATUS|FAILED TO BUILD)' "$log/tests")
  # Bazel may fail without a line for any test: a broken BUILD file, say.
  if ((counted == 0 || (status != 0 && status != 3 && failed == 0))); then
    failure "$name: bazel exited with $status"
  fi
}

tidy() {
  bazel query --noshow_progress "$tidy_scope" > "$log/tidy" 2> /dev/null &&
    bazel build --config=ci --config=tidy --keep_going \
      --target_pattern_file="$log/tidy"
}

finish() {
  echo
  for name in "${failures[@]}"; do echo "FAILED: $name"; done
  echo "took $((SECONDS - started)) s"
  echo "$passed passed, $failed failed"
  ((failed == 0))
}

stage "set-up"
if ! tools/setup.sh --dev; then
  failure "set-up"
  finish
  exit 1
fi

buf_directory=integration_tests/tools
check "npm tools" npm ci --prefix "$buf_directory" --no-audit --no-fund --silent
buf=$PWD/$buf_directory/node_modules/.bin/buf

check "build" bazel build --config=ci //...
bazel_tests "tests" --test_env=BUF="$buf" //...

check "buf lint" bash -c "cd proto && '$buf' lint"
check "buf breaking" bash -c "cd proto && '$buf' breaking --against landed.binpb"
check "clang-format" bazel build --config=ci --config=format --keep_going //...

if $full; then
  tidy_scope='//...'
  asan_scope=(--test_tag_filters=-no_asan //lib/... //services/... //tools/...)
  tsan_scope=(//lib/... //services/... //tools/...)
else
  tidy_scope='kind("cc_(library|binary) rule", //...)'
  asan_scope=(--test_tag_filters=-local,-no_asan,-no_tsan //lib/...
    //services/edge/...)
  tsan_scope=(//lib/... //services/fabric/store/...)
fi
if ! $quick; then
  check "clang-tidy" tidy
  bazel_tests "address and undefined sanitizers" --config=asan --config=ubsan \
    --platform_suffix=-asan --build_tests_only "${asan_scope[@]}"
  bazel_tests "thread sanitizer" --config=tsan \
    --test_tag_filters=-local,-no_tsan "${tsan_scope[@]}"
fi

finish
