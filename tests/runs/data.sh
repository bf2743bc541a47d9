#!/usr/bin/env bash
# data.sh: kto data unpair, split and stats on small files whose right answer is known, and what they refuse.
. "$(dirname "$0")/common.sh"
demo=$GOLDEN/../../configs/demo
cd "$WORK" || exit 1
failures=0
fail() {
    echo "FAILED $1"
    failures=$((failures + 1))
}
kto() { "$KTO" "$@" 2>log; }

# same NAME FILE: FILE holds what stands on standard input.
same() { cmp -s "$2" - || { fail "$1"; cat "$2" log; }; }
# refuses NAME EXIT_CODE MESSAGE WORDS...: kto WORDS ends so, and leaves nothing behind.
refuses() {
    local name=$1 code=$2 message=$3 before
    shift 3
    before=$(ls)
    kto "$@" >out
    local got=$?
    [ "$got" -eq "$code" ] || fail "$name: exit code $got, expected $code"
    [ "$(cat log)" = "kto: error: $message" ] || { fail "$name: not the message: $message"; cat log; }
    [ "$(ls)" = "$before" ] || fail "$name: leaves files"
}
touch out log

# --- unpair
cat >pairs.jsonl <<'END'
{"prompt": "p1", "chosen": "c1", "rejected": "r1", "weight": 0.1, "source": {"id": 7}}

{"prompt": "p2", "completion": "x", "label": 0,"note":"as it is"}
{"prompt": [{"role": "user", "content": "é"}], "chosen": [{"role": "assistant", "content": "c3"}], "rejected": [{"role": "assistant", "content": "r3"}]}
END
kto data unpair pairs.jsonl --out lists.jsonl || fail 'unpair'
same 'unpair' lists.jsonl <<'END'
{"prompt": "p1", "completion": "c1", "label": true, "weight": 0.1, "source": {"id": 7}}
{"prompt": "p2", "completion": "x", "label": 0,"note":"as it is"}
{"prompt": [{"role": "user", "content": "é"}], "completion": [{"role": "assistant", "content": "c3"}], "label": true}
{"prompt": "p1", "completion": "r1", "label": false, "weight": 0.1, "source": {"id": 7}}
{"prompt": [{"role": "user", "content": "é"}], "completion": [{"role": "assistant", "content": "r3"}], "label": false}
END
kto data unpair pairs.jsonl --out turns.jsonl --interleave || fail 'unpair --interleave'
same 'unpair --interleave' turns.jsonl <<'END'
{"prompt": "p1", "completion": "c1", "label": true, "weight": 0.1, "source": {"id": 7}}
{"prompt": "p1", "completion": "r1", "label": false, "weight": 0.1, "source": {"id": 7}}
{"prompt": "p2", "completion": "x", "label": 0,"note":"as it is"}
{"prompt": [{"role": "user", "content": "é"}], "completion": [{"role": "assistant", "content": "c3"}], "label": true}
{"prompt": [{"role": "user", "content": "é"}], "completion": [{"role": "assistant", "content": "r3"}], "label": false}
END
refuses 'unpair onto a file' 2 'turns.jsonl: is there already; name another, or replace it by --force' \
    data unpair pairs.jsonl --out turns.jsonl
kto data unpair turns.jsonl --out turns.jsonl --force || fail 'unpair --force onto its own input'
[ "$(wc -l <turns.jsonl)" -eq 5 ] || fail 'unpair --force onto its own input: lines'
kto data unpair pairs.jsonl --out none/x
[ $? -eq 1 ] && grep -q '^kto: error: none/x\..*: No such file or directory$' log || fail 'unpair into a folder that is not there'
refuses 'unpair onto a device' 2 '/dev/null: is there and is not a file; name another' data unpair pairs.jsonl --out /dev/null --force
printf '{"prompt": "p", "chosen": "c", "rejected": "r"}\n{"prompt": "p", "chosen": "c"}\n' >bad.jsonl
refuses 'unpair half a pair' 3 'bad.jsonl:2: missing "rejected"; a row is {"prompt", "completion", "label"} or {"prompt", "chosen", "rejected"}' \
    data unpair bad.jsonl --out new.jsonl

