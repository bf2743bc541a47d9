#!/usr/bin/env bash
# bad_input.sh RANKS: a table of broken inputs. Each must end the job within 10 seconds with the exit code and the one
# message given here, whatever the number of ranks.
. "$(dirname "$0")/common.sh"
ranks=$1
launcher=(mpirun -n "$ranks")
((ranks > 1)) || launcher=()
failures=0
cases=0

# The good run that every case breaks in its own copy: model/, adapter/, rows.jsonl, run.cfg.
good=$WORK/good
mkdir "$good"
cp -r tiny-model "$good/model"
cp -r a/adapter_start "$good/adapter"
cp a/rows.jsonl "$good/rows.jsonl"
cat >"$good/run.cfg" <<'END'
model: {
    path = "model";
    dtype = "float32";
};
data: {
    train = "rows.jsonl";
};
lora: {
    r = 4;
    alpha = 8.0;
};
train: {
    output_dir = "run";
    global_batch_size = 8;
    max_steps = 1;
};
device: {
    backend = "cpu";
};
END

patience=10000 # milliseconds until a case has ended; a run under a sanitizer is several times slower
[[ -z ${ASAN_OPTIONS:-} ]] || patience=60000

now() {
    local t=${EPOCHREALTIME/[.,]/}
    echo $((t / 1000))
}

# run_case BREAK [key=value ...]: a fresh copy, broken by the commands BREAK; sets code, milliseconds; stderr in log.
run_case() {
    local break_it=$1
    shift
    rm -rf "$WORK/case"
    cp -r "$good" "$WORK/case"
    cd "$WORK/case" || exit 1
    (LC_ALL=C eval "$break_it") || { echo "cannot break: $break_it"; exit 1; }
    local start
    start=$(now)
    timeout -k 5 $((patience / 333)) "${launcher[@]}" "$KTO" train run.cfg "$@" >"$WORK/out" 2>"$WORK/log"
    code=$?
    milliseconds=$(($(now) - start))
}

report() { # NAME WHAT
    echo "FAILED $1: $2"
    sed 's/^/    /' "$WORK/log" | head -n 20
    failures=$((failures + 1))
}

# bad NAME EXIT_CODE MESSAGE BREAK [key=value ...]
bad() {
    local name=$1 want_code=$2 want=$3
    shift 3
    run_case "$@"
    cases=$((cases + 1))
    local got
    got=$(grep -a '^kto: error: ' "$WORK/log")
    if [ "$got" != "kto: error: $want" ]; then
        report "$name" "the message is not: kto: error: $want"
    elif [ "$code" -ne "$want_code" ]; then
        report "$name" "exit code $code, expected $want_code"
    elif [ "$milliseconds" -gt "$patience" ]; then
        report "$name" "took $milliseconds ms"
    fi
}

# warns NAME MESSAGE BREAK [key=value ...]: trains all the same, with this warning once.
warns() {
    local name=$1 want=$2
    shift 2
    run_case "$@"
    cases=$((cases + 1))
    if [ "$code" -ne 0 ]; then
        report "$name" "exit code $code, expected 0"
    elif [ "$(grep -acxF "kto: warning: $want" "$WORK/log")" -ne 1 ]; then
        report "$name" "not once: kto: warning: $want"
    fi
}

weights=model/model.safetensors
line() { # NUMBER TEXT: replaces a line of rows.jsonl
    { head -n $(($1 - 1)) rows.jsonl; printf '%s\n' "$2"; tail -n +$(($1 + 1)) rows.jsonl; } >new && mv new rows.jsonl
}
forms='a row is {"prompt", "completion", "label"} or {"prompt", "chosen", "rejected"}'

# --- nothing broken: the fixture itself must train, or every case below could fail for another reason
run_case true
[ "$code" -eq 0 ] || report "good fixture" "exit code $code"

# --- configuration
bad 'no configuration' 2 'run.cfg: No such file or directory' 'rm run.cfg'
bad 'unknown key' 2 'run.cfg:13: unknown key train.learning_rat; did you mean train.learning_rate?' \
    "sed -i 's/^train: {/train: {\n    learning_rat = 1e-4;/' run.cfg"
bad 'unknown key on the command line' 2 'lora.rank=8: unknown key lora.rank; did you mean lora.r?' true lora.rank=8
bad 'mistyped value' 2 'run.cfg:9: lora.r = "four" is a string; it must be an integer' "sed -i 's/r = 4;/r = \"four\";/' run.cfg"
bad 'out of range' 2 'kto.beta=0: kto.beta = 0 is out of range; it must be > 0' true kto.beta=0
bad 'syntax' 2 'run.cfg:9: syntax error; write key = value; in group: { ... }' "sed -i 's/r = 4;/r = ;/' run.cfg"
bad 'max_prompt_length' 2 'data.max_prompt_length=256: data.max_prompt_length = 256 is not below data.max_length = 128, so a prompt could fill the whole length and every answer would be cut to nothing; raise max_length or lower max_prompt_length' \
    true data.max_length=128 data.max_prompt_length=256
