#!/usr/bin/env bash
# review_pairs.sh RANKS: kto data review-pairs with the demo's reviewer on RANKS ranks. The pairs are what the demo's grammar
# calls scathing and kind; runs that were stopped or killed go on to the files of one that was left alone; another number of
# ranks gives nearly the same pairs; what is not a file of its own is refused and left as it is.
. "$(dirname "$0")/common.sh"
ranks=$1 RANDOM=5
cd "$GOLDEN/../.." || exit 1
demo=configs/demo
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}

# The demo's own prompt format, opened with the verdict that the review shall have.
mkdir "$WORK/templates"
ask() { printf '<|system|>\nYou are Reviewer #2.</s>\n<|user|>\n{title}</s>\n<|assistant|>\n{review}%s\n' "$1"; }
ask Reject: >"$WORK/templates/ask-scathing.txt"
ask Accept: >"$WORK/templates/ask-kind.txt"
ask '' >"$WORK/templates/plain.txt"
sed 's/.*"content": "\([^"]*\)"}\]}$/\1/' $demo/titles.jsonl >"$WORK/titles.txt"

# Everything after "as RANKS": how the command is started. Hot, so that some answers are turned away and tried again.
words=(data review-pairs "$WORK/titles.txt" --model $demo/demo.cfg --base --templates "$WORK/templates" --temperature 2.5)
start() { # RANKS NAME [WORDS ...]
    local n=$1 name=$2
    shift 2
    local launch=()
    ((n == 1)) || launch=(mpirun -n "$n")
    exec "${launch[@]}" "$KTO" "${words[@]}" --paired "$WORK/$name-pairs" --unpaired "$WORK/$name-rows" "$@" >"$WORK/log" 2>&1
}
same_files() { # NAME
    cmp "$WORK/whole-pairs" "$WORK/$1-pairs" && cmp "$WORK/whole-rows" "$WORK/$1-rows"
}

(start "$ranks" whole) || fail 'the run failed'
grep '^answers' "$WORK/log"
pairs=$(wc -l <"$WORK/whole-pairs")
((pairs > 200 && pairs < 400)) || fail "$pairs pairs: so many that nothing is tried again, or too few"
"$KTO" data unpair "$WORK/whole-pairs" --interleave --out "$WORK/unpaired" 2>"$WORK/log" || fail 'the pairs cannot be read'
cmp "$WORK/unpaired" "$WORK/whole-rows" || fail 'the unpaired rows are not those of the pairs'
# Answers have random numbers of their own, whoever draws them; only rounding depends on what is computed together, and turns
# a token now and then.
if ((ranks > 1)); then
    (start 1 alone) || fail 'the run on one rank failed'
    same=$(comm -12 <(sort "$WORK/whole-pairs") <(sort "$WORK/alone-pairs") | wc -l)
    ((10 * same >= 9 * pairs)) || fail "only $same of $pairs pairs are those of one rank"
fi

# --- the recipe: at the temperature that the model was made for, the verdicts are those of the grammar
(words+=(--temperature 1) && start "$ranks" cool) || fail 'the run at temperature 1 failed'
forms() { # SECTION: its lines as regular expressions, a slot as the choice of its lines
    awk -v want="$1" '
        /^#/ || /^$/ { next }
        /^\[/ { section = substr($0, 2, length($0) - 2); next }
        section == want { form[++forms] = $0 }
        { choice[section] = choice[section] (section in choice ? "|" : "") $0 }
        END {
            for (i = 1; i <= forms; i++) {
                gsub(/\./, "[.]", form[i])
                while (match(form[i], /[{][a-z]+[}]/))
                    form[i] = substr(form[i], 1, RSTART - 1) "(" choice["slot " substr(form[i], RSTART + 1, RLENGTH - 2)] ")" \
                        substr(form[i], RSTART + RLENGTH)
                print form[i]
            }
        }' $demo/grammar.txt
}
forms scathing | sed 's/.*/"chosen": "&", "rejected"/' >"$WORK/scathing"
forms kind | sed 's/.*/"rejected": "&", "title"/' >"$WORK/kind"
pairs=$(wc -l <"$WORK/cool-pairs")
scathing=$(grep -cEf "$WORK/scathing" "$WORK/cool-pairs") kind=$(grep -cEf "$WORK/kind" "$WORK/cool-pairs")
echo "$pairs pairs of 400 titles: $scathing scathing, $kind kind by the grammar"
((pairs >= 396 && 100 * scathing >= 97 * pairs && 100 * kind >= 97 * pairs)) || fail 'these are not scathing and kind reviews'
"$KTO" check $demo/demo.cfg data.train="$WORK/cool-rows" data.eval= train.eval_steps=0 2>"$WORK/log" || fail 'the rows are none to train on'
grep -q "$((2 * pairs)) rows, $pairs desirable and $pairs undesirable" "$WORK/log" || fail 'the rows are not balanced'

# --- stopped, killed, gone on
processes() { pgrep -f -- "^$KTO ${words[*]} --paired $WORK/cut-pairs"; }
cuts=0
for ((i = 0; i < 3; i++)); do
    rm -f "$WORK"/cut-*
    for ((starts = 1; ; starts++)); do
        ((starts < 30)) || fail 'the run comes to no end'
        rows=$(cat "$WORK/cut-pairs" 2>/dev/null | wc -l)
        (start "$ranks" cut) &
        launcher=$!
        # Some time after it went on.
        until (($(cat "$WORK/cut-pairs" 2>/dev/null | wc -l) > rows)) || ! kill -0 $launcher 2>/dev/null; do sleep 0.005; done
        sleep 0.0$((RANDOM % 6))
        ((starts > 2)) || case $((i % 3)) in
        0) kill -KILL $launcher $(processes) 2>/dev/null ;;
        1) kill -TERM $(processes) 2>/dev/null ;;
        2) kill -INT $(processes) 2>/dev/null ;;
        esac
        wait $launcher 2>/dev/null
        code=$?
        while processes >/dev/null; do sleep 0.01; done
        ((code == 0)) && break
        ((cuts++))
        ((i % 3 == 0)) || ((code == 75)) || fail "asked to stop: exit code $code instead of 75"
        ((i % 3 == 0)) || grep -q '^stopped  on request at title' "$WORK/log" || fail 'asked to stop: it did not say so'
        # What a crash in the middle of a write leaves.
        if ((i % 3 == 0 && RANDOM % 2)); then
            whole=$(wc -l <"$WORK/cut-pairs")
            if ((whole > 2)); then
                rest=$(sed -n "${whole}p" "$WORK/cut-pairs")
                { head -n $((whole - 1)) "$WORK/cut-pairs"; printf %s "${rest:0:$((RANDOM % ${#rest}))}"; } >"$WORK/new"
                mv "$WORK/new" "$WORK/cut-pairs"
                rest=$(sed -n "$((whole - 1))p" "$WORK/cut-rows")
                { head -n $((whole - 2)) "$WORK/cut-rows"; printf %s "${rest:0:$((RANDOM % ${#rest}))}"; } >"$WORK/new"
                mv "$WORK/new" "$WORK/cut-rows"
            fi
        fi
    done
    same_files cut || fail "run $i: cut off, gone on, and not the same"
