#!/usr/bin/env bash
# The completion for zsh, in a zsh with a terminal: what completes a line.
. "${BASH_SOURCE[0]%/*}/common.sh"
command -v zsh >/dev/null || {
    echo "skipped: zsh is not installed"
    exit 77
}
export LC_ALL=C WORK
mkdir "$WORK/functions" "$WORK/here" || exit 1
"$KTO" completion zsh >"$WORK/functions/_kto" || exit 1
cd "$WORK/here" || exit 1
mkdir folder && touch run.cfg rows.jsonl

# The keys ^X a put all that completes the last word into the line, and ^X s writes the line to a file and empties it.
cat >"$WORK/rc" <<'END'
unsetopt zle_bracketed_paste beep prompt_cr
PS1= PS2= RPS1=
fpath=($WORK/functions $fpath)
autoload -Uz compinit && compinit -u -d $WORK/dump
zstyle ':completion:*' format ''
put_all() { _main_complete; compstate[insert]=all; compstate[list]= }
zle -C put-all complete-word put_all
say() { print -r -- "$BUFFER" >>$WORK/said; BUFFER= }
zle -N say
bindkey '^Xa' put-all '^Xs' say
: >$WORK/ready
END
cat >"$WORK/ask" <<'END'
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "source $WORK/rc"
wait_for() { # COMMAND...
    local i
    for ((i = 0; i < 300; i++)) { eval "$@" && return; zpty -r -t z >/dev/null; sleep 0.05 }
    return 1
}
wait_for '[[ -e $WORK/ready ]]' || exit 1
integer count=0
while IFS= read -r line; do
    zpty -w -n z "$line"$'\CXa\CXs'
    count+=1
    wait_for '[[ -e $WORK/said && $(wc -l <$WORK/said) -ge '$count' ]]' || { print "no answer to: $line"; exit 1 }
done
zpty -d z
END

lines=() answers=()
# expect LINE ANSWER: the words that the last one of LINE becomes
expect() {
    lines+=("$1") answers+=("$2")
}
sorted() {
    sort -u | paste -sd' '
}

expect 'kto ' "$(command_names | cut -d' ' -f1 | sorted)"
expect 'kto --v' --version
expect 'kto trai' train
expect 'kto help trai' train
expect 'kto help ke' keys
expect 'kto completion ' 'bash zsh'
while read -r name; do
    expect "kto $name --" "$({ command_flags "$name" && echo --help; } | sorted)"
    [[ $name != *' '* ]] || for line in 'kto' 'kto help' 'kto man'; do
        expect "$line ${name% *} " "$(command_names | sed -n "s/^${name% *} //p" | sorted)"
    done
done < <(command_names)
expect 'kto train ' 'folder rows.jsonl run.cfg'
expect 'kto train run.cfg train.learn' train.learning_rate=
expect 'kto train run.cfg train.seed=1 model.dtype=f' model.dtype=float32
expect 'kto train run.cfg data.train=ro' data.train=rows.jsonl
expect 'kto train run.cfg lora.target_modules=q_proj,k' lora.target_modules=q_proj,k_proj,
expect 'kto check --device l4 ru' run.cfg
expect 'kto sample --prompts ro' rows.jsonl
expect 'kto sample --prompts=ro' --prompts=rows.jsonl
expect 'kto man --dir ' folder/

printf '%s\n' "${lines[@]}" | timeout 120 zsh -f "$WORK/ask" || exit 1
for i in "${!lines[@]}"; do
    IFS= read -r said
    head=${lines[i]% *}
    # (A value flag may end with = or a blank; the order is zsh's.)
    got=$(tr ' ' '\n' <<<"${said#"$head "}" | sed '/^$/d' | sort | paste -sd' ')
    [[ ${answers[i]} == *= ]] || got=$(sed 's/=\( \|$\)/\1/g' <<<"$got")
    [[ $got == "${answers[i]}" ]] || wrong "\"${lines[i]}\" becomes \"$said\", not \"${answers[i]}\""
done <"$WORK/said"
exit $((failures > 0))