# The trainer takes pairs and what unpair makes of them for the same rows.
cat >run.cfg <<END
model: { path = "$demo/model"; };
data: { train = "pairs.jsonl"; chat_template = "auto"; };
train: { output_dir = "run"; };
END
kto check run.cfg && grep '^train ' log | sed 's/ [^ ]*\.jsonl//' >a
kto check run.cfg data.train=lists.jsonl && grep '^train ' log | sed 's/ [^ ]*\.jsonl//' >b
[ -s a ] && cmp -s a b || { fail 'unpaired rows are others to the trainer'; cat a b log; }

# A chat template that tells the day: a run keeps the one on which it began.
cat >day.cfg <<END
model: { path = "$demo/model"; };
data: { train = "chat.jsonl"; chat_template = "day.jinja"; };
train: { output_dir = "day"; max_steps = 1; global_batch_size = 2; };
END
echo '{{ strftime_now("%d %b %Y") }}{{ " a" * (strftime_now("%Y") | int - 1990) }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}' >day.jinja
for word in good bad; do
    printf '{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "%s"}], "label": %d}\n' $word "$([ $word = bad ]; echo $?)"
done >chat.jsonl
kto train day.cfg || fail 'a template that tells the day'
grep -q "today = $(date +%Y%m%d)L*;" day/config.cfg || fail 'the day is not in config.cfg'
kto train day.cfg train.output_dir=other data.today=19910102 || fail 'data.today'
kto train day.cfg train.output_dir=other || fail 'a run that goes on another day'
grep -q 'today = 19910102L*;' other/config.cfg || fail 'the day changed'
kto train day.cfg train.output_dir=other data.today=19910103 && fail 'another day was not refused'
kto reference day.cfg train.output_dir=other || fail 'kto reference of a run of another day'
[[ $(find other -name 'reference-*.h5' | wc -l) -eq 1 ]] || fail 'kto reference took another day than the run'
for run in day other; do kto data stats chat.jsonl --model $run --json >$run.json || fail 'kto data stats of a run'; done
cmp -s day.json other.json && fail 'kto data stats takes no notice of the day of a run'

# --- split
for ((i = 0; i < 100; i++)); do
    printf '{"prompt": "p%d", "completion": "a%d", "label": %d}\n' $((i / 2)) $i $((i % 2))
done >rows.jsonl
printf '{"label":true,"prompt":"\\u0070%d"  ,"completion":"other spelling"}\n' {0..9} >>rows.jsonl
printf '{"prompt": "last", "completion": "no newline", "label": true}' >>rows.jsonl
kto data split rows.jsonl --train t --eval e --share 0.2 --seed 3 || fail 'split'
[ "$(wc -l <e)" -eq 22 ] || fail "split: $(wc -l <e) lines instead of 22"
sort t e >both
(cat rows.jsonl && echo) | sort | cmp -s - both || fail 'split: lines are lost or changed'
prompts() { sed 's/\\u0070/p/; s/.*"prompt": *"\([^"]*\)".*/\1/' "$1" | sort -u; }
[ -z "$(comm -12 <(prompts t) <(prompts e))" ] || fail 'split: a prompt is in both'
grep -nFxf e rows.jsonl | cut -d: -f2- | cmp -s - e || fail 'split: the order has changed'
kto data split rows.jsonl --train t2 --eval e2 --share 0.2 --seed 3 && cmp -s t t2 && cmp -s e e2 || fail 'split: the same seed, another split'
kto data split rows.jsonl --train t2 --eval e2 --count 22 --seed 4 --force || fail 'split --count --force'
[ "$(wc -l <e2)" -eq 22 ] || fail 'split --count: not its lines'
cmp -s e e2 && fail 'split: another seed, the same split'
kto data split pairs.jsonl --train t3 --eval e3 --count 1 && [ "$(cat t3 e3 | wc -l)" -eq 3 ] || fail 'split of pairs'
refuses 'split onto a file' 2 'e: is there already; name another, or replace it by --force' data split rows.jsonl --train new --eval e
refuses 'split of everything' 2 'rows.jsonl: 111 of its 111 lines for --eval leave nothing to train on (lines of one prompt stay together); ask for fewer' \
    data split rows.jsonl --train new --eval new2 --share 1
