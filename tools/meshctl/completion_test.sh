#!/bin/bash
# The bash completion, loaded as its users load it.
set -euo pipefail

meshctl() { "$TEST_SRCDIR/$TEST_WORKSPACE/tools/meshctl/meshctl" "$@"; }
source <(meshctl completion bash)
[[ $(complete -p meshctl) == *'-F _meshctl'* ]] || { echo "not registered"; exit 1; }

failed=0
# expect LINE WORD...: completing LINE offers exactly these words.
expect() {
  local line=$1 want
  shift
  want=$(printf '%s\n' "$@" | sort)
  read -ra COMP_WORDS <<<"$line"
  [[ $line == *' ' ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  COMPREPLY=()
  _meshctl
  local got
  got=$(printf '%s\n' "${COMPREPLY[@]}" | sort)
  if [[ $got != "$want" ]]; then
    printf 'completing "%s" offered:\n%s\nwanted:\n%s\n' "$line" "$got" "$want"
    failed=1
  fi
}

expect "meshctl sta" status
expect "meshctl nodes dr" drain
expect "meshctl budget " put get ls rm
expect "meshctl list -o n" ndjson name
expect "meshctl apply --check" --check-revision
expect "meshctl watch e" endpoints events
expect "meshctl completion " bash zsh fish

cd "$TEST_TMPDIR"
touch app.spore
expect "meshctl verify app" app.spore

for shell in bash zsh fish; do
  [[ -n $(meshctl completion "$shell") ]] || { echo "no script for $shell"; failed=1; }
done
exit "$failed"
