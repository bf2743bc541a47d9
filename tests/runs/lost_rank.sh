#!/usr/bin/env bash
# lost_rank.sh NAME: one of three ranks is stopped (SIGSTOP), hangs (faults.c) or is killed in the middle of a run. The job ends non-zero within
# device.timeout_seconds + 10 s, says who was missing, and leaves a folder from which the same command goes on to the bits of
# a run that was never disturbed.
. "$(dirname "$0")/common.sh"
name=$1 timeout=3
words=(train.save_steps=3 train.save_total_limit=100 device.timeout_seconds=$timeout)
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}

train "$name" 3 "$WORK/whole" "${words[@]}"
for fault in STOP HANG KILL; do
    signal=${fault/HANG/USR2}
    ranks=(0 1 2)
    [[ $fault == HANG ]] && ranks=(1) # the others see it as they see STOP; of rank 0 see disk.sh
    for rank in "${ranks[@]}"; do
        run="$WORK/$fault-$rank"
        LD_PRELOAD=$FAULTS mpirun -n 3 "$KTO" train "$name/run.cfg" train.output_dir="$run" "${words[@]}" >"$WORK/log" 2>&1 &
        launcher=$!
        until compgen -G "$run/checkpoints/step-*.h5" >/dev/null || ! kill -0 $launcher 2>/dev/null; do sleep 0.002; done
        process=
        for candidate in $(pgrep -f -- "$KTO train $name/run.cfg train.output_dir=$run "); do
            grep -qzx "OMPI_COMM_WORLD_RANK=$rank" "/proc/$candidate/environ" 2>/dev/null && process=$candidate
        done
        [[ -n $process ]] && kill -$signal "$process" 2>/dev/null || fail "the run ended before rank $rank could be stopped"
        wait_for_end $launcher "$run" "$(now)"
        ((status != 0)) || fail "$fault of rank $rank: exit code 0"
        ((milliseconds < 1000 * (timeout + 10))) || fail "$fault of rank $rank: all ended after $milliseconds ms"
        [[ $fault == KILL ]] || grep -qE "error: rank $rank \(host .*, process $process\) (did not reach|reached)" "$WORK/log" ||
            fail "$fault of rank $rank: nobody named it"
        report "$fault of rank $rank" "$run"
        train "$name" 3 "$run" "${words[@]}"
        "$COMPARE_RUNS" same "$WORK/whole" "$run" 2>"$WORK/log" || fail "$fault of rank $rank: the resumed run differs"
    done
done
