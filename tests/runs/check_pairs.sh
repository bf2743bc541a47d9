#!/usr/bin/env bash
# check_pairs.sh: what `kto check` says of pairs, and the same file's two rows a pair under KTO.
. "$(dirname "$0")/common.sh"
failures=0

expect() { # PATTERN: in what was printed last
    grep -q -- "$1" "$WORK/log" && return
    cat "$WORK/log"
    echo "not printed: $1"
    failures=1
}
check() {
    "$KTO" check dpo/run.cfg train.output_dir="$WORK/run" "$@" >"$WORK/log" 2>&1 || failures=1
}

check
expect 'train    dpo/rows.jsonl: 57 pairs, '
expect 'eval     dpo/eval.jsonl: 11 pairs, '
expect 'data.max_length: 13 pairs dropped (the prompt alone fills it), 13 completions cut'
expect 'run      30 steps of 8 pairs'
expect 'batches  .* tokens a step; .*: sharing saves [1-9][0-9]* %'
shared=$(sed -n 's/^batches  *\([0-9]*\) .*/\1/p' "$WORK/log")
check data.share_prefixes=false # but a pair's own prompt is computed once all the same
apart=$(sed -n 's/^batches  *\([0-9]*\) .*/\1/p' "$WORK/log")
expect 'sharing saves [1-9][0-9]* %'
((shared < apart)) || {
    echo "shared: $shared tokens a step, unshared: $apart"
    failures=1
}
check kto.loss_type=kto
expect 'train    dpo/rows.jsonl: 11[0-9] rows, 5[0-9] desirable and 5[0-9] undesirable, '
exit $failures
