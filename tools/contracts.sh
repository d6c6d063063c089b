#!/usr/bin/env bash
# Takes the present contracts as those that later changes must not break.
#
#   tools/contracts.sh           refuses if the present ones break the old
#   tools/contracts.sh --force   takes them all the same
#
# Needs buf: npm ci --prefix integration_tests/tools
set -euo pipefail
cd "$(dirname "$0")/../proto"
buf=../integration_tests/tools/node_modules/.bin/buf
if [[ ${1:-} != --force && -e landed.binpb ]]; then
  "$buf" breaking --against landed.binpb
fi
"$buf" build --exclude-source-info -o landed.binpb
echo "proto/landed.binpb is up to date"
