#!/bin/sh
# The quickstart in a fresh artifact root: cold, then warm. Checks what the README promises.
# Usage: tests/quickstart.sh HEMLOCK [ARGS...], HEMLOCK an absolute path
set -eu
root=$(mktemp -d)
out=$(mktemp -d)
trap 'rm -rf "$root" "$out"' EXIT INT TERM
now() { date +%s.%N; }
seconds() { echo "$1 $2" | awk '{ printf "%.2f", $2 - $1 }'; }

start=$(now)
"$@" run quickstart --root "$root"
cold=$(seconds "$start" "$(now)")
start=$(now)
"$@" run quickstart --root "$root"
"$@" results quickstart --root "$root"
warm=$(seconds "$start" "$(now)")
echo "quickstart: cold $cold s, warm $warm s"
# The README says a second. A busy machine takes longer.
echo "$warm" | awk '{ if ($1 > 3) { print "the warm quickstart took more than 3 s"; exit 1 } }'
# The walk-through of the README, line by line.
specs=$PWD/pipelines
grep '^    just export quickstart' README.md | sed 's/ #.*//' | while read -r _ line; do
    # shellcheck disable=SC2086 # a line is words
    (cd "$out" && "$@" $line --root "$root" --pipelines "$specs" >/dev/null)
done
test "$(echo "$out"/*)" = "$out/features $out/heads $out/many $out/poisons"
"$@" diff quickstart --a poison-features.constraint=none --b poison-features.constraint=ball,attack=gradient-canceling --root "$root"
"$@" results quickstart --root "$root" --json --quiet | python3 -c '
import json, sys
rows = [json.loads(line) for line in sys.stdin]
constraint = lambda row: row["params"].get("poison-features", {}).get("constraint")
accuracy = [row["accuracy"] for row in rows if constraint(row) == "none" and row["poison_fraction"] == 0.03]
assert accuracy, "no unconstrained result at 3 %"
for a in accuracy:
    assert 0.6 < a["clean"] < 0.95, a
    assert a["clean"] - a["features"] > 0.1, a
'
