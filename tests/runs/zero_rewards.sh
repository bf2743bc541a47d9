#!/usr/bin/env bash
# zero_rewards.sh NAME RANKS [key=value ...]: before the first update (B = 0) every reward and z0 are exactly 0.
. "$(dirname "$0")/common.sh"
name=$1 ranks=$2
shift 2
train "$name" "$ranks" "$WORK/run" train.max_steps=1 "$@"
"$COMPARE_RUNS" zero-rewards "$WORK/run"
