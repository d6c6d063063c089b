#!/bin/bash
# From a clone to two apps that answer: installs what is missing, builds, starts
# a local mesh in the foreground, and packs, signs, publishes and plans the
# examples on it. Ctrl-C takes everything down.
#
#   tools/quickstart.sh [--port N] [--nodes N]
#
#   --port N    where the edge listens; 8080 if not given
#   --nodes N   how many agents to start; 3 if not given
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

port=8080
nodes=3
while (($# > 0)); do
  case "$1" in
    --port=* | --nodes=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    --port | --nodes)
      if (($# < 2)) || ! [[ $2 =~ ^[0-9]+$ ]]; then
        echo "quickstart.sh: $1 needs a number" >&2
        exit 2
      fi
      if [[ $1 == --port ]]; then port=$2; else nodes=$2; fi
      shift 2
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      echo "quickstart.sh: unknown argument '$1'; it takes --port N and --nodes N" >&2
      exit 2
      ;;
  esac
done

# The mesh lives in the directory of the project, whatever the caller's is.
cd "$(dirname "$0")/.."

tools/setup.sh
echo "quickstart.sh: building (the first time takes some minutes)"
bazel build \
  //examples/billing //examples/frontend \
  //services/agent //services/edge //services/fabric //services/repo \
  //tools/meshctl

exec bazel-bin/tools/meshctl/meshctl run --port "$port" --nodes "$nodes" \
  --bin-dir bazel-bin examples/billing examples/frontend
