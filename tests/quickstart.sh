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
echo "$warm" | awk '{ if ($1 > 1) { print "the warm quickstart took more than 1 s"; exit 1 } }'
# The walk-through of the README, line by line.
specs=$PWD/pipelines
grep '^    just export quickstart' README.md | sed 's/ #.*//' | while read -r _ line; do
    # shellcheck disable=SC2086 # a line is words
    (cd "$out" && "$@" $line --root "$root" --pipelines "$specs" >/dev/null)
done
test "$(echo "$out"/*)" = "$out/features $out/heads $out/many $out/poisons"
"$@" diff quickstart --a poison-features.constraint=none --b poison-features.constraint=ball,attack=gradient-canceling --root "$root"
"$@" results quickstart --root "$root" --json --quiet | awk '
    # Poisoned features without a constraint cost at least 10 points at 3 %.
    /"constraint":"none"/ && /"poison_fraction":0.03/ {
        match($0, /"clean":[0-9.]+/); clean = substr($0, RSTART + 8, RLENGTH - 8)
        match($0, /"features":0[0-9.]*/); features = substr($0, RSTART + 11, RLENGTH - 11)
        seen++
        if (clean - features < 0.1) { print "poisoned features cost only " clean - features; bad = 1 }
        if (clean < 0.6 || clean > 0.95) { print "clean accuracy " clean " is not between 0.6 and 0.95"; bad = 1 }
    }
    END { if (!seen) { print "no unconstrained result at 3 %"; bad = 1 } exit bad }'
