#!/usr/bin/env bash
# signals.sh: requests to stop by the hundred, so that they come in the middle of every kind of work, do no harm: the demo's
# model on two ranks, stopped five times like that, ends with the bits of a run that was never stopped.
. "$(dirname "$0")/common.sh"
cd "$GOLDEN/../.." || exit 1
words=(train.max_steps=20 train.eval_steps=10 train.save_steps=1000 train.logging_steps=1 data.reference_cache="$WORK")
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
start() { # RUN
    exec mpirun -n 2 "$KTO" train configs/demo/demo.cfg train.output_dir="$1" "${words[@]}" >"$WORK/log" 2>&1
}
(start "$WORK/whole") || fail "the run failed"
sent=0
for ((stops = 0; stops < 5; stops++)); do
    : >"$WORK/log" # not the last run's
    (start "$WORK/run") &
    launcher=$!
    until grep -q '^step ' "$WORK/log" || ! kill -0 $launcher 2>/dev/null; do sleep 0.01; done
    mapfile -t ranks < <(pgrep -f -- "^$KTO train configs/demo/demo.cfg train.output_dir=$WORK/run ")
    while ((${#ranks[@]})) && kill -USR1 "${ranks[@]}" 2>/dev/null; do
        ((sent += ${#ranks[@]}))
        sleep 0.002
    done
    wait $launcher
    status=$?
    ((status == 75)) || fail "stop $stops: exit code $status instead of 75"
done
(start "$WORK/run") || fail "stopped $stops times, and does not go on"
"$COMPARE_RUNS" same "$WORK/whole" "$WORK/run" 2>"$WORK/log" || fail "stopped $stops times, and not the same"
echo "$sent signals, $stops stops"
