#!/usr/bin/env bash
# repeat.sh MODE NAME RANKS_A WORDS_A RANKS_B WORDS_B: trains golden run NAME twice, on RANKS_A and RANKS_B ranks with
# the key=value words of each, and compares the runs: MODE "same" (bit for bit) or "near" (within the golden tolerance).
. "$(dirname "$0")/common.sh"
mode=$1 name=$2
# The words hold no spaces.
# shellcheck disable=SC2086
train "$name" "$3" "$WORK/one" $4
# shellcheck disable=SC2086
train "$name" "$5" "$WORK/two" $6
"$COMPARE_RUNS" "$mode" "$WORK/one" "$WORK/two" 2>"$WORK/differences"
status=$?
head -n 20 "$WORK/differences"
exit $status
