#!/usr/bin/env bash
# tokens.sh: kto data tokens gives transformers' ids of texts, and of rows what their texts and templates say, prompt and
# completion apart; a block a row on a terminal; bad rows as training says them.
. "$(dirname "$0")/common.sh"
demo=$GOLDEN/../../configs/demo
json=$GOLDEN/tokenizer-json
cd "$WORK" || exit 1
failures=0
fail() {
    echo "FAILED $1"
    failures=$((failures + 1))
}
tokens() { "$KTO" data tokens "$@" 2>log; }
# same NAME FILE: FILE holds what stands on standard input.
same() { diff - "$2" || { fail "$1"; cat log; }; }
# refuses NAME EXIT_CODE MESSAGE WORDS...: kto data tokens WORDS ends so; out gets what it said before.
refuses() {
    local name=$1 code=$2 message=$3
    shift 3
    tokens "$@" >out
    local got=$?
    [ "$got" -eq "$code" ] || fail "$name: exit code $got, expected $code"
    printf 'kto: error: %s\n' "$message" | same "$name" log
}

# --- texts: the cases of a golden file are a JSON object a line, whose ids begin with what plain text begins with
for name in llama-3 gemma llama-2 deepseek added; do
    sed -n 's/^\(\[\|\]\)$//; s/,$//; /^{"text": /p' "$json/$name/cases.json" | grep -v '\\u0000' >texts.jsonl
    begin=$(sed -n 's/^{"text": "", "ids": \[\([0-9, ]*\)\].*/\1/p' texts.jsonl)
    sed 's/.*"ids": \[\([0-9, ]*\)\], "decoded".*/\1/' texts.jsonl | sed "s/^${begin:-none}\(, \)\?//; s/ //g; s/.*/{\"ids\":[&]}/" >want
    [ "$(wc -l <want)" -gt 20 ] || fail "$name: too few texts"
    tokens "$json/$name" <texts.jsonl >got || fail "texts of $name"
    same "texts of $name" got <want
    tokens "$json/$name" texts.jsonl --template none | same "texts of $name without a template" got
done

# --- rows
cat >rows.jsonl <<'END'
{"prompt": "The river", "completion": " is quiet.", "label": false}

{"prompt": "The river", "chosen": " is quiet.", "rejected": "s run."}
END
the='"prompt":{"ids":[1,1234,1273,1200,372,1240,335],"pieces":["<s>","▁","T","he","▁r","i","ver"],"cut":[]}'
quiet='"completion":{"ids":[356,994,1240,305,1259,2],"pieces":["▁is","▁qu","i","et",".","</s>"],"cut":[]},"scored":6'
tokens "$demo/model" rows.jsonl >got || fail rows
same rows got <<END
{"line":1,"answer":"completion","label":false,"dropped":false,$the,$quiet}
{"line":3,"answer":"chosen","label":true,"dropped":false,$the,$quiet}
{"line":3,"answer":"rejected","label":false,"dropped":false,$the,"completion":{"ids":[1239,372,1245,1238,1259,2],"pieces":["s","▁r","u","n",".","</s>"],"cut":[]},"scored":6}
END
tokens "$demo/model" - <rows.jsonl | same 'rows of standard input' got

# Lengths, of the command line and of a configuration.
head -n 1 rows.jsonl >row.jsonl
tokens "$demo/model" row.jsonl --max-length 6 --max-prompt-length 4 >got || fail lengths
same lengths got <<'END'
{"line":1,"answer":"completion","label":false,"dropped":false,"prompt":{"ids":[1200,372,1240,335],"pieces":["he","▁r","i","ver"],"cut":[1,1234,1273]},"completion":{"ids":[356,994],"pieces":["▁is","▁qu"],"cut":[1240,305,1259,2]},"scored":2}
END
cat >run.cfg <<END
model: { path = "$demo/model"; };
data: { train = "rows.jsonl"; max_length = 6; max_prompt_length = 4; };
train: { output_dir = "run"; };
END
tokens run.cfg row.jsonl | same 'lengths of a configuration' got
tokens "$demo/model" row.jsonl --max-length 7 >got || fail 'a dropped row'
same 'a dropped row' got <<END
{"line":1,"answer":"completion","label":false,"dropped":true,$the,"completion":{"ids":[],"pieces":[],"cut":[356,994,1240,305,1259,2]},"scored":0}
END

