#!/usr/bin/env bash
# chat.sh: kto chat through a pipe gives the texts of kto sample; what it says of a run; every bad input; and, where
# `script` gives a pseudo-terminal, Ctrl-C, editing and history.
. "$(dirname "$0")/common.sh"
shopt -s lastpipe # chat sets a variable at the end of pipes
failures=0 cases=0
fail() { # NAME WHAT
    echo "FAILED $1: $2"
    sed 's/^/    /' "$WORK/log" | head -n 20
    ((++failures))
}
export XDG_STATE_HOME=$WORK/state
cp -r ../../configs/demo/model "$WORK/model" # its answers are words, so that pieces and whole are the same text
cp -r tiny-model "$WORK/noise"
cd "$WORK" || exit 1

# Rows whose prompts have a system message and words around a person's in common.
prompt() { # WORDS [SYSTEM]
    printf '"prompt": [{"role": "system", "content": "%s"}, {"role": "user", "content": "Tell of %s, please"}]' \
        "${2-Be short.}" "$1"
}
titles=(alpha beta gamma 'a river' 'the old forest' Question)
for title in "${titles[@]}"; do
    printf '{%s, "completion": [{"role": "assistant", "content": "Yes."}], "label": true}\n' "$(prompt "$title")"
    printf '{%s, "completion": [{"role": "assistant", "content": "No."}], "label": false}\n' "$(prompt "$title")"
    printf '{%s}\n' "$(prompt "$title")" >>asks.jsonl
done >rows.jsonl
cat >run.cfg <<'END'
model: { path = "model"; dtype = "float32"; };
data:  { train = "rows.jsonl"; };
lora:  { r = 4; alpha = 8.0; };
train: { output_dir = "run"; global_batch_size = 4; max_steps = 3; learning_rate = 0.01; };
device: { backend = "cpu"; };
END
sed 's/"model"/"noise"/' run.cfg >noise.cfg
"$KTO" train run.cfg >log 2>&1 || { cat log; exit 1; }

sample() { # ARGUMENTS OF kto sample
    "$KTO" sample run "$@" >samples.jsonl 2>log || fail sample "exit code $?"
    "$SAMPLE_TEXTS" samples.jsonl
}
chat() { # ARGUMENTS OF kto chat; the lines are its standard input
    timeout -k 5 60 "$KTO" chat "$@" >out 2>log
    code=$?
}
same() { # NAME WANTED: what the last chat answered
    ((++cases))
    ((code == 0)) || fail "$1" "exit code $code"
    cmp -s "$2" out || { diff "$2" out | head -n 10; fail "$1" 'other text than kto sample'; }
}
says() { # NAME LINE: a line of the last chat's messages
    ((++cases))
    grep -qxF -- "$2" log || fail "$1" "does not say: $2"
}
bad() { # NAME CODE MESSAGE; the lines are standard input: ARGUMENTS behind the message
    local name=$1 want=$2 message=$3
    shift 3
    chat "$@"
    ((++cases))
    [[ $code -eq $want ]] || fail "$name" "exit code $code, expected $want"
    [[ $(grep -a '^kto: error: ' log) == "kto: error: $message" ]] || fail "$name" "the message is not: kto: error: $message"
}
apart() { # the titles, none with a history
    for title in "${titles[@]}"; do printf '%s\n/reset\n' "$title"; done
}

# --- the same texts as kto sample
sample --prompts asks.jsonl --seed 7 --max-tokens 40 >want
apart | chat run --seed 7 --max-tokens 40
same sampled want
says 'the model' "$(grep -a '^model ' log)"
says 'the adapter' 'adapter  run/adapter (final, step 3)'
says 'the prompt' 'prompt   chat, 1 message before the person'\''s "Tell of {title}, please"; as in rows.jsonl'
apart | sed 's/$/\r/' | chat run.cfg --seed 7 --max-tokens 40
same 'configuration, lines that end in CR LF' want
{ echo '/set seed 7' && echo '/set max-tokens 40' && apart; } | chat run
same 'settings within' want
says 'the settings' 'temperature 1, top-k 0, top-p 1, seed 7, max-tokens 40'
sample --prompts asks.jsonl --greedy --max-tokens 40 >want
apart | chat run --greedy --max-tokens 40
same greedy want
sample --prompts asks.jsonl --greedy --max-tokens 40 --base >want
apart | chat run --greedy --max-tokens 40 --base
same 'base model alone' want
{ echo /base && apart; } | chat run --greedy --max-tokens 40
same 'adapters off' want
{ echo /base && echo alpha && echo /tuned && apart; } | chat run --greedy --max-tokens 40
((++cases))
[[ $(tail -n "$(wc -l <want)" out | head -n 3) != "$(head -n 3 want)" ]] || fail 'adapters on again' 'answers as the base model'
printf '{%s}\n' "$(prompt 'a\nb/c' 'Be loud.')" >ask.jsonl
sample --prompts ask.jsonl --greedy --max-tokens 40 >want
printf '%s\n' '/system Be loud.' 'a\' 'b/c' | chat run --greedy --max-tokens 40
same 'system message, a message of two lines' want
printf '{%s}\n' "$(prompt '/c')" >ask.jsonl
sample --prompts ask.jsonl --greedy --max-tokens 40 >want
printf '//c' | chat run --greedy --max-tokens 40
same 'a slash, and a last line without its end' want
printf 'Say {title}:' >frame
echo '{"prompt": "Say größe:"}' >ask.jsonl
sample --prompts ask.jsonl --max-tokens 40 >want
echo 'größe' | chat run --max-tokens 40 --prompt-template frame
same 'a template of the person' want
says 'no history' 'prompt   "Say {title}:", every line alone (a plain text has no history); as in frame'

