#!/usr/bin/env bash
# golden.sh NAME RANKS [key=value ...]: trains golden run NAME and compares every step with TRL's.
# TOLERANCE in the environment replaces the usual 2e-5.
. "$(dirname "$0")/common.sh"
name=$1 ranks=$2
shift 2
train "$name" "$ranks" "$WORK/run" "$@"
"$COMPARE_GOLDEN" "$WORK/run" "$name/golden.json" ${TOLERANCE:+"$TOLERANCE"} 2>"$WORK/differences"
status=$?
head -n 20 "$WORK/differences"
exit $status
