#!/bin/sh
# A tiny pipeline on wgpu and on flex, compared, and the part of the self-test that is not in it. Where no adapter is
# found it says that the check was left out, or fails if HEMLOCK_REQUIRE_WGPU is set.
# Usage: tests/wgpu.sh HEMLOCK
set -eu
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT INT TERM
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-$root}" CUBECL_AUTOTUNE_LEVEL=minimal
tiny="--set dataset.downstream.train=64 --set dataset.downstream.validation=0 --set dataset.downstream.test=32
 --set pretrain.batch=32 --set target-params.weight_decay=0.01 --set poison-features.poison_fraction=0.05 --set invert.steps=2 --set seeds=[0]"
spec=tests/specs/tiny.toml
status=0
# shellcheck disable=SC2086
"$1" run "$spec" $tiny --device wgpu --root "$root/wgpu" || status=$?
if [ "$status" = 5 ] && [ -z "${HEMLOCK_REQUIRE_WGPU:-}" ]; then
    echo "SKIPPED: no adapter for wgpu on this machine; the wgpu backend was compiled and not run"
    exit 0
fi
[ "$status" = 0 ] || exit "$status"
# shellcheck disable=SC2086
"$1" run "$spec" $tiny --device flex --root "$root/flex"
"$1" diff "$root/flex" "$root/wgpu" --tolerance 0.1 --points 10
"$1" self-test --device wgpu "feature matching"
"$1" self-test --device wgpu decoder
"$1" self-test --device wgpu "pass of a head"