# --- history
printf '%s\n' alpha beta | chat run --greedy --max-tokens 40
cp out first
printf '%s\n' alpha /reset beta | chat run --greedy --max-tokens 40
((++cases))
! cmp -s first out || fail history 'the second answer does not depend on the first question'
printf '%s\n' alpha beta gamma alpha beta gamma | chat noise.cfg --base --max-tokens 800
says 'a conversation too long' '(the conversation has become too long for 2048 tokens: the oldest 1 question is forgotten)'
printf '%s\n' alpha /again | chat run --max-tokens 40
((++cases))
[[ $code -eq 0 && $(sort -u out | wc -l) -eq 2 ]] || fail again "exit code $code, or not another answer"

# --- what a terminal would take for an order
for seed in 1 2 3 4; do
    echo alpha | chat run --temperature 9 --max-tokens 400 --seed $seed
    ((++cases))
    if LC_ALL=C tr -d '\n\t' <out | LC_ALL=C grep -aq '[[:cntrl:]]'; then fail 'control characters' 'some came through'; fi
done
sample --prompts asks.jsonl --temperature 9 --max-tokens 400 >want
grep -q '\\u00[01]' samples.jsonl || fail 'control characters' 'the model made none, so this proves nothing'

# --- runs in other states
cp -r run going && rm -r going/adapter
echo alpha | chat going --greedy --max-tokens 5
says 'a run still going' 'adapter  going/checkpoints/step-000003.h5 (step 3; the run has no final adapter yet)'
mv rows.jsonl rows.away
echo alpha | chat run --greedy --max-tokens 5
says 'rows that are gone' 'prompt   chat, 0 messages before the person'\''s "{title}"; not as in training: rows.jsonl: No such file or directory'
((code == 0)) || fail 'rows that are gone' "exit code $code"
mv rows.away rows.jsonl

# --- bad input
bad 'unknown run' 2 'nowhere: No such file or directory' nowhere </dev/null
bad 'folder that is no run' 2 'state: holds no config.cfg; give a run'\''s folder or a configuration' state < <(mkdir -p state)
bad 'run that has not begun' 2 'run2: no adapter and no checkpoint yet; train first (kto sample and kto chat also take --base)' other.cfg \
    < <(sed 's/"run"/"run2"/' run.cfg >other.cfg)
bad 'bad flag' 2 '--top-p takes a number above 0 and up to 1, not "2"' run --top-p 2 </dev/null
bad 'no template' 3 'none: No such file or directory' run --prompt-template none </dev/null
bad 'template without a place' 3 "run.cfg: must hold {title} once, where a person's words go" run --prompt-template run.cfg </dev/null
bad 'unknown command' 2 'standard input:2: unknown command /bsae; did you mean /base?' run --max-tokens 5 < <(printf 'a\n/bsae\n')
bad 'unknown setting' 2 'standard input:1: /set knows greedy, temperature, top-k, top-p, seed, max-tokens; not "heat"' run <<<'/set heat 3'
bad 'bad setting' 2 'standard input:1: --temperature takes a number above 0 and up to 100, not "warm"' run <<<'/set temperature warm'
bad 'no value' 2 'standard input:1: /set top-k needs a value' run <<<'/set top-k'
bad 'no adapter to go to' 2 'standard input:1: there is no adapter, as kto chat was started with --base' run --base <<<'/tuned'
bad 'no system message' 2 'standard input:1: this prompt is one text and has no system message; see --prompt-template' \
    run --prompt-template frame <<<'/system Be loud.'
