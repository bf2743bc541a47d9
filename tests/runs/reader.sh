#!/usr/bin/env bash
# reader.sh STEPS: a reader polls metrics.h5 fifty times a second while the demo's model trains; neither disturbs the other.
. "$(dirname "$0")/common.sh"
steps=$1
cd "$GOLDEN/../.." || exit 1
"$KTO" train configs/demo/demo.cfg train.output_dir="$WORK/run" train.max_steps="$steps" train.num_train_epochs=100 \
    train.eval_steps=50 >"$WORK/log" 2>&1 &
run=$!
"$POLL_METRICS" "$WORK/run/metrics.h5" $run >"$WORK/reads"
reader=$?
wait $run
status=$?
((status == 0 && reader == 0)) && grep -q " $steps rows" "$WORK/reads" || {
    tail -n 5 "$WORK/log" "$WORK/reads"
    echo "exit code $status of the run, $reader of the reader"
    exit 1
}
cat "$WORK/reads"
grep '^files' "$WORK/log"
