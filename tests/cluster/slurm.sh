#!/bin/bash
# A tiny pipeline on a real Slurm of one node: tasks, the node's daemon and the controller are killed, and after each
# the pipeline is submitted again. In the end its artifacts are those of a local run, and nothing was made twice. Where
# there is no Slurm (Debian: slurm-wlm, munge), or who runs it is not root, it says that the check was left out, or
# fails if HEMLOCK_REQUIRE_SLURM is set. Usage: tests/cluster/slurm.sh HEMLOCK
set -euo pipefail
hemlock=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
skip() {
    echo "SKIPPED: $1; \`submit slurm\` was not run" >&2
    [ -z "${HEMLOCK_REQUIRE_SLURM:-}" ] || exit 1
    exit 0
}
for program in slurmctld slurmd munged sbatch; do
    command -v $program >/dev/null || skip "there is no $program on this machine"
done
[ "$(id -u)" = 0 ] || skip "Slurm's daemons are started by root alone"

dir=$(mktemp -d)
export SLURM_CONF=$dir/slurm.conf
stop() {
    for daemon in slurmd slurmctld munged; do [ ! -f "$dir/$daemon.pid" ] || kill "$(cat "$dir/$daemon.pid")" 2>/dev/null || true; done
}
fail() {
    echo "FAILED: $*" >&2
    tail -n 20 "$dir"/*.log >&2 || true
    exit 1
}
trap 'stop; sleep 1; rm -rf "$dir"' EXIT
mkdir -p "$dir/state" "$dir/spool" /run/munge
cat >"$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=cred_expire=5
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
SlurmdTimeout=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
ReturnToService=2
MpiDefault=none
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=$(hostname) Default=YES MaxTime=INFINITE State=UP
CONF
pgrep -x munged >/dev/null || munged --force --pid-file="$dir/munged.pid"
slurmctld
slurmd
for _ in $(seq 300); do sinfo --noheader --format=%T | grep -q idle && break; sleep 0.2; done
sinfo --noheader --format=%T | grep -q idle || fail "the node did not come up"

# Two seeds, a training that lasts for some seconds, and inversions in three parts.
spec=$here/../specs/tiny.toml
sweep=(--set "seeds=[0,1]" --set "poison-features.poison_fraction=[0.05,0.1]" --set pretrain.epochs=200
    --set resources.invert.parts=3)
"$hemlock" -q run "$spec" "${sweep[@]}" --root "$dir/local"
submit() { "$hemlock" submit slurm "$spec" "${sweep[@]}" --root "$dir/slurm" "$@"; }
# Until the queue is empty.
drained() {
    for _ in $(seq 900); do [ -n "$(squeue --noheader)" ] || return 0; sleep 0.2; done
    squeue >&2
    fail "jobs stay in the queue"
}
# Until a task of a stage runs: the number of its process.
running() {
    for _ in $(seq 900); do
        key=$(squeue --noheader --states=RUNNING --format=%k | grep "/$1/" | head -n 1 | sed 's|.*/||' || true)
        [ -n "$key" ] && pgrep -f -- "run .*--task $key" | head -n 1 && return 0
        sleep 0.1
    done
    fail "no task of $1 began"
}
made() { find "$dir/slurm" -name manifest.json -printf '%P %i %T@\n' | sort; }

submit --dry-run >"$dir/script"
[ ! -e "$dir/slurm" ] || fail "the dry run left something behind"

echo "a task is killed; what comes after it goes" >&2
# No job starts before all are counted.
scontrol update PartitionName=main State=DOWN
sh "$dir/script" || fail "the dry run's script fails"
again=$(submit 2>&1)
grep -q ": 0 tasks submitted, 16 in the queue already" <<<"$again" || fail "jobs that wait were submitted again: $again"
scontrol update PartitionName=main State=UP
kill -9 "$(running pretrain)"
drained
made >"$dir/before"
[ "$(wc -l <"$dir/before")" = 1 ] || fail "the dataset alone should be there: $(cat "$dir/before")"

echo "the node's daemon dies with its task" >&2
submit >/dev/null
task=$(running pretrain)
kill -9 "$(cat "$dir/slurmd.pid")"
kill -9 "$(ps -o ppid= -p "$task")" "$task"
sleep 6
slurmd

echo "the controller dies while the task runs that the node was given again" >&2
running pretrain >/dev/null
kill -9 "$(cat "$dir/slurmctld.pid")"
sleep 1
slurmctld
for _ in $(seq 50); do squeue >/dev/null 2>&1 && break; sleep 0.2; done
drained
submit >/dev/null 2>&1
drained

comm -23 "$dir/before" <(made) | grep . && fail "an artifact was made again"
made >"$dir/before"
said=$(submit 2>&1)
grep -q "16 tasks cached, and nothing is left" <<<"$said" || fail "something is left to do: $said"
made | cmp - "$dir/before" || fail "an artifact was made again"
diff=$("$hemlock" diff "$dir/local" "$dir/slurm")
[ "$(grep -c identical <<<"$diff")" = 16 ] || fail "other artifacts than those of a local run: $diff"

parts=$(find "$dir/slurm/logs/invert" -name '*.part-[123].log' | wc -l)
[ "$parts" = 12 ] || fail "4 inversions in 3 parts should have left 12 logs, not $parts"

echo "a task refuses to run where the spec has changed" >&2
key=$(basename "$(find "$dir/slurm/evaluate" -mindepth 1 -maxdepth 1 | head -n 1)")
status=0
"$hemlock" run "$spec" --root "$dir/slurm" --task "$key" --set seeds=[7] 2>"$dir/refused" || status=$?
[ "$status" = 2 ] && grep -q "has no task $key" "$dir/refused" || fail "exit code $status: $(cat "$dir/refused")"
echo "Slurm: same bytes as a local run"
