#!/usr/bin/env bash
# skipped_steps.sh RANKS: one word's embedding is not a number. The steps with that word are skipped and name its rows and no
# others; the run goes on, or ends after train.max_skipped_steps with its last checkpoint kept.
. "$(dirname "$0")/common.sh"
ranks=$1
command -v python3 >/dev/null || {
    echo "skipped: no python3"
    exit 77
}
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
cp -r d/. "$WORK/d"
cp -r tiny-model "$WORK/tiny-model"
# Token 507, "4", stands in the prompts of lines 3, 48 and 51 alone, and in no completion.
python3 - "$WORK/tiny-model/model.safetensors" 507 <<'END'
import json, struct, sys
path, row = sys.argv[1], int(sys.argv[2])
data = bytearray(open(path, "rb").read())
length = struct.unpack("<Q", data[:8])[0]
tensor = json.loads(data[8 : 8 + length])["model.embed_tokens.weight"]
size = {"F32": 4, "BF16": 2, "F16": 2}[tensor["dtype"]] * tensor["shape"][1]
at = 8 + length + tensor["data_offsets"][0] + row * size
data[at : at + size] = b"\xff" * size  # NaN in each of these types
open(path, "wb").write(data)
END
cd "$WORK" || exit 1
run_on() { # OUTPUT_DIR [key=value ...]
    mpirun -n "$ranks" "$KTO" train d/run.cfg train.output_dir="$1" train.eval_steps=0 train.save_steps=1 "${@:2}" >"$WORK/log" 2>&1
    status=$?
}
run_on "$WORK/through"
((status == 0)) || fail "exit code $status instead of 0"
grep 'warning: step .*the step is skipped' "$WORK/log" | sed 's/.*its rows are //' | sort -u >"$WORK/rows"
printf 'd/rows.jsonl:%s\n' 3 48 51 | diff "$WORK/rows" - || fail "other rows are named than those with the word"
(($(grep -c 'the step is skipped' "$WORK/log") == 6)) || fail "not three skipped steps an epoch"
run_on "$WORK/ended" train.max_skipped_steps=2
((status == 1)) || fail "exit code $status instead of 1"
(($(grep -c 'kto: error: 3 steps had numbers that are not finite' "$WORK/log") == 1)) || fail "no message at the end"
compgen -G "$WORK/ended/checkpoints/step-*.h5" >/dev/null || fail "no checkpoint is left"
run_on "$WORK/ended"
((status == 0)) || fail "the run does not go on with more skips allowed: exit code $status"
"$COMPARE_RUNS" same "$WORK/through" "$WORK/ended" 2>"$WORK/log" || fail "the resumed run differs"
