#!/bin/bash
# `meshctl run` with real processes: apps answer, nothing is left behind, however
# it ends; two meshes side by side; what is in the way is named.
set -euo pipefail

root=$TEST_SRCDIR/$TEST_WORKSPACE
meshctl=$root/tools/meshctl/meshctl
export HOME=$TEST_TMPDIR
unset MESHCTL_FABRIC MESHCTL_REPO MESHCTL_CONTEXT NO_COLOR CI

# Whatever goes wrong, no mesh outlives the test.
trap 'jobs -p | xargs --no-run-if-empty kill 2>/dev/null || true; wait' EXIT

fail() {
  echo "FAILED: $*"
  tail -n 40 "$TEST_TMPDIR"/*/run.log "$TEST_TMPDIR"/*/.mesh/log/*.log
  exit 1
}

# Starts a mesh in directory $1 with the other arguments, and waits until it is
# ready. Its process id goes to `pid`, its URL to `url`.
start() {
  local directory=$TEST_TMPDIR/$1
  mkdir -p "$directory"
  cd "$directory"
  "$meshctl" run --port 0 --bin-dir "$root" --progress plain "${@:2}" \
    >run.log 2>&1 &
  pid=$!
  local tries
  for tries in $(seq 600); do
    if grep -q 'Ctrl-C stops everything' run.log; then break; fi
    kill -0 "$pid" 2>/dev/null || fail "$1 ended: $(cat run.log)"
    sleep 0.05
  done
  ((tries < 600)) || fail "$1 is not ready after 30 s"
  url=$(grep -o 'http://localhost:[0-9]*' run.log | head -n 1)
}

# Every process whose command line or working directory is below a mesh.
processes_of() {
  local proc command
  for proc in /proc/[0-9]*; do
    command=$( (tr '\0' ' ' <"$proc/cmdline") 2>/dev/null || true)
    if [[ $(readlink "$proc/exe" 2>/dev/null) == "$TEST_TMPDIR/$1/"* ]] ||
      [[ $command == *"=$TEST_TMPDIR/$1/.mesh/"* ]]; then
      basename "$proc"
    fi
  done
}

expect_nothing_left() {
  local tries left
  for tries in $(seq 100); do
    left=$(processes_of "$1")
    [[ -z $left ]] && return
    sleep 0.05
  done
  fail "processes of $1 are left: $(ps -o pid,args -p "$(echo "$left" | paste -sd,)")"
}

expect_status() {
  local got
  got=$(curl --silent --output /dev/null --write-out '%{http_code}' "$2")
  [[ $got == "$1" ]] || fail "$2 answered $got, not $1"
}

# The examples as they are described, with the binaries of this test.
for app in billing frontend; do
  mkdir -p "$TEST_TMPDIR/apps/$app"
  sed "s|^binary = .*|binary = \"$root/examples/$app/$app\"|" \
    "$root/examples/$app/mesh.toml" >"$TEST_TMPDIR/apps/$app/mesh.toml"
done

echo "--- two meshes side by side"
start one --nodes 2 "$TEST_TMPDIR/apps/billing" "$TEST_TMPDIR/apps/frontend"
one_pid=$pid one_url=$url
start two --nodes 1 "$root/examples/billing/billing"
two_pid=$pid two_url=$url
[[ $one_url != "$two_url" ]] || fail "both at $one_url"
for target in billing/hello frontend/hello; do expect_status 200 "$one_url/$target"; done
expect_status 200 "$two_url/billing/hello"
expect_status 404 "$two_url/frontend/hello"

echo "--- each directory has its own mesh"
cd "$TEST_TMPDIR/one"
[[ $("$meshctl" list -o name | paste -sd' ') == "billing frontend" ]] ||
  fail "mesh one has other apps"
"$meshctl" status --exit-code >/dev/null || fail "mesh one is not healthy"
"$meshctl" status -o json | jq -e '.healthy and (.nodes | length) == 2' >/dev/null ||
  fail "status -o json"
"$meshctl" scale billing 3 >/dev/null
[[ $("$meshctl" logs billing) == *'listening on port'* ]] ||
  fail "logs show nothing"
cd "$TEST_TMPDIR/two"
[[ $("$meshctl" list -o name) == billing ]] || fail "mesh two has other apps"

echo "--- a second run in one directory is refused"
code=0
"$meshctl" run --port 0 --bin-dir "$root" >refused.log 2>&1 || code=$?
((code == 5)) || fail "a second run exited with $code"
grep -q 'a mesh runs already' refused.log || fail "$(cat refused.log)"

echo "--- a taken port is named"
mkdir -p "$TEST_TMPDIR/three"
cd "$TEST_TMPDIR/three"
code=0
"$meshctl" run --port "${two_url##*:}" --bin-dir "$root" >run.log 2>&1 || code=$?
((code == 5)) || fail "a run on a taken port exited with $code"
grep -q "port ${two_url##*:} is taken by edge" run.log || fail "$(cat run.log)"

echo "--- a service that dies is started again"
cd "$TEST_TMPDIR/one"
for service in fabric edge; do
  # The supervisor is the only one that can say which process it is.
  service_pid=$(processes_of one | while read -r candidate; do
    [[ $(cat "/proc/$candidate/comm") == "$service" ]] && echo "$candidate"
  done || true)
  kill -KILL "$service_pid"
done
for tries in $(seq 200); do
  [[ $(curl --silent --output /dev/null --write-out '%{http_code}' \
    "$one_url/billing/hello") == 200 ]] && break
  sleep 0.05
done
((tries < 200)) || fail "the edge did not come back"
"$meshctl" get billing >/dev/null || fail "the fabric did not come back"

echo "--- SIGINT ends it, and leaves nothing"
kill -INT "$one_pid"
code=0
wait "$one_pid" || code=$?
((code == 0)) || fail "mesh one exited with $code"
expect_nothing_left one
[[ ! -e $TEST_TMPDIR/one/.mesh/mesh.json ]] || fail "mesh.json is left"
[[ ! -e $TEST_TMPDIR/one/.mesh/data ]] || fail "data is left"
expect_status 200 "$two_url/billing/hello"

echo "--- killing the supervisor leaves nothing either"
supervisor=$(cat "$TEST_TMPDIR/two/.mesh/lock")
kill -KILL "$supervisor"
code=0
wait "$two_pid" || code=$?
((code != 0)) || fail "mesh two exited with 0 although it was killed"
expect_nothing_left two

echo "--- and the directory can be used again"
start two --nodes 1 "$root/examples/billing/billing"
expect_status 200 "$url/billing/hello"

echo "--- killing the guard ends it, too"
supervisor=$(cat "$TEST_TMPDIR/two/.mesh/lock")
kill -KILL "$pid"
wait "$pid" || true
for tries in $(seq 300); do
  kill -0 "$supervisor" 2>/dev/null || break
  sleep 0.05
done
expect_nothing_left two

echo "--- an app that fails is explained, and everything is taken down"
mkdir -p "$TEST_TMPDIR/four"
cd "$TEST_TMPDIR/four"
printf '#!/bin/sh\necho "cannot open the ledger" >&2\nexit 3\n' >broken
chmod +x broken
code=0
"$meshctl" run --port 0 --nodes 1 --bin-dir "$root" ./broken >run.log 2>&1 || code=$?
((code == 8)) || fail "a broken app made run exit with $code"
grep -q 'cannot open the ledger' run.log || fail "$(cat run.log)"
expect_nothing_left four

echo "--- down stops a mesh"
start five --nodes 1
"$meshctl" down >/dev/null
wait "$pid" || fail "mesh five did not exit with 0"
expect_nothing_left five
echo PASSED
