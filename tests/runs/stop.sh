#!/usr/bin/env bash
# stop.sh NAME RANKS [key=value ...]: a run that is asked to stop (SIGUSR1 to mpirun, SIGUSR1 to one rank alone, SIGTERM to
# the ranks) writes a checkpoint, exits with 75, and the same command goes on to the bits of the run that was never stopped.
. "$(dirname "$0")/common.sh"
name=$1 ranks=$2
shift 2
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
words=(train.save_steps=1000 train.eval_steps=1 "$@") # evaluations are stopped in the middle too

train "$name" "$ranks" "$WORK/whole" "${words[@]}"

stopped=0
for way in mpirun rank term; do
    run="$WORK/$way"
    for ((start = 1; ; start++)); do
        ((start < 100)) || fail "the run came to no end"
        mpirun -n "$ranks" "$KTO" train "$name/run.cfg" train.output_dir="$run" "${words[@]}" >"$WORK/log" 2>&1 &
        launcher=$!
        # As soon as it trains; a run that ends before is a run that was not stopped.
        until grep -q '^step ' "$WORK/log" || ! kill -0 $launcher 2>/dev/null; do sleep 0.002; done
        mapfile -t processes < <(pgrep -f -- "$KTO train $name/run.cfg train.output_dir=$run ")
        ((start > 3)) || case $way in # stopped three times, then let go
        mpirun) kill -USR1 $launcher 2>/dev/null ;;
        rank) ((${#processes[@]} == 0)) || kill -USR1 "${processes[-1]}" 2>/dev/null ;;
        term) pkill -TERM -x -f -- "$KTO train $name/run.cfg train.output_dir=$run ${words[*]}" ;;
        esac
        wait $launcher
        status=$?
        ((status == 0)) && break
        # Open MPI's mpirun takes its handlers down before it ends: the signal came behind the run's own end.
        [[ $way == mpirun && $status == 138 ]] && grep -q '^files ' "$WORK/log" && break
        ((status == 75)) || fail "stopped by $way: exit code $status instead of 75"
        grep -q '^stopped .* on request after step' "$WORK/log" || fail "stopped by $way: it did not say so"
        ((stopped++))
    done
    "$COMPARE_RUNS" same "$WORK/whole" "$run" 2>"$WORK/log" || fail "stopped by $way: differs from the run that was never stopped"
done
((stopped >= 3)) || fail "the runs ended before they could be stopped ($stopped stops)"
echo "$stopped stops"