bad 'nothing asked' 2 'standard input:1: nothing was asked yet' run <<<'/again'
bad 'no UTF-8' 3 'standard input:2: invalid UTF-8; write the words as UTF-8' run --max-tokens 5 < <(printf 'a\n\xff\n')
bad 'NUL' 3 'standard input:1: invalid UTF-8; write the words as UTF-8' run < <(printf 'a\0b\n')
chat run < <(printf 'word %.0s' {1..600})
((++cases))
[[ $code -eq 2 ]] && grep -q '^kto: error: standard input:1: a prompt of [0-9]* tokens does not fit the 512 that there is room for$' log ||
    fail 'prompt too long' "exit code $code or another message"
cp -r model other && sed -i 's/"chat_template"/"no_template"/' other/tokenizer_config.json
cp -r run untold && sed -i 's/path = "model"/path = "other"/' untold/config.cfg
bad 'no chat template' 3 'rows.jsonl: its prompts are messages, but the model has no chat template; set data.chat_template, or give --prompt-template FILE' untold </dev/null
size=$(stat -c %s other/model.safetensors)
printf '\1' | dd of=other/model.safetensors bs=1 seek=$((size - 1)) conv=notrunc status=none
chat untold </dev/null
((++cases))
[[ $code -eq 3 ]] && grep -qE '^kto: error: untold/checkpoints/step-000003.h5: is of base weights with hash [0-9a-f]{16}, but those of other have [0-9a-f]{16}; ' log ||
    fail 'adapter of another model' "exit code $code or another message"
timeout -k 5 60 mpirun -n 2 "$KTO" chat run </dev/null >out 2>log
((++cases))
[[ $(grep -a '^kto: ' log) == 'kto: error: kto chat is one process, and mpirun started 2; start it without mpirun' ]] ||
    fail 'two ranks' 'another message'

# --- a terminal
if ! script -qec true /dev/null </dev/null >/dev/null 2>&1; then
    echo 'skipped: a terminal (no script of util-linux here)'
else
    mkfifo keys
    wait_for() { # TEXT [COUNT]: on the screen so often
        for ((i = 0; i < 1000; i++)); do
            (($(grep -ac -- "$1" screen) >= ${2-1})) && return
            sleep 0.02
        done
        fail terminal "did not show: $1"
        sed 's/^/    /' screen | cat -v | tail -n 20
        return 1
    }
    type_in() { printf "$1" >&3; }
    (
        exec 3>&- # script must see the keys end; exec below: dash would end with 130 after a Ctrl-C that kto outlived
        NO_COLOR=1 TERM=xterm timeout -k 5 100 script -qec "exec '$KTO' chat noise.cfg --base --max-tokens 2000 --temperature 3" /dev/null
        echo "code $?"
    ) <keys >screen 2>&1 &
    exec 3>keys
    wait_for 'Ctrl-D ends'
    # Eight answers, as Ctrl-C may come between two writes or in the middle of one; an answer may end before it is stopped.
    stopped=0
    for ((try = 1; try <= 40 && stopped < 8; try++)); do
        before=$(stat -c %s screen)
        type_in 'alpx\177ha\r'
        for ((i = 0; i < 1000 && $(stat -c %s screen) <= before + 60; i++)); do sleep 0.005; done
        seen=$(grep -acE '^\((stopped|Ctrl-C again)' screen)
        type_in '\003'
        for ((i = 0; i < 50 && $(grep -acE '^\((stopped|Ctrl-C again)' screen) == seen; i++)); do sleep 0.01; done
        stopped=$(grep -ac '^(stopped' screen)
    done
    ((++cases))
    ((stopped >= 8)) || fail 'Ctrl-C in an answer' "$stopped of $try were stopped"
    type_in '/set\r'
    wait_for 'temperature 3'
    type_in 'half a line\003/set top-k 5\r'
    wait_for 'top-k 5'
    seen=$(grep -ac 'Ctrl-C again' screen)
    type_in '\003'
    wait_for 'Ctrl-C again or Ctrl-D ends' $((seen + 1))
    type_in '\033[A' # history: the last command once more
    type_in '\r'
    wait_for 'top-k 5, top-p' 2
    type_in '\033[200~/system two\rlines\033[201~\r'
    wait_for 'the system message is replaced'
    type_in '\004'
    wait_for '^code'
    exec 3>&-
    wait
    cat -v screen | tail -n 20 >log
    ((++cases))
    grep -aqx 'code 0' screen || fail terminal 'Ctrl-D did not end it with 0'
    ! grep -aq 'unknown' screen || fail terminal 'keys were taken for something else'
    ((++cases))
    grep -q '^alpha$' state/kto/chat_history || fail history "state/kto/chat_history does not hold the question"
    [[ $(stat -c %a state/kto/chat_history) == 600 ]] || fail history 'others may read it'
fi

echo "$cases cases, $failures failures"
((failures == 0))
