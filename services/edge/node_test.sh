#!/bin/sh
# Runs a script with Node against a binary: node_test.sh SCRIPT BINARY ARGUMENT...,
# both by their paths in the runfiles.
script=$PWD/$1
binary=$PWD/$2
shift 2
exec node "$script" --edge "$binary" "$@"
