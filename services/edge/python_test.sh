#!/bin/sh
# Runs a script with Python against the edge: python_test.sh SCRIPT EDGE, both
# by their paths in the runfiles.
exec /usr/bin/python3 "$PWD/$1" --edge "$PWD/$2"
