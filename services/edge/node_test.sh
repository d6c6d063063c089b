#!/bin/sh
# Runs a script with Node against the edge: node_test.sh SCRIPT EDGE, both by
# their paths in the runfiles.
exec node "$PWD/$1" --edge "$PWD/$2"