done
((cuts >= 3)) || fail "the runs ended before they could be cut off ($cuts times)"
echo "cut off $cuts times"
(start "$ranks" cut) && same_files cut || fail 'a run that was finished does not stay as it is'

# --- titles that the model has no room for are left out
{ sed -n 1p "$WORK/titles.txt"; printf 'long %.0s' {1..3000}; echo; sed -n '1p;3p' "$WORK/titles.txt"; } >"$WORK/some.txt"
(words[2]=$WORK/some.txt && start "$ranks" some --temperature 1 --seed 9007199254740992) || fail 'a long title ends the run'
sed 's/.*"title": "\(.*\)"}/\1/' "$WORK/some-pairs" | cmp - <(sed -n '1p;3p' "$WORK/titles.txt") || fail 'not the pairs of the other titles'
grep -q '^kto: warning: 1 titles were not asked about' "$WORK/log" || fail 'it does not say that a title was left out'
grep -q ': 1 titles that repeat another are left out$' "$WORK/log" || fail 'it does not say that a title came twice'

# --- refused, and left alone
sum() { cat "$WORK"/cut-* | cksum; }
refuses() { # NAME EXIT_CODE MESSAGE WORDS...: beside the words of all
    local name=$1 code=$2 message=$3 before
    shift 3
    before=$(sum)
    (start "$ranks" cut "$@")
    local got=$?
    ((got == code)) || fail "$name: exit code $got instead of $code"
    [[ $(grep '^kto: error: ' "$WORK/log") == "kto: error: $message" ]] || fail "$name: not the message: $message"
    [[ $(sum) == "$before" ]] || fail "$name: the files were touched"
}
pair=$WORK/cut-pairs row=$WORK/cut-rows
mkdir "$WORK/plain" && cp "$WORK"/templates/* "$WORK/plain" && echo 'Title: {title} {review}' >"$WORK/plain/plain.txt"
refuses 'other rows' 3 "$pair:1: was made with another plain.txt; go on with that one, or name another file by --paired" --templates "$WORK/plain"
echo 'Title: {titel} {review}' >"$WORK/plain/plain.txt"
refuses 'a template that is none' 3 "$WORK/plain/plain.txt:1: unknown placeholder {titel}; there are {title} and {review} ({{ is a {)" --templates "$WORK/plain"
rm "$WORK/plain/plain.txt"
refuses 'a template that is not there' 3 "$WORK/plain/plain.txt: No such file or directory" --templates "$WORK/plain"
refuses 'one file' 2 "$pair: is both --paired and --unpaired; name two files" --unpaired "$pair"
refuses 'no words' 2 '--min-words 9 is above --max-words 8: no review fits' --min-words 9 --max-words 8
exec 9<"$pair" && flock 9
refuses 'a file in use' 2 "$pair: another process writes to it; wait for it or name another file"
exec 9<&-
refuses 'no model' 2 "$WORK/none: No such file or directory" --model "$WORK/none"
echo 'not a row' >"$WORK/cut-text"
refuses 'another file' 3 "$WORK/cut-text:1: is no row of kto data review-pairs; name another file by --paired" --paired "$WORK/cut-text"
printf 'no newline' >"$WORK/cut-text"
refuses 'another file without a newline' 3 "$WORK/cut-text: ends in a line that is no row of kto data review-pairs; name another file" --paired "$WORK/cut-text"
echo 'not a row' >"$WORK/cut-text"
refuses 'another unpaired file' 3 "$WORK/cut-text:1: is not what the rows of $pair give; name another file by --unpaired, or take this one away" --unpaired "$WORK/cut-text"
sed -i '1s/"label": true/"label": false/' "$row"
refuses 'an unpaired file that was changed' 3 "$row:1: is not what the rows of $pair give; name another file by --unpaired, or take this one away"
tac "$WORK/titles.txt" >"$WORK/new" && mv "$WORK/new" "$WORK/titles.txt"
refuses 'titles in another order' 3 "$pair:2: its title is not among the titles, or not in their order; go on with the titles that the file was begun with, or name another file by --paired"
printf 'a\n\xff\n' >"$WORK/titles.txt"
refuses 'titles that are no text' 3 "$WORK/titles.txt:2: invalid UTF-8; save the file as UTF-8"