bad 'both weights auto' 2 'kto.undesirable_weight=auto: kto.desirable_weight and kto.undesirable_weight are both "auto", and each would wait for the other; give one of them a number, e.g. 1.0' \
    true kto.desirable_weight=auto kto.undesirable_weight=auto

# --- model folder
bad 'no model folder' 3 'nowhere: no such folder; model.path must be the folder of a Hugging Face model' true model.path=nowhere
bad 'folder without config.json' 3 'model: holds no config.json; model.path must be the folder of a Hugging Face model' 'rm model/config.json'
bad 'broken config.json' 3 "model/config.json:1: broken JSON: '[' or '{' expected near end of file" ': >model/config.json'
bad 'other model type' 3 'model/config.json: model_type "gpt2" is not supported: it needs layer norms and learned positions; supported are "llama", "mistral", "qwen2", "qwen3", "granite", "smollm3" and "olmo2"' \
    "sed -i 's/\"llama\"/\"gpt2\"/' model/config.json"
bad 'no weights' 3 'model: holds neither model.safetensors nor model.safetensors.index.json; fetch the model'"'"'s safetensors weights (pytorch_model.bin is not read)' \
    'rm model/model.safetensors'
bad 'tensor missing' 3 'model/model.safetensors: tensor model.norm.weight is missing; the file does not fit config.json' \
    "sed -i 's/model.norm.weight/model.norm.waight/' $weights"
bad 'tensor of wrong shape' 3 'model/model.safetensors: tensor model.layers.0.self_attn.k_proj.weight has shape [64, 32], but config.json asks for [32, 64]' \
    "sed -i -E 's/(layers.0.self_attn.k_proj.weight\":[^}]*\"shape\":\[)32,64/\164,32/' $weights"
bad 'tensor of wrong dtype' 3 'model/model.safetensors: tensor model.norm.weight is not of type F32, F16 or BF16, the supported ones' \
    "sed -i -E 's/(model.norm.weight\":\{\"dtype\":)\"BF16\"/\1 \"I16\"/' $weights"
bad 'truncated weights' 3 'model/model.safetensors: header says 204064 bytes but the file has 200000; the download is incomplete, fetch it again' \
    "truncate -s 200000 $weights"
bad 'header length that lies' 3 'model/model.safetensors: header length 9223372036854775807 is over the limit of 100000000; this is no safetensors file' \
    "printf '\xff\xff\xff\xff\xff\xff\xff\x7f' | dd of=$weights conv=notrunc status=none"
bad 'no tokenizer' 3 'model: has neither tokenizer.json nor tokenizer.model; AutoTokenizer of transformers writes a tokenizer.json by save_pretrained' 'rm model/tokenizer.model'
bad 'tokenizer that is none' 3 'model/tokenizer.model: is not a SentencePiece model' 'echo text >model/tokenizer.model'
bad 'tokenizer larger than the embedding' 3 'model: the tokenizer has 512 tokens but the embedding only 300; tokenizer and model do not belong together' \
    "sed -i 's/\"vocab_size\": 512/\"vocab_size\": 300/' model/config.json"

# --- chat templates
chat_line='{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}], "label": true}'
bad 'no such chat template' 2 'data.chat_template is "alpaca"; it must be auto, zephyr, chatml or llama-2, or a file with a template' true data.chat_template=alpaca
bad 'chat template that is not supported' 3 "model/chat_template.jinja:2: the tag 'include' is not supported here" \
    "printf 'a\n{%% include \"b\" %%}' >model/chat_template.jinja"
bad 'chat template that raises' 3 'rows.jsonl:2: own.jinja:1: the chat template refuses the conversation: not you, user' \
    "line 2 '$chat_line'; echo '{{ raise_exception(\"not you, \" + messages[0].role) }}' >own.jinja" data.chat_template=own.jinja
bad 'chat template that never ends' 3 'rows.jsonl:2: own.jinja:1: takes more than 100000000 steps; it may never end' \
    "line 2 '$chat_line'; echo '{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}' >own.jinja" data.chat_template=own.jinja
bad 'chat template that misses a variable' 3 "rows.jsonl:2: own.jinja:1: 'date_string' is undefined" \
    "line 2 '$chat_line'; echo '{{ \"Today: \" + date_string }}' >own.jinja" data.chat_template=own.jinja
bad 'no day' 2 'data.today is 20260230, which is no day; write one as 20261231' true data.today=20260230
bad 'reserved variable' 3 'rows.jsonl:2: "chat_template_kwargs" may not set "tokenize"; remove it' \
    "line 2 '${chat_line%\}}, \"chat_template_kwargs\": {\"tokenize\": 1}}'"
bad 'tools that are none' 3 'rows.jsonl:2: "tools" must be a list, or a text that holds one as JSON; got "x"' \
    "line 2 '${chat_line%\}}, \"tools\": \"x\"}'"

