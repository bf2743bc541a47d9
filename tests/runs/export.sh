#!/usr/bin/env bash
# export.sh: a run as a PEFT folder and merged into its model, in each dtype and in several files; what kto reads back
# answers as the adapter does; checkpoints and runs that have not finished; every bad input, which must leave nothing behind.
. "$(dirname "$0")/common.sh"
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
export_run() { # RUN_DIR OUT [OPTION ...]
    "$KTO" export "$1" --out "$2" "${@:3}" >"$WORK/out" 2>"$WORK/log" || fail "kto export $* failed"
    [[ ! -s $WORK/out ]] || fail "kto export wrote to standard output"
    ! compgen -G "$2.*.tmp" >/dev/null || fail "$2: the temporary folder is still there"
}
answers() { # RUN_DIR|CONFIG FILE [OPTION ...]: greedy answers
    "$KTO" sample "$1" --prompts "$WORK/prompts.jsonl" --greedy --max-tokens 24 "${@:3}" >"$2" 2>"$WORK/log" ||
        fail "kto sample $1 failed"
}
merged_config() { # FOLDER: a configuration with that model
    sed "s#path = \"tiny-model\"#path = \"$1\"#" "$run/config.cfg" >"$WORK/merged.cfg"
    grep -q "path = \"$1\"" "$WORK/merged.cfg" || fail "cannot name $1 in a configuration"
    echo "$WORK/merged.cfg"
}
head -n 12 b/rows.jsonl >"$WORK/prompts.jsonl"
run=$WORK/run
train b 1 "$run" train.save_steps=10 train.save_total_limit=3
answers "$run" "$WORK/tuned.jsonl"
answers "$run" "$WORK/base.jsonl" --base
! cmp -s "$WORK/tuned.jsonl" "$WORK/base.jsonl" || fail "the adapter changes nothing, so this test would show nothing"

# --- the adapter: that of the run, with the base model's name
export_run "$run" "$WORK/peft" --format peft --base-name owner/tiny
cmp "$run/adapter/adapter_model.safetensors" "$WORK/peft/adapter_model.safetensors" || fail "another adapter"
diff <(sed 's#"tiny-model"#"owner/tiny"#' "$run/adapter/adapter_config.json") "$WORK/peft/adapter_config.json" ||
    fail "adapter_config.json is not the run's"
export_run "$run" "$WORK/peft-unnamed" --format peft
cmp "$run/adapter/adapter_config.json" "$WORK/peft-unnamed/adapter_config.json" || fail "adapter_config.json is not the run's"

# --- merged: in float32 the same words; files as transformers names them; what is not merged stays
export_run "$run" "$WORK/merged" --format merged --dtype float32
answers "$(merged_config "$WORK/merged")" "$WORK/answers.jsonl" --base
cmp "$WORK/tuned.jsonl" "$WORK/answers.jsonl" || fail "the merged model answers otherwise than the adapter"
for file in tokenizer.model tokenizer_config.json special_tokens_map.json; do
    cmp "tiny-model/$file" "$WORK/merged/$file" || fail "$file is not the base model's"
done
diff <(sed 's/"bfloat16"/"float32"/; s/1e-05/1e-5/' tiny-model/config.json) "$WORK/merged/config.json" ||
    fail "config.json: more than the dtype has changed"
[[ $(ls "$WORK/merged") == "$(printf '%s\n' README.md config.json model.safetensors special_tokens_map.json tokenizer.model tokenizer_config.json)" ]] ||
    fail "other files than expected: $(ls "$WORK/merged")"

