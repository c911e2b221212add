#!/bin/sh
# The linked binary for NVIDIA's GPUs: where there is a driver, part of the self-test; elsewhere one message and exit
# code 5.
# Usage: tests/cuda.sh HEMLOCK
set -eu
said=$(mktemp)
trap 'rm -f "$said"' EXIT INT TERM
status=0
"$1" self-test --device cuda "features, resnet8" 2>"$said" || status=$?
cat "$said" >&2
[ "$status" = 0 ] && exit 0
if [ "$status" != 5 ] || [ "$(wc -l <"$said")" != 1 ] || grep -q panicked "$said"; then
    echo "without a driver, expected one line and exit code 5, not $status" >&2
    exit 1
fi
