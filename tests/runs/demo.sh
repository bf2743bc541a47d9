#!/usr/bin/env bash
# demo.sh: a few steps of the demo on two ranks, then answers of the base and the tuned model; alone and shared over ranks
# the answers are the same.
. "$(dirname "$0")/common.sh"
cd "$GOLDEN/../.." || exit 1
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
mpirun -n 2 "$KTO" train configs/demo/demo.cfg train.output_dir="$WORK/run" train.max_steps=3 train.eval_steps=2 \
    train.sample_prompts="$WORK/prompts.jsonl" train.sample_steps=3 >"$WORK/log" 2>&1 && fail "a missing prompts file was accepted"
head -n 3 configs/demo/titles.jsonl >"$WORK/prompts.jsonl"
mpirun -n 2 "$KTO" train configs/demo/demo.cfg train.output_dir="$WORK/run" train.max_steps=3 train.eval_steps=2 \
    train.sample_prompts="$WORK/prompts.jsonl" train.sample_steps=3 >"$WORK/log" 2>&1 || fail "the demo does not train"
[[ $(wc -l <"$WORK/run/samples.jsonl") == 3 ]] || fail "samples.jsonl should hold 3 lines"
for flag in "" --base; do
    # shellcheck disable=SC2086
    "$KTO" sample "$WORK/run" --prompts "$WORK/prompts.jsonl" --n 2 --seed 7 --max-tokens 40 $flag >"$WORK/alone" 2>"$WORK/log" ||
        fail "kto sample $flag failed"
    # shellcheck disable=SC2086
    mpirun -n 3 "$KTO" sample "$WORK/run" --prompts "$WORK/prompts.jsonl" --n 2 --seed 7 --max-tokens 40 $flag >"$WORK/shared" \
        2>"$WORK/log" || fail "kto sample $flag failed on 3 ranks"
    [[ $(wc -l <"$WORK/alone") == 6 ]] || fail "kto sample --n 2 should write 6 lines"
    cmp "$WORK/alone" "$WORK/shared" || fail "answers depend on the ranks"
done
