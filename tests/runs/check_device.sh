#!/usr/bin/env bash
# check_device.sh: `kto check --device` says what a run would be on a device that is not here, and refuses one that it does
# not know by naming those that it knows.
. "$(dirname "$0")/common.sh"
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
for device in l4 a10 4090 l40s a100-40 a100 h100 h200; do
    "$KTO" check --device $device a/run.cfg train.output_dir="$WORK/run" >"$WORK/log" 2>&1 || fail "kto check --device $device failed"
    for words in 'scratch .* MiB' 'train.micro_batch_tokens' 'fits: ' ' [0-9.]* m*s a step by the roofline' ' steps take [0-9.]* m*s$' \
        'AdamW ' 'launches ' 'are left for a micro-batch' 'shares of the rates: '; do
        grep -q "$words" "$WORK/log" || fail "kto check --device $device does not say \"$words\""
    done
done
[[ ! -e $WORK/run ]] || fail "kto check wrote a run"
refused() { # MESSAGE WORD ...
    "$KTO" check a/run.cfg "${@:2}" >"$WORK/log" 2>&1
    local status=$?
    ((status == 2)) || fail "${*:2}: exit code $status, expected 2"
    grep -q -- "$1" "$WORK/log" || fail "${*:2}: does not say \"$1\""
}
refused 'there are l4, .* and h200' --device l5
refused 'there are l4, .* and h200' --device=
refused '--device needs a value' --device

# Models that are not here: config.json and tokenizer are all that the check reads.
model() { # NAME HIDDEN INTERMEDIATE LAYERS HEADS KV_HEADS VOCAB
    mkdir -p "$WORK/$1"
    cp tiny-model/tokenizer* "$WORK/$1/"
    sed -e "s/\"hidden_size\": [0-9]*/\"hidden_size\": $2/; s/\"intermediate_size\": [0-9]*/\"intermediate_size\": $3/" \
        -e "s/\"num_hidden_layers\": [0-9]*/\"num_hidden_layers\": $4/; s/\"num_attention_heads\": [0-9]*/\"num_attention_heads\": $5/" \
        -e "s/\"num_key_value_heads\": [0-9]*/\"num_key_value_heads\": $6/; s/\"vocab_size\": [0-9]*/\"vocab_size\": $7/" \
        tiny-model/config.json >"$WORK/$1/config.json"
}
on_l4() { # CONFIG key=value ...
    "$KTO" check "$@" --device l4 data.train=a/rows.jsonl >"$WORK/log" 2>&1 || fail "kto check $* --device l4 failed"
}
says() { grep -q -- "$1" "$WORK/log" || fail "kto check --device l4 does not say \"$1\""; }
model tinyllama 2048 5632 22 32 4 32000
on_l4 ../../configs/tinyllama-l4.cfg model.path="$WORK/tinyllama"
says 'weights 2098 MiB' # 1,100 million parameters of 2 bytes
says 'fits: '
model 8b 4096 14336 32 32 8 128256
lora='lora.r=16 lora.target_modules=q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj'
# shellcheck disable=SC2086 # words
on_l4 a/run.cfg model.path="$WORK/8b" model.dtype=bfloat16 lora.init= $lora
says 'weights 15317 MiB, adapters 720' # 8,030 million of 2 bytes; 42 million of 18
read -r room plain recompute < <(sed -nE 's/^ +([0-9]+) MiB are left .* ([0-9]+) tokens, ([0-9]+) with .*/\1 \2 \3/p' "$WORK/log")
((room == 22528 * 8 / 10 - 15317 - 720 || room == 22528 * 8 / 10 - 15317 - 720 + 1)) || fail "$room MiB are left"
((plain > 0 && recompute > 3 * plain)) || fail "recomputing allows $recompute tokens, $plain without"
# shellcheck disable=SC2086
on_l4 a/run.cfg model.path="$WORK/8b" model.dtype=bfloat16 lora.init= train.recompute=layer $lora
says "left for a micro-batch: at most $recompute tokens"
says 'fits: '
# shellcheck disable=SC2086
on_l4 a/run.cfg model.path="$WORK/8b" model.dtype=float32 lora.init= $lora
says 'warning: this model does not fit NVIDIA L4, 24 GB: weights and adapters are 31'
