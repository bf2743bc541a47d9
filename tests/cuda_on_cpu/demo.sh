#!/usr/bin/env bash
# demo.sh: ten steps of the demo on two ranks of the CUDA device agree with the CPU's to 1e-4 in float32.
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
"$COMPARE_RUNS" near "$WORK/cpu" "$WORK/cuda" 1e-4
