#!/usr/bin/env bash
# log.sh: kto log on runs that are finished, that go on, that were stopped, killed or damaged, on several and on none. Needs
# COMPARE_LOG.
. "$(dirname "$0")/common.sh"
root=$(cd "$GOLDEN/../.." && pwd)
fail() {
    echo "$1"
    tail -n 20 "$WORK/out" "$WORK/err"
    exit 1
}
log() { "$KTO" log "$@" >"$WORK/out" 2>"$WORK/err"; }
says() { grep -q -- "$1" "$WORK/out" || fail "kto log does not say: $1"; }
# refused CODE TEXT ARGUMENT ...: one line, that code, nothing on standard output.
refused() {
    local code=$1 text=$2 got
    shift 2
    timeout 20 "$KTO" log "$@" >"$WORK/out" 2>"$WORK/err"
    got=$?
    ((got == code)) || fail "kto log $*: exit code $got instead of $code"
    [[ $(wc -l <"$WORK/err") == 1 ]] && grep -q "^kto: error: .*$text" "$WORK/err" || fail "kto log $*: not one line with: $text"
}
same() { # csv|json RUN [GROUP]: what is in out, and the file
    "$COMPARE_LOG" "$1" "$2/metrics.h5" ${3+"$3"} <"$WORK/out" 2>>"$WORK/err" || fail "the $1 of $2 differs from its file"
}

# A finished run.
train d 1 "$WORK/first" train.eval_steps=5
log "$WORK/first" || fail "exit code $?"
says 'state     finished: 30 steps in '
says 'model     tiny-model, '
says '1 rank, '
says ' tokens/s, .* s a step (median)'
grep -qE '^  rewards_margins +[-0-9.]+ +[-0-9.]+ +[0-9]+ +[-0-9.]+ +[-0-9.]+$' "$WORK/out" || fail "no line of the reward margins"
(($(grep -cE '^  (train|eval) +first +best' "$WORK/out") == 2)) || fail "not a table of each group"
(($(LC_ALL=C grep -caP '\xe2[\xa0-\xa3]' "$WORK/out") > 10)) || fail "no braille"
log "$WORK/first" --ascii --metric rewards/margins,kl --group eval || fail "exit code $?"
LC_ALL=C grep -qaP '[^\x00-\x7f]' "$WORK/out" && fail "--ascii is not ASCII"
grep -q '^  loss  *[0-9]' "$WORK/out" && fail "--metric shows others too"
says '^  rewards_margins '
says '^  kl '
for form in csv json; do
    log "$WORK/first" --$form || fail "exit code $?"
    same $form "$WORK/first"
    log "$WORK/first" --$form --group eval || fail "exit code $?"
    same $form "$WORK/first" eval
done
log "$WORK/first" --csv --metric loss,rewards/margins && [[ $(head -n 1 "$WORK/out") == run,group,step,loss,rewards_margins ]] ||
    fail "--csv --metric has other columns"
log "$WORK/first" --follow && [[ $(wc -l <"$WORK/out") == 16 ]] || fail "--follow of a finished run: not its last rows and an end"
for column in $("$KTO" log "$WORK/first" --csv | head -n 1 | tr , ' '); do
    [[ $column == run || $column == group ]] || grep -q "^| \`$column\` |" "$root/docs/logs.md" || fail "docs/logs.md lacks $column"
done

# Batches of one class have no margin, which is neither a number nor "nan".
train d 1 "$WORK/classes" train.global_batch_size=2 train.max_steps=4 train.logging_steps=1 train.eval_steps=0
grep -q '^step 1/4 .*  margin -  ' "$WORK/log" || fail "a step without a margin: $(grep '^step 1' "$WORK/log")"
grep -q 'nan' "$WORK/log" && fail "nan: $(grep 'nan' "$WORK/log")"
log "$WORK/classes" || fail "exit code $?"
grep -qi 'nan' "$WORK/out" && fail "kto log says nan"
says '^  rewards_margins  *-  *-'
log "$WORK/classes" --follow && says '^train step 1 .*  rewards_margins -  '

# The words of a DPO run's configuration.
train dpo 1 "$WORK/dpo" train.max_steps=2 train.eval_steps=0
log "$WORK/dpo" || fail "exit code $?"
says '^  loss      dpo, beta 0.*, [0-9]* pairs a step'

wait_for() { # FILE, which the run makes
    until [[ -e $1 ]]; do
        kill -0 $trainer 2>/dev/null || fail "the run failed"
        sleep 0.02
    done
}
# Values that text gets wrong, and a name that CSV quotes.
mkdir "$WORK/odd"
"$COMPARE_LOG" make "$WORK/odd/metrics.h5" || fail "no file was made"
for form in csv json; do
    log "$WORK/odd" --$form || fail "exit code $?"
    same $form "$WORK/odd"
done
log "$WORK/odd" || fail "a log without configuration: exit code $?"
cp -r "$WORK/odd" "$WORK/a, \"b\""
(cd "$WORK" && "$KTO" log 'a, "b"' --csv | sed -n 2p | grep -q '^"a, ""b""",train,1,') || fail "a name is not quoted"

# Several, one of them without a step.
train d 2 "$WORK/second" kto.beta=0.2 train.max_steps=12
mkdir "$WORK/none"
cp "$WORK/first/config.cfg" "$WORK/none/"
log "$WORK/first" "$WORK/second" "$WORK/none" || fail "exit code $?"
says '^a .*first *finished *30/30 '
says '^b .*second *finished *12/12 '
says '^c .*none *no step '
says 'kto.beta: *a [0-9.]* *b 0.2'
says 'loss ('
log "$WORK/none" "$WORK/second" --csv || fail "exit code $?"
[[ $(cut -d , -f 1 "$WORK/out" | sort -u | wc -l) == 2 ]] || fail "not the rows of one run and a head"

