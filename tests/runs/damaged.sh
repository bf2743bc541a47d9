#!/usr/bin/env bash
# damaged.sh NAME COUNT: COUNT times the newest checkpoint gets another random byte or is cut at a random length; each time it
# is passed over by name, the one before is used, and the run ends with the bits of the undisturbed one.
. "$(dirname "$0")/common.sh"
name=$1 count=$2 RANDOM=7
words=(train.save_steps=2 train.save_total_limit=100)
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
"$KTO" train "$name/run.cfg" train.output_dir="$WORK/whole" "${words[@]}" >"$WORK/log" 2>&1 || fail "the run failed"
mapfile -t checkpoints < <(printf '%s\n' "$WORK"/whole/checkpoints/step-*.h5 | sort)
newest=$(basename "${checkpoints[-1]}") before=$(basename "${checkpoints[-2]}")
size=$(stat -c %s "${checkpoints[-1]}")
for ((i = 0; i < count; i++)); do
    run="$WORK/run"
    rm -rf "$run"
    cp -r "$WORK/whole" "$run"
    rm -r "$run/adapter"
    at=$(((RANDOM << 15 | RANDOM) % size))
    if ((i % 2)); then
        truncate -s $at "$run/checkpoints/$newest"
        what="cut to $at bytes"
    else
        old=$(od -An -tu1 -j $at -N 1 "$run/checkpoints/$newest")
        # shellcheck disable=SC2059
        printf "\\x$(printf %02x $(((old + 1 + RANDOM % 255) % 256)))" |
            dd of="$run/checkpoints/$newest" bs=1 seek=$at conv=notrunc status=none
        what="byte $at changed"
    fi
    "$KTO" train "$name/run.cfg" train.output_dir="$run" "${words[@]}" >"$WORK/log" 2>&1 || fail "$what: the run failed"
    grep -q "warning: .*$newest: .*passed over" "$WORK/log" || fail "$what: was not refused by name"
    grep -q "resume .*$before" "$WORK/log" || fail "$what: the checkpoint before was not used"
    "$COMPARE_RUNS" same "$WORK/whole" "$run" 2>"$WORK/log" || fail "$what: the resumed run differs"
done
echo "$count of $count damaged checkpoints of $size bytes refused by name"
