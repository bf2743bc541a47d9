#!/usr/bin/env bash
# resume.sh NAME RANKS [key=value ...]: a run that lost everything after a checkpoint, and one that was killed at a random
# moment, go on and end with the bits and the samples of the run that was never stopped. A finished run says so; another's
# folder is refused, but not that of a start that failed before its first step.
. "$(dirname "$0")/common.sh"
name=$1 ranks=$2
shift 2
head -n 2 "$name/rows.jsonl" >"$WORK/prompts.jsonl"
words=(train.save_steps=5 train.save_total_limit=100 train.sample_prompts="$WORK/prompts.jsonl" train.sample_steps=3 "$@")

same() { # RUN_DIR
    "$COMPARE_RUNS" same "$WORK/whole" "$1" 2>"$WORK/differences" &&
        cmp "$WORK/whole/samples.jsonl" "$1/samples.jsonl" >>"$WORK/differences" && return
    head -n 20 "$WORK/differences"
    echo "$1 differs from the run that was never stopped"
    exit 1
}

train "$name" "$ranks" "$WORK/whole" "${words[@]}"

# As a crash after step 10's checkpoint leaves it: later rows are in metrics.h5, later checkpoints are not there.
cp -r "$WORK/whole" "$WORK/cut"
rm -r "$WORK/cut/adapter"
find "$WORK/cut/checkpoints" -name 'step-*.h5' ! -name 'step-000005.h5' ! -name 'step-000010.h5' -delete
train "$name" "$ranks" "$WORK/cut" "${words[@]}"
grep -q 'resume .*step-000010.h5' "$WORK/log" || {
    cat "$WORK/log"
    echo "the run did not resume from step 10"
    exit 1
}
same "$WORK/cut"

# Killed as soon as its first checkpoint is there.
setsid mpirun -n "$ranks" "$KTO" train "$name/run.cfg" train.output_dir="$WORK/killed" "${words[@]}" >"$WORK/log" 2>&1 &
group=$!
until compgen -G "$WORK/killed/checkpoints/step-*.h5" >/dev/null || ! kill -0 $group 2>/dev/null; do sleep 0.01; done
kill -KILL -- -$group 2>/dev/null
wait $group 2>/dev/null
# mpirun's ranks are in sessions of their own and end when they notice; the lock says when.
flock "$WORK/killed/lock" true
train "$name" "$ranks" "$WORK/killed" "${words[@]}"
same "$WORK/killed"

train "$name" "$ranks" "$WORK/whole" "${words[@]}"
grep -q 'this run of .* steps is finished' "$WORK/log" || {
    cat "$WORK/log"
    echo "a finished run did not say so"
    exit 1
}
"$KTO" train "$name/run.cfg" train.output_dir="$WORK/whole" "${words[@]}" train.learning_rate=0.5 >"$WORK/log" 2>&1
status=$?
grep -q 'holds another run: train.learning_rate was .* and is now 0.5' "$WORK/log" && ((status == 2)) || {
    cat "$WORK/log"
    echo "another run's folder was not refused (exit code $status)"
    exit 1
}
# ... and how to go on from a result is what the refusal says.
advice=$(grep -o 'lora.init = "[^"]*"' "$WORK/log" | tr -d ' ')
train "$name" "$ranks" "$WORK/more" "${words[@]}" "$advice" train.max_steps=1

"$KTO" train "$name/run.cfg" train.output_dir="$WORK/failed" "${words[@]}" lora.r=8 lora.init="$WORK/nowhere" >"$WORK/log" 2>&1
(($? == 3)) && [[ -e $WORK/failed/config.cfg ]] || {
    cat "$WORK/log"
    echo "a start without its adapter did not fail as expected"
    exit 1
}
train "$name" "$ranks" "$WORK/failed" "${words[@]}"
same "$WORK/failed"
