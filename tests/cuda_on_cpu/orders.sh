#!/usr/bin/env bash
# orders.sh NAME [key=value ...]: a golden run's first steps have the same bits whatever order blocks and threads run in.
. "$(dirname "$0")/../runs/common.sh"
name=$1
shift
train "$name" 1 "$WORK/0" device.backend=cuda train.max_steps=2 "$@"
for seed in 1 2 3; do
    KTO_STANDIN_SEED=$seed train "$name" 1 "$WORK/$seed" device.backend=cuda train.max_steps=2 "$@"
    "$COMPARE_RUNS" same "$WORK/0" "$WORK/$seed" || exit 1
done
