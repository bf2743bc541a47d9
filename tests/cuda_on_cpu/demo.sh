#!/usr/bin/env bash
# demo.sh: ten steps of the demo on two ranks of the CUDA device agree with the CPU's to 1e-4 in float32, and the tuned model
# answers with the same words on both.
. "$(dirname "$0")/../runs/common.sh"
cd "$GOLDEN/../.." || exit 1
for backend in cpu cuda; do
    mpirun -n 2 "$KTO" train configs/demo/demo.cfg model.dtype=float32 train.max_steps=10 train.eval_steps=0 data.eval= \
        device.backend=$backend device.comm=mpi train.output_dir="$WORK/$backend" >"$WORK/log" 2>&1 || {
        cat "$WORK/log"
        echo "the demo does not train on $backend"
        exit 1
    }
done
"$COMPARE_RUNS" near "$WORK/cpu" "$WORK/cuda" 1e-4 || exit 1

head -n 3 configs/demo/titles.jsonl >"$WORK/prompts.jsonl"
for backend in cpu cuda; do
    "$KTO" sample "$WORK/$backend" --prompts "$WORK/prompts.jsonl" --max-tokens 12 >"$WORK/$backend.answers" 2>"$WORK/log" || {
        cat "$WORK/log"
        echo "the demo does not answer on $backend"
        exit 1
    }
done
[[ $(wc -l <"$WORK/cpu.answers") == 3 ]] && diff "$WORK/cpu.answers" "$WORK/cuda.answers"
