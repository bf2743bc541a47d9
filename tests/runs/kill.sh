#!/usr/bin/env bash
# kill.sh COUNT: runs of 120 steps of the demo's model on two ranks, COUNT of them killed (SIGKILL) before their end at a
# random moment: a rank, mpirun, all of them, or all while rank 0 writes a checkpoint. Each goes on with the same command and
# ends with the bits of the run that was never stopped, its log complete. A run that was faster than its kill is compared too
# and does not count.
. "$(dirname "$0")/common.sh"
count=$1 RANDOM=${2:-11}
cd "$GOLDEN/../.." || exit 1
# Small batches: much of the time is starting, writing and ending.
words=(train.max_steps=120 train.global_batch_size=4 train.eval_steps=100 train.save_steps=5 data.reference_cache="$WORK")
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
start() { # RUN
    exec mpirun -n 2 "$KTO" train configs/demo/demo.cfg train.output_dir="$1" "${words[@]}" >"$WORK/log" 2>&1
}
find_ranks() { mapfile -t ranks < <(pgrep -f -- "^$KTO train configs/demo/demo.cfg train.output_dir=$run "); }
wait_for_ranks() { # until there are as many as COUNT, or no launcher
    until find_ranks && ((${#ranks[@]} >= $1)) || ! kill -0 $launcher 2>/dev/null; do sleep 0.01; done
}
(start "$WORK/whole") || fail "the run failed"
begin=$(now)
rm -r "$WORK/whole"
(start "$WORK/whole") || fail "the run failed"
length=$(($(now) - begin))

killed=0 writing=0 locked_up=0 run="$WORK/run"
for ((i = 0; killed < count; i++)); do
    ((i < 2 * count)) || fail "only $killed of $i runs were killed before their end"
    rm -rf "$run"
    begin=$(now)
    (start "$run") &
    launcher=$!
    if ((i % 4 == 3)); then # when the n-th checkpoint is being written
        n=$((RANDOM % 20 + 1)) checkpoint=$run/checkpoints/$(printf 'step-%06d.h5' $((n * 5)))
        wait_for_ranks 2
        until [[ -e $checkpoint.tmp || -e $checkpoint ]] || ! kill -0 $launcher 2>/dev/null; do :; done
    else
        delay=$((RANDOM * length / 32768))
        sleep $((delay / 1000)).$(printf %03d $((delay % 1000)))
        if ((i % 4 == 0)); then wait_for_ranks 1; else find_ranks; fi
    fi
    case $((i % 4)) in
    0) ((${#ranks[@]} == 0)) || kill -KILL "${ranks[RANDOM % ${#ranks[@]}]}" 2>/dev/null ;;
    1) kill -KILL $launcher 2>/dev/null ;;
    *) kill -KILL "${ranks[@]}" $launcher 2>/dev/null ;;
    esac
    # mpirun 4.1 can lock itself up (in pmix_rte_finalize) when a rank dies while it starts the ranks.
    for ((late = 0; late < 1000; late++)); do
        ! kill -0 $launcher 2>/dev/null && break
        find_ranks && ((${#ranks[@]} > 0)) && late=0
        sleep 0.02
    done
    if ((late == 1000)); then
        ((locked_up++))
        kill -KILL $launcher
    fi
    wait $launcher 2>/dev/null
    status=$?
    # Ranks that lost their launcher end when they notice.
    while find_ranks && ((${#ranks[@]} > 0)); do sleep 0.05; done
    # How long a run takes changes with what else the machine does: longer is tried little by little, shorter is measured.
    if [[ ! -e $run/adapter ]]; then
        ((status != 0)) || fail "run $i: exit code 0 without a result"
        ((killed++, length += length / 100))
        ! compgen -G "$run/checkpoints/*.tmp" >/dev/null || ((writing++))
    elif ((i % 4 < 3)); then
        length=$(($(now) - begin))
    fi
    # What it left can be read before anything goes on.
    if [[ -e $run/metrics.h5 ]] && ! "$KTO" log "$run" --csv >/dev/null 2>"$WORK/log"; then
        grep -q "has no step in its log yet" "$WORK/log" || fail "run $i: killed, and its log cannot be read"
    fi
    (start "$run") || fail "run $i: killed, and does not go on"
    "$COMPARE_RUNS" same "$WORK/whole" "$run" 2>"$WORK/log" || fail "run $i: killed, gone on, and not the same"
done
echo "$killed of $killed runs the same after SIGKILL before their end, $writing of them with a checkpoint half written;" \
    "$((i - killed)) ended before their kill and are the same (a run takes about $length ms); mpirun locked itself up" \
    "$locked_up times"
