#!/usr/bin/env bash
# tokenizer_json.sh: a model folder with tokenizer.json alone goes from rows to an exported model, and kto chat streams
# what kto sample says, though its tokens end inside characters; a tokenizer with more tokens than the model is refused.
. "$(dirname "$0")/common.sh"
fail() {
    echo "FAILED: $*"
    cat "$WORK/log"
    exit 1
}
cp -r tiny-model "$WORK/model"
cp tokenizer-json/llama-3/tokenizer.json tokenizer-json/llama-3/tokenizer_config.json "$WORK/model"
cd "$WORK" || exit 1
rm model/tokenizer.model model/special_tokens_map.json
for title in 'a river' 'größe 日本語' '😀 emoji' 'x = y[1];'; do
    printf '{"prompt": "Tell of %s:", "completion": " Yes. 日本語 größe", "label": true}\n' "$title"
    printf '{"prompt": "Tell of %s:", "completion": " No 😀", "label": false}\n' "$title"
done >rows.jsonl
cat >run.cfg <<'END'
model: { path = "model"; dtype = "float32"; };
data:  { train = "rows.jsonl"; };
lora:  { r = 4; alpha = 8.0; };
train: { output_dir = "run"; global_batch_size = 4; max_steps = 2; learning_rate = 0.01; };
device: { backend = "cpu"; };
END
"$KTO" train run.cfg >log 2>&1 || fail train
"$KTO" data stats rows.jsonl --model model >stats 2>log || fail 'data stats'

for title in 'Tell of a river:' '日本語' '😀'; do
    printf '{"prompt": "%s"}\n' "$title" >>asks.jsonl
    printf '%s\n' "$title" >>lines
done
# The noise of a model of random weights is bytes that are mostly no characters.
"$KTO" sample run --prompts asks.jsonl --max-tokens 40 >samples.jsonl 2>log || fail sample
"$SAMPLE_TEXTS" samples.jsonl >wanted
iconv -f utf-8 -t utf-8 wanted >/dev/null || fail 'a sample is no UTF-8'
"$KTO" chat run --max-tokens 40 <lines >answers 2>log || fail chat
iconv -f utf-8 -t utf-8 answers >/dev/null || fail 'an answer is no UTF-8'
[[ $(tr -d '\n' <answers | wc -m) -gt 20 ]] || fail 'chat says nothing'

"$KTO" export run --format merged --out merged >log 2>&1 || fail export
cmp model/tokenizer.json merged/tokenizer.json || fail 'export leaves out tokenizer.json'

sed -i 's/"vocab_size": 512/"vocab_size": 300/' model/config.json
"$KTO" check run.cfg >log 2>&1
[[ $? -eq 3 ]] || fail 'a tokenizer larger than the embedding is taken'
grep -q 'model: the tokenizer has 479 tokens but the embedding only 300' log || fail 'other message'
