#!/usr/bin/env bash
# The completion for bash: what is offered for a line, asked as bash asks; and once in a bash that has a terminal.
. "${BASH_SOURCE[0]%/*}/common.sh"
export LC_ALL=C
"$KTO" completion bash >"$WORK/kto.bash" || exit 1
. "$WORK/kto.bash" || exit 1
complete -p kto >"$WORK/log" || exit 1
mkdir "$WORK/here" && cd "$WORK/here" || exit 1
mkdir folder && touch run.cfg rows.jsonl "two words.jsonl"

# offer LINE: what completes the last word of LINE (after a blank: an empty one), sorted, in one line.
offer() {
    local words
    # bash parts a line at blanks and at =
    read -ra words <<<"${1//=/ = }"
    [[ $1 == *' ' ]] && words+=('')
    COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1)) COMP_LINE=$1 COMP_POINT=${#1}
    COMPREPLY=()
    _kto kto "${words[COMP_CWORD]}" "${words[COMP_CWORD - 1]}"
    printf '%s\n' "${COMPREPLY[@]}" | sort | paste -sd' '
}

# expect LINE OFFER
expect() {
    local got
    got=$(offer "$1")
    [[ $got == "$2" ]] || wrong "\"$1\" offers \"$got\", not \"$2\""
}

sorted() {
    sort -u | paste -sd' '
}

expect 'kto ' "$({ command_names | cut -d' ' -f1 && printf '%s\n' --help --version; } | sorted)"
expect 'kto trai' train
expect 'kto help trai' train
expect 'kto help key' keys
expect 'kto man kto' kto.cfg
expect 'kto completion ' 'bash zsh'
expect 'kto completion bash ' ''
while read -r name; do
    expect "kto $name --" "$({ command_flags "$name" && echo --help; } | sorted)"
    [[ $name != *' '* ]] || for line in 'kto' 'kto help' 'kto man'; do
        expect "$line ${name% *} " "$(command_names | sed -n "s/^${name% *} //p" | sorted)"
    done
done < <(command_names)

expect 'kto train ' 'folder rows.jsonl run.cfg two words.jsonl'
expect 'kto train run' run.cfg
expect 'kto train run.cfg ' "$(config_keys | sed 's/$/=/' | sorted)"
expect 'kto train run.cfg train.learn' train.learning_rate=
expect 'kto train run.cfg train.seed=1 model.dtype=' 'bfloat16 float32'
expect 'kto train run.cfg model.dtype=f' float32
expect 'kto train run.cfg log.swmr=' 'false true'
expect 'kto train run.cfg kto.desirable_weight=' auto
expect 'kto train run.cfg train.seed=' ''
expect 'kto train run.cfg data.train=ro' rows.jsonl
expect 'kto train run.cfg lora.target_modules=q_proj,k' q_proj,k_proj
expect 'kto check --device l4 ru' run.cfg
expect 'kto check run.cfg --device l4 model.dt' model.dtype=
expect 'kto check --device ' ''
expect 'kto check -- run.cfg --' ''
expect 'kto sample --prompts ro' rows.jsonl
expect 'kto sample --prompts=ro' rows.jsonl
expect 'kto sample --prompts rows.jsonl fo' folder
expect 'kto sample folder ' ''
expect 'kto man --dir ' folder
expect 'kto frobnicate ' ''
# Where = parts no words
words_of_bash=$COMP_WORDBREAKS
COMP_WORDBREAKS=${COMP_WORDBREAKS//=/}
expect 'kto train run.cfg model.dtype=f' model.dtype=float32
expect 'kto sample --prompts=ro' --prompts=rows.jsonl
COMP_WORDBREAKS=$words_of_bash

if script -qec true /dev/null </dev/null >/dev/null 2>&1; then # (there may be no pseudo-terminals)
    # The same by keys. (Each line waits for the one before: a terminal drops what comes too early.)
    export PS1='> ' HISTFILE=/dev/null TERM=dumb
    {
        printf '. %q\nkto() { printf "%%s|" "$@" >>%q; echo >>%q; }\n' "$WORK/kto.bash" "$WORK/said" "$WORK/said"
        sleep 1
        printf 'kto tra\trun\ttrain.lr_sch\tcos\ttrain.seed=4\n'
        sleep 1
        printf 'kto sample --prom\tro\t fol\t\n'
        sleep 1
        printf 'exit\n'
    } | timeout 60 script -qec 'bash --norc --noprofile -i' /dev/null >"$WORK/log" 2>&1
    printf '%s\n' 'train|run.cfg|train.lr_scheduler_type=cosine|train.seed=4|' 'sample|--prompts|rows.jsonl|folder/|' |
        diff - "$WORK/said" || wrong "typed in a terminal: $(cat "$WORK/log")"
fi
exit $((failures > 0))
