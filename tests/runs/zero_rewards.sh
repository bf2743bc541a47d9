#!/usr/bin/env bash
# zero_rewards.sh RANKS [key=value ...]: before the first update (B = 0) every reward and z0 are exactly 0.
. "$(dirname "$0")/common.sh"
ranks=$1
shift
train a "$ranks" "$WORK/run" train.max_steps=1 "$@"
"$COMPARE_RUNS" zero-rewards "$WORK/run"
