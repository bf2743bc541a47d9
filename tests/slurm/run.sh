#!/usr/bin/env bash
# run.sh: the scripts of slurm/ under a real Slurm of one machine, which this test starts (its daemons as plain processes,
# all their state in a scratch folder) and stops. Exit code 77 where Slurm is not installed or the test is not root.
. "$(dirname "$0")/../runs/common.sh"
unset ${!SLURM_*} 2>/dev/null
for tool in slurmctld slurmd sbatch srun scontrol; do
    command -v $tool >/dev/null || {
        echo "skipped: $tool is not installed"
        exit 77
    }
done
((EUID == 0)) || {
    echo "skipped: Slurm's daemons need root"
    exit 77
}
fail() {
    tail -n 30 "$WORK"/*.log "$WORK"/slurm/*.log 2>/dev/null
    echo "$1"
    exit 1
}

# --- the cluster: one node that lends its cores several times over ---

slurm=$WORK/slurm host=$(hostname -s)
mkdir -p "$slurm/state" "$slurm/spool"
free_port() { # two ports that nothing listens on
    local port=$((20000 + RANDOM % 20000))
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    echo $port
}
# Job ids of its own: Slurm's PMIx names folders in /tmp by them, which another such test would share.
cat >"$slurm/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
FirstJobId=$((RANDOM % 50000 + 1))
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=5
MpiDefault=none
SlurmdParameters=config_overrides
StateSaveLocation=$slurm/state
SlurmdSpoolDir=$slurm/spool
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmdPidFile=$slurm/slurmd.pid
SlurmctldLogFile=$slurm/slurmctld.log
SlurmdLogFile=$slurm/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=6 CoresPerSocket=6 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES MaxTime=60
END
export SLURM_CONF=$slurm/slurm.conf
slurmctld -D -f "$SLURM_CONF" >"$slurm/ctld.out" 2>&1 &
daemons=$!
slurmd -D -f "$SLURM_CONF" >"$slurm/d.out" 2>&1 &
daemons+=" $!"
# shellcheck disable=SC2086
trap 'scancel -u root 2>/dev/null; sleep 1; kill $daemons 2>/dev/null; wait $daemons 2>/dev/null; rm -rf "$WORK"' EXIT
for ((i = 0; i < 100; i++)); do
    [[ $(sinfo -h -o %T 2>/dev/null) == idle ]] && break
    sleep 0.3
done
[[ $(sinfo -h -o %T) == idle ]] || fail "the test's Slurm does not start"

# --- jobs ---

cd "$GOLDEN/../.." || exit 1
export KTO
config=configs/demo/demo.cfg
words=(device.backend=cpu train.max_steps=60 train.eval_steps=20 train.save_steps=1000)
resources=(--ntasks-per-node=2 --cpus-per-task=1 --gpus-per-node=0 --mem=500 --time=10)

submit() { # LOG SCRIPT ARGS...: prints the job's id
    sbatch --parsable --output="$WORK/$1.log" "${resources[@]}" "${@:2}"
}
state() { # JOB
    scontrol show job "$1" 2>/dev/null | grep -oE 'JobState=[A-Z_]+' | head -n 1 | cut -d= -f2
}
ended() { # JOB SECONDS: waits; $final is its last state
    local end=$((SECONDS + $2))
    while ((SECONDS < end)); do
        final=$(state "$1")
        case $final in COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL) return 0 ;; esac
        sleep 0.2
    done
    fail "job $1 is $final after $2 s"
}
trains() { # LOG STARTS: waits until the run of this start has done a step
    local end=$((SECONDS + 60))
    until [[ -e $WORK/$1.log ]] && (($(grep -c '^device' "$WORK/$1.log") >= $2)) &&
        tail -n 1 "$WORK/$1.log" | grep -q '^step '; do
        ((SECONDS < end)) || fail "$1: does not train"
        sleep 0.02
    done
}
same() { # RUN WHAT
    "$COMPARE_RUNS" same "$WORK/whole" "$1" >"$WORK/compare.log" 2>&1 || fail "$2: differs from the run that was never disturbed"
}
done_in() { echo "$1: $((SECONDS - begin)) s"; }

# Slurm itself warns, because the time limit of a minute is near: while the other jobs run, for it looks only every 30 s.
# The disk is slow at the first start, so that the run is not done before that.
cat >"$WORK/slow_first" <<END
#!/bin/sh
[ "\${SLURM_RESTART_COUNT:-0}" -gt 0 ] || export LD_PRELOAD="$FAULTS" KTO_DISK=slow:20
exec "$KTO" "\$@"
END
chmod +x "$WORK/slow_first"
limited=$(KTO=$WORK/slow_first submit limit --time=1 --signal=B:USR1@50 slurm/train.sbatch $config \
    train.output_dir="$WORK/limit" "${words[@]}")
limited_begin=$SECONDS

begin=$SECONDS
job=$(submit whole slurm/train.sbatch $config train.output_dir="$WORK/whole" "${words[@]}")
ended "$job" 90
[[ $final == COMPLETED ]] || fail "srun: job ended as $final"
done_in "2 ranks by srun"

begin=$SECONDS
job=$(KTO_LAUNCHER=mpirun submit mpirun slurm/train.sbatch $config train.output_dir="$WORK/mpirun" "${words[@]}")
ended "$job" 90
[[ $final == COMPLETED ]] || fail "mpirun: job ended as $final"
same "$WORK/mpirun" "mpirun"
done_in "2 ranks by mpirun"

# Warned and requeued twice, in both forms.
for form in srun mpirun; do
    begin=$SECONDS log=requeue-$form
    job=$(KTO_LAUNCHER=$form submit $log slurm/train.sbatch $config train.output_dir="$WORK/$log" "${words[@]}")
    for start in 1 2; do
        trains $log $start
        scancel --batch --signal=USR1 "$job"
        until (($(grep -c '^slurm: requeueing' "$WORK/$log.log") == start)); do
            [[ $(state "$job") != @(COMPLETED|FAILED) ]] || fail "$log: ended before it was warned $start times"
            sleep 0.1
        done
    done
    ended "$job" 120
    [[ $final == COMPLETED ]] || fail "$log: job ended as $final"
    (($(grep -c '^stopped .* on request' "$WORK/$log.log") == 2)) || fail "$log: the log was not appended to"
    same "$WORK/$log" "$log"
    done_in "warned and requeued twice, $form"
done

# Warned before the run is ready to be: requeued all the same.
begin=$SECONDS
cat >"$WORK/late" <<END
#!/bin/sh
[ "\${SLURM_RESTART_COUNT:-0}" -gt 0 ] || sleep 30
exec "$KTO" "\$@"
END
chmod +x "$WORK/late"
job=$(KTO=$WORK/late submit late slurm/train.sbatch $config train.output_dir="$WORK/late-run" "${words[@]}")
until pgrep -f "^/bin/sh $WORK/late " >/dev/null; do sleep 0.05; done
scancel --batch --signal=USR1 "$job"
ended "$job" 120
[[ $final == COMPLETED ]] || fail "warned before it was ready: job ended as $final"
same "$WORK/late-run" "warned before it was ready"
done_in "warned before the run was ready"

# srun cannot start the ranks, which it does not take for a failure.
begin=$SECONDS
job=$(submit unstarted --hold slurm/train.sbatch $config train.output_dir="$WORK/unstarted" "${words[@]}")
touch "$slurm/spool/pmix.$job.0" # a folder of Slurm's PMIx
scontrol release "$job"
ended "$job" 60
[[ $final == FAILED ]] || fail "without PMIx: job ended as $final"
grep -q '^slurm: srun ended without' "$WORK/unstarted.log" || fail "without PMIx: the log does not say so"
done_in "srun that cannot start the ranks"

# Cancelled in the middle: not requeued; submitted again it goes on.
begin=$SECONDS
job=$(submit cancel slurm/train.sbatch $config train.output_dir="$WORK/cancel" "${words[@]}")
trains cancel 1
scancel "$job"
ended "$job" 60
[[ $final == CANCELLED ]] || fail "scancel: job ended as $final"
! grep -q '^slurm: requeueing' "$WORK/cancel.log" || fail "scancel: the job requeued itself"
flock "$WORK/cancel/lock" true
job=$(submit cancel-again slurm/train.sbatch $config train.output_dir="$WORK/cancel" "${words[@]}")
ended "$job" 90
[[ $final == COMPLETED ]] || fail "after scancel: job ended as $final"
same "$WORK/cancel" "after scancel"
done_in "cancelled and submitted again"

# Two at once in one folder: the second is refused and says who is there.
begin=$SECONDS
job=$(submit first slurm/train.sbatch $config train.output_dir="$WORK/shared" "${words[@]}")
trains first 1
second=$(submit second slurm/train.sbatch $config train.output_dir="$WORK/shared" "${words[@]}")
ended "$second" 60
[[ $final == FAILED ]] || fail "two jobs in one folder: the second ended as $final"
grep -q 'error: .*another run is writing to this folder (.*Slurm job '"$job" "$WORK/second.log" || fail "the second job does not name the first"
ended "$job" 90
[[ $final == COMPLETED ]] || fail "two jobs in one folder: the first ended as $final"
same "$WORK/shared" "beside a job that was refused"
done_in "two jobs in one folder"

# An array, two tasks at once.
begin=$SECONDS
printf 'train.seed=1 train.output_dir=%s/sweep/1\ntrain.seed=2 train.output_dir=%s/sweep/2\n' "$WORK" "$WORK" >"$WORK/sweep.txt"
job=$(submit sweep-%a --array=1-2 slurm/sweep.sbatch $config "$WORK/sweep.txt" "${words[@]}")
until [[ -e $WORK/sweep/1/adapter && -e $WORK/sweep/2/adapter ]]; do
    ((SECONDS < begin + 120)) || fail "the array does not end"
    sleep 0.3
done
done_in "an array of two"

# What became of the time limit.
ended "$limited" 120
[[ $final == COMPLETED ]] || fail "time limit: job ended as $final"
grep -q '^slurm: time is nearly up' "$WORK/limit.log" || fail "time limit: Slurm did not warn"
grep -q '^slurm: requeueing' "$WORK/limit.log" || fail "time limit: not requeued"
same "$WORK/limit" "time limit"
begin=$limited_begin
done_in "warned by Slurm itself near the time limit, $(grep -oE 'on request after step [0-9]+' "$WORK/limit.log" | tr '\n' ' ')requeued and done"