# The two answers of a pair part from the prompt at different places, and together at the first of them.
echo '{"prompt": "The riv", "chosen": " a", "rejected": "er is"}' >pair.jsonl
seams() { sed 's/.*"prompt":{"ids":\(\[[0-9,]*\]\).*"completion":{"ids":\(\[[0-9,]*\]\).*/\1 \2/'; }
tokens "$demo/model" pair.jsonl | seams >got
same 'a pair as rows' got <<'END'
[1,1234,1273,1200,372,1216] [262,2]
[1,1234,1273,1200,372] [1240,335,356,2]
END
tokens "$demo/model" pair.jsonl --pairs | seams >got
same 'a pair' got <<'END'
[1,1234,1273,1200,372] [1216,262,2]
[1,1234,1273,1200,372] [1240,335,356,2]
END

# Through a template, and what is said of rows that need one and have none.
echo '{"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "Yes."}], "label": 1}' >chat.jsonl
tokens "$demo/model" chat.jsonl --template zephyr >got || fail 'a template'
{
    printf '{"text": "<|user|>\\nhi</s>\\n<|assistant|>\\n"}\n{"text": "<|user|>\\nhi</s>\\n<|assistant|>\\nYes.</s>\\n"}\n' |
        tokens "$demo/model"
} | tr -d '{}"ids:[]' >texts
sed 's/.*"prompt":{"ids":\[\([0-9,]*\)\].*"completion":{"ids":\[\([0-9,]*\)\].*/\1\n\1,\2/' got | same 'a template' texts
refuses 'messages without a template' 3 'chat.jsonl:1: the row has messages, but the model folder has no chat template; set data.chat_template to zephyr, chatml or llama-2 or to a file with one, or give rows as plain text' \
    "$demo/model" chat.jsonl --template none

# --- what is refused, and where
cat row.jsonl - >bad.jsonl <<'END'

{"prompt": "a", "completion": "", "label": true}
END
refuses 'a bad row' 3 'bad.jsonl:3: "completion" is empty; remove the row or give an answer' "$demo/model" bad.jsonl
[ "$(wc -l <out)" -eq 1 ] || fail 'a bad row: the row before it is missing'
echo '{"text": 3}' | refuses 'a text that is none' 3 'standard input:1: "text" must be text; got 3' "$demo/model"
refuses 'no row' 3 'standard input: holds no row; a row is {"prompt", "completion", "label"} or {"prompt", "chosen", "rejected"}, one a line' "$demo/model" </dev/null
refuses 'single answers as pairs' 3 'row.jsonl:1: is a single answer with a "label", and kto.loss_type = "dpo" learns from pairs; give {"prompt", "chosen", "rejected"}, or set kto.loss_type = "kto"' \
    "$demo/model" row.jsonl --pairs
refuses 'no model' 3 "$WORK: has neither tokenizer.json nor tokenizer.model; AutoTokenizer of transformers writes a tokenizer.json by save_pretrained" "$WORK" row.jsonl
refuses 'lengths that leave nothing' 2 'data.max_prompt_length=9: data.max_prompt_length = 9 is not below data.max_length = 8, so a prompt could fill the whole length and every answer would be cut to nothing; raise max_length or lower max_prompt_length' \
    "$demo/model" row.jsonl --max-length 8 --max-prompt-length 9

# --- a terminal
if ! script -qec true /dev/null </dev/null >/dev/null 2>&1; then
    echo 'skipped: a terminal (no script of util-linux here)'
else
    echo '{"text": "a\tb\\ \u0001\u0085日</s>\nz"}' | cat - row.jsonl >shown.jsonl
    script -qec "'$KTO' data tokens '$demo/model' shown.jsonl --max-length 9 --max-prompt-length 5" /dev/null </dev/null | tr -d '\r' >got
    same 'a terminal' got <<'END'
shown.jsonl:1:
  text: 15 tokens
     a│\t│b│\\│ │\x01│\xC2│\x85│\xE6│\x97│\xA5│«</s>»│ │\n
    z
shown.jsonl:2: completion, undesirable
  cut by max_prompt_length 5: 2 tokens
    «<s>»│ 
  prompt, not scored: 5 tokens
    T│he│ r│i│ver
  completion, scored: 4 tokens
     is│ qu│i│et
  cut by max_length 9: 2 tokens
    .│«</s>»
END
    script -qec "'$KTO' data tokens '$demo/model' row.jsonl --json" /dev/null </dev/null | tr -d '\r' >got
    tokens "$demo/model" row.jsonl | same 'JSON on a terminal' got
fi

echo "$failures failures"
[ "$failures" -eq 0 ]