# --- rows
bad 'no rows file' 3 'rows.jsonl: No such file or directory' 'rm rows.jsonl'
bad 'empty rows file' 3 "rows.jsonl: holds no row; $forms, one a line" ': >rows.jsonl'
bad 'broken JSON line' 3 'rows.jsonl:3: broken JSON in column 11: unexpected token near end of file; write one object a line' "line 3 '{\"prompt\": '"
bad 'label that is none' 3 'rows.jsonl:5: "label" must be true, false, 0 or 1; got "yes"' \
    "line 5 '{\"prompt\": \"a\", \"completion\": \"b\", \"label\": \"yes\"}'"
bad 'missing label' 3 "rows.jsonl:64: missing \"label\"; $forms" "line 64 '{\"prompt\": \"a\", \"completion\": \"b\"}'"
bad 'empty completion' 3 'rows.jsonl:1: "completion" is empty; remove the row or give an answer' \
    "line 1 '{\"prompt\": \"a\", \"completion\": \"\", \"label\": true}'"
bad 'invalid UTF-8' 3 'rows.jsonl:2: invalid UTF-8 in column 13; save the file as UTF-8' \
    "line 2 \$'{\"prompt\": \"a\xff\", \"completion\": \"b\", \"label\": true}'"
bad 'all rows too long' 3 'rows.jsonl: all 64 rows have prompts of data.max_length (4) tokens or more; raise it' true data.max_length=4
warns 'one label' 'rows.jsonl: every row is desirable; KTO learns from the difference between both labels' \
    "sed -i 's/\"label\": false/\"label\": true/' rows.jsonl"

# --- pairs
pair='{"prompt": "a", "chosen": "b", "rejected": "c"}'
single='is a single answer with a "label", and kto.loss_type = "dpo" learns from pairs; give {"prompt", "chosen", "rejected"}, or set kto.loss_type = "kto"'
bad 'dpo on single answers' 3 "rows.jsonl:1: $single" true kto.loss_type=dpo
bad 'dpo on one single answer' 3 "rows.jsonl:2: $single" "echo '$pair' >new; sed -n 2p rows.jsonl >>new; mv new rows.jsonl" kto.loss_type=dpo
bad 'dpo evaluated on single answers' 3 "eval.jsonl:1: $single" "mv rows.jsonl eval.jsonl; echo '$pair' >rows.jsonl" kto.loss_type=dpo data.eval=eval.jsonl
bad 'dpo with weights of labels' 2 'kto.desirable_weight=2: kto.desirable_weight = 2 weighs rows of one label, and with kto.loss_type = "dpo" a row is a pair of both; remove it, and give single pairs a "weight" in their rows if that is meant' \
    true kto.loss_type=dpo kto.desirable_weight=2

# --- adapter to start from
bad 'adapter of another rank' 2 'lora.init: adapter has r = 4 but lora.r = 8; make them equal' true lora.init=adapter lora.r=8
bad 'adapter of another alpha' 2 'lora.init: adapter has lora_alpha = 8 but lora.alpha = 16; make them equal' true lora.init=adapter lora.alpha=16
bad 'adapter of other targets' 2 'lora.init: adapter does not adapt k_proj but lora.target_modules does; make them equal' \
    true lora.init=adapter 'lora.target_modules=["q_proj","k_proj","v_proj"]'
bad 'no adapter' 3 'nowhere: holds no adapter_config.json; name the folder of a PEFT adapter' true lora.init=nowhere

# --- run directory
run_case true
cp -r run "$good/run"
bad 'run directory of another run' 2 'run/config.cfg: run holds another run: kto.beta was 0.1 and is now 0.5; that run is finished: to go on from its result, set lora.init = "run/adapter" and another train.output_dir' true kto.beta=0.5
rm -rf "$good/run"
if unshare -rm true 2>/dev/null; then
    KTO_REAL=$KTO
    rm -rf "$WORK/case"
    cp -r "$good" "$WORK/case"
    cd "$WORK/case" || exit 1
    mkdir run
    start=$(now)
    # shellcheck disable=SC2016 # the inner shell expands
    timeout -k 5 $((patience / 333)) unshare -rm bash -c 'mount -t tmpfs -o size=128k tmpfs run && exec mpirun -n "$1" "$2" train run.cfg train.max_steps=500' \
        _ "$ranks" "$KTO_REAL" >"$WORK/out" 2>"$WORK/log"
    code=$?
    milliseconds=$(($(now) - start))
    cases=$((cases + 1))
    if [ "$code" -ne 1 ] || [ "$milliseconds" -gt "$patience" ] ||
        [ "$(grep -ac '^kto: error: run/.*No space left on device' "$WORK/log")" -ne 1 ]; then
        report 'disk full' "exit code $code after $milliseconds ms"
    fi
else
    echo 'skipped: disk full (no user namespaces here to mount a small file system)'
fi

echo "$cases cases, $failures failures"
[ "$failures" -eq 0 ]
