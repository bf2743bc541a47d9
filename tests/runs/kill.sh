#!/usr/bin/env bash
# kill.sh COUNT: runs of 120 steps of the demo's model on two ranks, each killed (SIGKILL) at a random moment: a rank, mpirun,
# all of them, or rank 0 while it writes a checkpoint. Each goes on with the same command and ends with the bits of the run
# that was never stopped, its log complete.
. "$(dirname "$0")/common.sh"
count=$1 RANDOM=${2:-11}
cd "$GOLDEN/../.." || exit 1
words=(train.max_steps=120 train.eval_steps=60 train.save_steps=5 data.reference_cache="$WORK")
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
start() { # RUN
    exec mpirun -n 2 "$KTO" train configs/demo/demo.cfg train.output_dir="$1" "${words[@]}" >"$WORK/log" 2>&1
}
(start "$WORK/whole") || fail "the run failed"
begin=$(date +%s%N)
rm -r "$WORK/whole"
(start "$WORK/whole") || fail "the run failed"
length=$((($(date +%s%N) - begin) / 1000000))
killed=0
for ((i = 0; i < count; i++)); do
    run="$WORK/run"
    rm -rf "$run"
    (start "$run") &
    launcher=$!
    if ((i % 4 == 3)); then # when the n-th checkpoint is being written
        n=$((RANDOM % 20 + 1)) temporary=$(printf 'step-%06d.h5.tmp' $((n * 5)))
        until [[ -e $run/checkpoints/$temporary ]] || ! kill -0 $launcher 2>/dev/null; do :; done
    else
        delay=$((RANDOM * (length - 200) / 32768 + 100))
        sleep $((delay / 1000)).$(printf %03d $((delay % 1000)))
    fi
    mapfile -t ranks < <(pgrep -f -- "^$KTO train configs/demo/demo.cfg train.output_dir=$run ")
    case $((i % 4)) in
    0) ((${#ranks[@]} == 0)) || kill -KILL "${ranks[$((RANDOM % ${#ranks[@]}))]}" 2>/dev/null ;;
    1) kill -KILL $launcher 2>/dev/null ;;
    *) kill -KILL "${ranks[@]}" $launcher 2>/dev/null ;;
    esac
    wait $launcher 2>/dev/null
    (($? == 0)) || ((killed++))
    # Ranks that lost their launcher end when they notice.
    while pgrep -f -- "^$KTO train configs/demo/demo.cfg train.output_dir=$run " >/dev/null; do sleep 0.05; done
    (start "$run") || fail "run $i: killed, and does not go on"
    "$COMPARE_RUNS" same "$WORK/whole" "$run" 2>"$WORK/log" || fail "run $i: killed, gone on, and not the same"
done
((10 * killed >= 9 * count)) || fail "only $killed of $count runs were killed before their end"
echo "$count of $count runs the same after SIGKILL ($killed were killed before their end, which takes $length ms)"
