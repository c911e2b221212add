#!/bin/bash
# A tiny pipeline on a real HyperQueue: a task is killed, then server and worker, and after each the pipeline is
# submitted again. In the end its artifacts are those of a local run, and nothing was made twice. Where there is no
# HyperQueue (PyPI: hyperqueue) it says that the check was left out, or fails if HEMLOCK_REQUIRE_HYPERQUEUE is set.
# HEMLOCK_PYTHON names the Python that has it. Usage: tests/cluster/hyperqueue.sh HEMLOCK
set -euo pipefail
hemlock=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
python=${HEMLOCK_PYTHON:-python3}
if ! "$python" -c 'import hyperqueue' 2>/dev/null; then
    echo "SKIPPED: $python has no package hyperqueue; \`submit hyperqueue\` was not run" >&2
    [ -z "${HEMLOCK_REQUIRE_HYPERQUEUE:-}" ] || exit 1
    exit 0
fi

# The engine's messages end with stack traces otherwise.
export RUST_BACKTRACE=0
dir=$(mktemp -d)
cluster=
stop() {
    [ -z "$cluster" ] || kill -9 "$cluster" 2>/dev/null || true
    wait "$cluster" 2>/dev/null || true
}
fail() {
    echo "FAILED: $*" >&2
    find "$dir/hq/logs" -name '*.err' -exec tail -n 3 {} + >&2 || true
    exit 1
}
trap 'stop; sleep 1; rm -rf "$dir"' EXIT
mkdir -p "$dir/bin"
printf '#!/bin/sh\nexec %s %s "$@"\n' "$(command -v "$python")" "$here/hq.py" >"$dir/bin/hq"
chmod +x "$dir/bin/hq"
# A server in a folder of its own, with a file of its own that says when it is ready: the last server's would say so at
# once.
start() {
    export HQ_SERVER_DIR=$dir/server$1
    "$dir/bin/hq" cluster "$HQ_SERVER_DIR" "$(nproc)" >"$HQ_SERVER_DIR.out" 2>"$HQ_SERVER_DIR.err" &
    cluster=$!
    for _ in $(seq 600); do grep -qs ready "$HQ_SERVER_DIR.out" && return 0; sleep 0.1; done
    cat "$HQ_SERVER_DIR.err" >&2
    fail "the cluster did not come up"
}

# Two seeds, a training that lasts for some seconds, and inversions in three parts.
spec=$here/../specs/tiny.toml
sweep=(--set "seeds=[0,1]" --set "poison-features.poison_fraction=[0.05,0.1]" --set pretrain.epochs=200
    --set resources.invert.parts=3)
"$hemlock" -q run "$spec" "${sweep[@]}" --root "$dir/local"
submit() { PATH=$dir/bin:$PATH "$hemlock" submit hyperqueue "$spec" "${sweep[@]}" --root "$dir/hq" "$@"; }
# Until a task of a stage runs: the number of its process.
running() {
    key=$("$hemlock" plan "$spec" "${sweep[@]}" --root "$dir/hq" --json | tr -d ' "' | sed -n "s|$dir/hq/$1/||p" | head -n 1)
    for _ in $(seq 300); do
        pgrep -f -- "run .*--task $key" | head -n 1 | grep . && return 0
        sleep 0.1
    done
    fail "no task of $1 began"
}
made() { find "$dir/hq" -name manifest.json -printf '%P %i %T@\n' | sort; }

start 1
echo "a task is killed; what comes after it goes" >&2
job=$(submit)
kill -9 "$(running pretrain)"
"$dir/bin/hq" wait "$job" 2>/dev/null
made >"$dir/before"
[ "$(wc -l <"$dir/before")" = 1 ] || fail "the dataset alone should be there: $(cat "$dir/before")"

echo "the server dies with its worker" >&2
submit >/dev/null
running pretrain >/dev/null
stop
start 2
job=$(submit)
"$dir/bin/hq" wait "$job" 2>/dev/null

comm -23 "$dir/before" <(made) | grep . && fail "an artifact was made again"
made >"$dir/before"
said=$(submit 2>&1)
grep -q "16 tasks cached, and nothing is left" <<<"$said" || fail "something is left to do: $said"
made | cmp - "$dir/before" || fail "an artifact was made again"
diff=$("$hemlock" diff "$dir/local" "$dir/hq")
[ "$(grep -c identical <<<"$diff")" = 16 ] || fail "other artifacts than those of a local run: $diff"
echo "HyperQueue: same bytes as a local run"