refuses 'split both ways' 2 '--share and --count both say how much goes to --eval; give one of them' \
    data split rows.jsonl --train new --eval new2 --share 0.1 --count 3
refuses 'split into one file' 2 'new: is both --train and --eval; name two files' data split rows.jsonl --train new --eval new
refuses 'split of a bad row' 3 'bad.jsonl:2: missing "rejected"; a row is {"prompt", "completion", "label"} or {"prompt", "chosen", "rejected"}' \
    data split bad.jsonl --train new --eval new2

# --- stats
cat >judged.jsonl <<'END'
{"prompt": "ab", "completion": "cdé", "label": true}
{"prompt": "ab", "completion": "cd\u00e9", "label": false}
{"completion": "cdé", "prompt": "ab", "label": true, "weight": 2}
{"prompt": "xyz", "chosen": "same", "rejected": "same"}
{"prompt": "xyz", "chosen": "same"}
not JSON
{"prompt": "ab", "completion": "", "label": true}
END
printf '{"prompt": "xyz", "completion": "new", "label": true}\n{"prompt": "ab", "completion": "cdé", "label": true}\n' >other.jsonl
has() { grep -qF -- "$2" "$3" || { fail "$1: no $2"; cat "$3" log; }; }
kto data stats judged.jsonl other.jsonl --json >json || fail 'stats --json'
for part in '"unit": "characters"' '"lines": 7, "pairs": 1, "rows": 5, "desirable": 3, "undesirable": 2, "weighted": 1, "prompts": 2, "repeats": 3' \
    '"contradictions": [{"desirable_line": 1, "undesirable_line": 2}, {"desirable_line": 4, "undesirable_line": 4}]' \
    '"bad": [{"line": 5, "message": "judged.jsonl:5: missing' '"line": 6, "message": "judged.jsonl:6: broken JSON' '"line": 7, "message": "judged.jsonl:7: \"completion\" is empty' \
    '"prompt_length": {"min": 2, "p10": 2, "p50": 2, "p90": 3, "p99": 3, "max": 3, "mean": 2.4}' \
    '"completion_length": {"min": 3, "p10": 3, "p50": 3, "p90": 4, "p99": 4, "max": 4, "mean": 3.4}' \
    '"shared": [{"files": ["judged.jsonl", "other.jsonl"], "prompts": 2, "rows": 1}]'; do
    has 'stats --json' "$part" json
done
kto data stats judged.jsonl other.jsonl >text || fail 'stats'
for part in '7, 1 of them pairs, 3 bad' 'judged.jsonl:6: broken JSON' '5: 3 desirable, 2 undesirable' '2 distinct' \
    'judged.jsonl:1: is desirable, and undesirable in line 2' '2 answers have both labels' '3 rows repeat' '2 prompts are in both'; do
    has 'stats' "$part" text
done
# In tokens, as training counts them.
kto data stats "$demo/train.jsonl" --model "$demo/model" --max-length 60 --json >json || fail 'stats --model'
kto check "$demo/demo.cfg" model.path="$demo/model" data.train="$demo/train.jsonl" data.eval= train.eval_steps=0 data.max_length=60
cut=$(sed -n 's/.*data.max_length: 0 rows dropped .*, \([0-9]*\) completions cut/\1/p' log)
has 'stats --max-length' "\"max_length\": 60, \"max_prompt_length\": 0, \"rows_dropped\": 0, \"completions_cut\": ${cut:-none}," json
has 'stats --model' '"unit": "tokens"' json
(cd "$demo/../.." && "$KTO" data stats configs/demo/train.jsonl --model configs/demo/demo.cfg --json) >json 2>log || fail 'stats --model CONFIG'
has 'stats of a configuration' '"max_length": 128,' json
refuses 'stats without a file' 3 'nowhere.jsonl: No such file or directory' data stats judged.jsonl nowhere.jsonl
refuses 'stats of tokens without a model' 2 '--max-length counts tokens; name their model by --model' data stats judged.jsonl --max-length 9
refuses 'stats of no model' 3 'model: has neither tokenizer.json nor tokenizer.model; AutoTokenizer of transformers writes a tokenizer.json by save_pretrained' data stats judged.jsonl --model "$(mkdir -p model && echo model)"

echo "$failures failures"
[ "$failures" -eq 0 ]