export_run "$run" "$WORK/shards" --format merged --dtype float32 --shard-bytes 100000
shards=("$WORK"/shards/model-*-of-*.safetensors)
((${#shards[@]} > 3)) || fail "only ${#shards[@]} files of weights"
printf -v last 'model-%05d-of-%05d.safetensors' ${#shards[@]} ${#shards[@]}
[[ -e $WORK/shards/$last && -e $WORK/shards/model.safetensors.index.json && ! -e $WORK/shards/model.safetensors ]] ||
    fail "the files of weights are named otherwise: $(ls "$WORK/shards")"
answers "$(merged_config "$WORK/shards")" "$WORK/answers.jsonl" --base
cmp "$WORK/tuned.jsonl" "$WORK/answers.jsonl" || fail "the model in several files answers otherwise than in one"

export_run "$run" "$WORK/stored" --format merged
cmp tiny-model/config.json "$WORK/stored/config.json" || fail "config.json has changed although the dtype is the base's"
[[ $(stat -c %s "$WORK/stored/model.safetensors") -lt $(stat -c %s "$WORK/merged/model.safetensors") ]] || fail "bfloat16 is no smaller"
answers "$(merged_config "$WORK/stored")" "$WORK/answers.jsonl" --base
! cmp -s "$WORK/base.jsonl" "$WORK/answers.jsonl" || fail "merged in bfloat16 nothing has changed"
OMP_NUM_THREADS=3 export_run "$run" "$WORK/threads" --format merged
cmp "$WORK/stored/model.safetensors" "$WORK/threads/model.safetensors" || fail "the weights depend on the number of threads"
export_run "$run" "$WORK/half" --format merged --dtype float16
grep -q '"torch_dtype": "float16"' "$WORK/half/config.json" || fail "config.json does not say float16"
answers "$(merged_config "$WORK/half")" "$WORK/answers.jsonl" --base

# --- the card
card=$WORK/peft/README.md
for line in 'base_model: owner/tiny' 'library_name: peft' '- lora' '| training | `rows.jsonl` | 84 | 44 | 40 |' '| loss | *' '| reward margin | *' \
    '*to step 30 (adapter *' '    lora: {' '        learning_rate = 0.001;' 'model = PeftModel.from_pretrained(model, "peft")*'; do
    found=
    while IFS= read -r text; do
        # shellcheck disable=SC2053 # a pattern
        [[ $text == $line ]] && found=1
    done <"$card"
    [[ $found ]] || fail "README.md has no line $line: $(cat "$card")"
done
[[ $(head -n 1 "$card") == --- ]] || fail "README.md does not begin with its head"
grep -qx 'library_name: transformers' "$WORK/merged/README.md" || fail "the merged model's README.md names another library"
grep -q '^# base_model' "$WORK/merged/README.md" || fail "README.md names a folder as a model of the Hub"
train dpo 1 "$WORK/dpo" train.max_steps=1
export_run "$WORK/dpo" "$WORK/dpo-peft" --format peft
for loss in 'peft kto KTO 2402.01306' 'dpo-peft dpo DPO 2305.18290'; do
    read -r folder word title paper <<<"$loss"
    grep -qF "with the loss \`$word\` ([$title](https://arxiv.org/abs/$paper)), rank" "$WORK/$folder/README.md" ||
        fail "README.md does not name the loss $word and its paper"
done
# The base model's license, where its own card says it; its name, where it lies in the Hub's cache.
cache=$WORK/hub/models--owner--tiny/snapshots/0123
mkdir -p "$cache"
cp tiny-model/* "$cache"
printf -- '---\nlanguage: en\nlicense: other\nlicense_name: tiny-license\n---\nlicense: none of this\n' >"$cache/README.md"
echo terms >"$cache/LICENSE"
echo '{"do_sample": true}' >"$cache/generation_config.json"
export_run "$run" "$WORK/licensed" --format merged --model "$cache"
for line in 'license: other' 'license_name: tiny-license' 'base_model: owner/tiny'; do
    [[ $(grep -cxF "$line" "$WORK/licensed/README.md") == 1 ]] || fail "README.md does not say $line once"
done
! grep -q 'none of this' "$WORK/licensed/README.md" || fail "the base model's text was taken for its head"
cmp "$cache/LICENSE" "$WORK/licensed/LICENSE" || fail "the license is missing"
cmp "$cache/generation_config.json" "$WORK/licensed/generation_config.json" || fail "generation_config.json is missing"
# Rows and metrics that are gone.
cp -r "$run" "$WORK/bare"
rm "$WORK/bare/metrics.h5"
sed -i 's#"b/rows.jsonl"#"b/gone.jsonl"#' "$WORK/bare/config.cfg"
export_run "$WORK/bare" "$WORK/bare-peft" --format peft
grep -q 'warning: b/gone.jsonl: No such file or directory; the model card' "$WORK/log" || fail "no warning of missing rows"
cmp "$run/adapter/adapter_model.safetensors" "$WORK/bare-peft/adapter_model.safetensors" || fail "another adapter"

# --- checkpoints
export_run "$run" "$WORK/at-30" --format peft --checkpoint 30
cmp "$run/adapter/adapter_model.safetensors" "$WORK/at-30/adapter_model.safetensors" || fail "step 30 is not the final adapter"
export_run "$run" "$WORK/at-20" --format peft --checkpoint 20
! cmp -s "$WORK/at-20/adapter_model.safetensors" "$WORK/at-30/adapter_model.safetensors" || fail "step 20 is step 30"
grep -q '| training, step 20 | evaluation, step 20 |' "$WORK/at-20/README.md" || fail "figures of another step"
# A run that goes on, or was cut: the newest checkpoint that is whole.
cp -r "$run" "$WORK/cut"
mkdir "$WORK/cut/half"
mv "$WORK/cut/adapter/adapter_config.json" "$WORK/cut/half" # as a run that is just writing its adapter
export_run "$WORK/cut" "$WORK/cut-30" --format peft
grep -q 'step-000030.h5, step 30: the newest checkpoint, as the run has not finished' "$WORK/log" || fail "does not say what it took"
cmp "$run/adapter/adapter_model.safetensors" "$WORK/cut-30/adapter_model.safetensors" || fail "not the newest checkpoint"
printf x | dd of="$WORK/cut/checkpoints/step-000030.h5" bs=1 seek=5000 conv=notrunc status=none
export_run "$WORK/cut" "$WORK/cut-20" --format peft
cmp "$WORK/at-20/adapter_model.safetensors" "$WORK/cut-20/adapter_model.safetensors" || fail "not the newest whole checkpoint"
# An adapter that is older than the newest checkpoint.
cp -r "$run" "$WORK/older"
cp "$WORK/at-20/adapter_model.safetensors" "$WORK/older/adapter"
export_run "$WORK/older" "$WORK/older-peft" --format peft
grep -q 'warning: .*older/adapter is not that of the newest checkpoint.*--checkpoint 30' "$WORK/log" || fail "no warning of an older adapter"

# --- bad inputs: exit code, the one message, and nothing left behind
mkdir "$WORK/there" "$WORK/blank"
touch "$WORK/there/file"
bad() { # EXIT_CODE MESSAGE KTO_EXPORT_WORDS...
    local want_code=$1 want=$2 code
    shift 2
    ls -a "$WORK" >"$WORK/before"
    "$KTO" export "$@" >"$WORK/out" 2>"$WORK/log"
    code=$?
    ls -a "$WORK" >"$WORK/after"
    # shellcheck disable=SC2053 # a pattern
    [[ $(grep '^kto: error: ' "$WORK/log") == "kto: error: "$want ]] || fail "not the message $want"
    ((code == want_code)) || fail "$want: exit code $code instead of $want_code"
    cmp -s "$WORK/before" "$WORK/after" || fail "$want: something is left behind: $(diff "$WORK/before" "$WORK/after")"
}
touch "$WORK/before" "$WORK/after"
new=$WORK/new
bad 2 'kto export needs --format peft|merged; see kto help export' "$run" --out "$new"
bad 2 'kto export needs --out DIR; see kto help export' "$run" --format peft
bad 2 '--format takes peft or merged, not "gguf"' "$run" --format gguf --out "$new"
bad 2 '--dtype takes base, float32, float16 or bfloat16, not "int8"' "$run" --format merged --dtype int8 --out "$new"
bad 2 '--dtype goes with --format merged; an adapter is written in float32' "$run" --format peft --dtype float32 --out "$new"
bad 2 '--shard-bytes goes with --format merged; an adapter is one file' "$run" --format peft --shard-bytes 7 --out "$new"
bad 2 '--shard-bytes takes a whole number from 1 to *, not "0"' "$run" --format merged --shard-bytes 0 --out "$new"
bad 2 'unknown option --forma of kto export; did you mean --format?' "$run" --forma merged --out "$new"
bad 2 '*nowhere: holds no run (no config.cfg); name the train.output_dir of one' "$WORK/nowhere" --format peft --out "$new"
bad 2 '*blank: holds no run (no config.cfg); name the train.output_dir of one' "$WORK/blank" --format peft --out "$new"
bad 2 '*there: is not empty; name a new folder, or remove it' "$run" --format peft --out "$WORK/there"
bad 2 '*there/file: is there and no folder; name another' "$run" --format peft --out "$WORK/there/file"
bad 1 '*there/file: *' "$run" --format peft --out "$WORK/there/file/new"
bad 2 '*checkpoints: holds no checkpoint of step 7; there are: 30, 20, 10' "$run" --format peft --checkpoint 7 --out "$new"
bad 3 'b: holds no config.json; model.path must be the folder of a Hugging Face model' "$run" --format merged --model b --out "$new"
mkdir "$WORK/young"
cp "$run/config.cfg" "$WORK/young"
bad 2 '*young: the run has no adapter and no checkpoint yet; train first' "$WORK/young" --format peft --out "$new"
mkdir "$WORK/young/checkpoints"
cp "$WORK/cut/checkpoints/step-000030.h5" "$WORK/young/checkpoints" # the damaged one
bad 2 '*young: the run has no adapter and no checkpoint yet that is whole; train first' "$WORK/young" --format peft --out "$new"
# Another model under the same sizes: one weight differs.
cp -r tiny-model "$WORK/other"
size=$(stat -c %s "$WORK/other/model.safetensors")
printf x | dd of="$WORK/other/model.safetensors" bs=1 seek=$((size - 1)) conv=notrunc status=none
bad 3 "*step-000030.h5: was trained on another model than the one in $WORK/other; restore that, or name its folder with --model" \
    "$run" --format merged --model "$WORK/other" --out "$new"
bad 3 '*step-000020.h5: was trained on another model than the one in *' "$run" --format peft --checkpoint 20 --model "$WORK/other" --out "$new"
# An adapter folder of another rank or of other layers; a checkpoint that does not fit the configuration; a damaged one.
cp -r "$run" "$WORK/mixed"
cp a/adapter_start/* "$WORK/mixed/adapter"
bad 3 '*mixed/adapter: has another rank, alpha or other layers than *mixed/config.cfg says' "$WORK/mixed" --format peft --out "$new"
rm -r "$WORK/mixed/adapter"
sed -i 's/ r = 4;/ r = 2;/' "$WORK/mixed/config.cfg"
bad 3 '*step-000030.h5: holds an adapter of other layers or another rank than *mixed/config.cfg says' "$WORK/mixed" --format merged --out "$new"
bad 3 '*cut/checkpoints/step-000030.h5: *' "$WORK/cut" --format peft --checkpoint 30 --out "$new"
# A file that cannot grow, as on a full disk: weights, then the small files of an adapter.
(ulimit -f 100 && bad 1 '*new.*.tmp: cannot be written: File too large' "$run" --format merged --out "$new") || exit 1
(ulimit -f 1 && bad 1 '*new.*.tmp/*: cannot be written: File too large' "$run" --format peft --out "$new") || exit 1
# An empty folder that is there is filled.
export_run "$run" "$WORK/blank" --format peft
cmp "$WORK/blank/adapter_model.safetensors" "$run/adapter/adapter_model.safetensors" || fail "the empty folder was not filled"

mkdir "$WORK/disk"
if mount -t tmpfs -o size=256k none "$WORK/disk" 2>/dev/null; then
    trap 'umount "$WORK/disk"; rm -rf "$WORK"' EXIT
    bad 1 '*No space left on device' "$run" --format merged --out "$WORK/disk/new"
    [[ -z $(ls "$WORK/disk") ]] || fail "something is left on the full disk: $(ls "$WORK/disk")"
else
    echo "skipped: a full disk, for which this test must be allowed to mount"
fi