# While a run goes on: each row once, in both forms of the file; the end of the run is the end.
cd "$root" || exit 1
for swmr in true false; do
    run=$WORK/going-$swmr
    "$KTO" train configs/demo/demo.cfg train.output_dir="$run" train.max_steps=40 train.eval_steps=10 log.swmr=$swmr \
        data.reference_cache="$WORK" >"$WORK/log" 2>&1 &
    trainer=$!
    wait_for "$run/config.cfg"
    "$KTO" log "$run" --csv --follow >"$WORK/followed" 2>"$WORK/followed-err" &
    follower=$!
    wait_for "$run/metrics.h5"
    going=0
    for ((i = 0; i < 10; i++)); do
        log "$run" && grep -q 'going on: step' "$WORK/out" && going=1
        sleep 0.1
    done
    ((going)) || fail "a run that goes on is not said to (log.swmr=$swmr)"
    wait $trainer || fail "the run failed beside its readers (log.swmr=$swmr)"
    wait $follower || fail "--follow ends with $? (log.swmr=$swmr)"
    cp "$WORK/followed" "$WORK/out"
    cp "$WORK/followed-err" "$WORK/err"
    same csv "$run"
done

# Stopped and gone on: the follower sees every step, and Ctrl-C ends one that waits.
run=$WORK/stopped
words=(configs/demo/demo.cfg train.output_dir="$run" train.max_steps=40 data.reference_cache="$WORK")
"$KTO" train "${words[@]}" >"$WORK/log" 2>&1 &
trainer=$!
wait_for "$run/metrics.h5"
kill -USR1 $trainer
wait $trainer
(($? == 75)) || fail "the run was not stopped"
log "$run" && says 'stopped at step [0-9]*/40 '
bash -c 'trap - INT; exec "$@"' _ "$KTO" log "$run" --follow >"$WORK/out" 2>"$WORK/err" &
follower=$!
for ((i = 0; i < 100; i++)); do
    grep -q 'no process trains it' "$WORK/err" && break
    sleep 0.1
done
kill -TERM $follower
wait $follower || fail "Ctrl-C: exit code $?"
grep -q 'no process trains it' "$WORK/err" || fail "--follow of a stopped run does not say that it waits"
"$KTO" log "$run" --csv --follow >"$WORK/followed" 2>"$WORK/err" &
follower=$!
"$KTO" train "${words[@]}" >"$WORK/log" 2>&1 || fail "the run does not go on"
wait $follower || fail "--follow ends with $?"
cp "$WORK/followed" "$WORK/out"
same csv "$run"

# Killed.
run=$WORK/killed
"$KTO" train configs/demo/demo.cfg train.output_dir="$run" data.reference_cache="$WORK" >"$WORK/log" 2>&1 &
trainer=$!
wait_for "$run/metrics.h5"
until log "$run" --csv && (($(wc -l <"$WORK/out") > 4)); do
    kill -0 $trainer 2>/dev/null || fail "the run failed"
    sleep 0.02
done
kill -KILL $trainer
wait $trainer 2>/dev/null
log "$run" && says 'stopped at step [0-9]*/126 '
log "$run" --csv || fail "exit code $?"
same csv "$run"

# What is no run.
refused 2 'nowhere: No such file or directory; name a run.s folder' "$WORK/nowhere"
refused 2 'no run.s folder: it holds no metrics.h5' "$root"
refused 2 'nowhere: No such file' "$WORK/first" "$WORK/nowhere" --csv
refused 2 'nowhere: No such file' "$WORK/nowhere" --follow
refused 2 'kto log needs: RUN_DIR' --csv
refused 2 'no metric "lost"; did you mean loss?' "$WORK/first" --metric kl,lost
refused 2 'unknown option --folow of kto log; did you mean --follow?' "$WORK/first" --folow
refused 2 '--group takes train or eval, not "test"' "$WORK/first" --group test
refused 2 'choose one' "$WORK/first" --csv --json
refused 3 'has no step in its log yet; kto log .*none --follow waits' "$WORK/none"
mkdir "$WORK/damaged"
echo 'no metrics' >"$WORK/damaged/metrics.h5"
refused 3 'damaged/metrics.h5: cannot be read: ' "$WORK/damaged"
size=$(stat -c %s "$WORK/first/metrics.h5")
RANDOM=5
for ((i = 0; i < 20; i++)); do # whole, or refused; never a crash
    cp "$WORK/first/metrics.h5" "$WORK/damaged/metrics.h5"
    if ((i % 2)); then
        truncate -s $((RANDOM * size / 32768)) "$WORK/damaged/metrics.h5"
        refused 3 'damaged/metrics.h5: ' "$WORK/damaged"
    else
        for ((n = 0; n < 10; n++)); do
            printf '\x5a' | dd of="$WORK/damaged/metrics.h5" bs=1 seek=$((RANDOM * size / 32768)) conv=notrunc status=none
        done
        log "$WORK/damaged"
        code=$?
        ((code == 0 || code == 3)) || fail "a damaged log: exit code $code"
    fi
done
# A reader that goes away is no error to speak of.
"$KTO" log "$WORK/first" --csv 2>"$WORK/err" | head -n 1 >/dev/null
[[ ! -s $WORK/err ]] || fail "a closed pipe is spoken of"
echo "summary, CSV, JSON, several, following, stopped, killed, refused"
