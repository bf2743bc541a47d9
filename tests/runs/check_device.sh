#!/usr/bin/env bash
# check_device.sh: `kto check --device` says what a run would be on a device that is not here, and refuses one that it does
# not know by naming those that it knows.
. "$(dirname "$0")/common.sh"
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
for device in l4 a10 l40s a100-40 a100 h100 h200; do
    "$KTO" check --device $device a/run.cfg train.output_dir="$WORK/run" >"$WORK/log" 2>&1 || fail "kto check --device $device failed"
    for words in 'scratch .* MiB' 'train.micro_batch_tokens' 'fits: ' ' s a step by the roofline' 'AdamW '; do
        grep -q "$words" "$WORK/log" || fail "kto check --device $device does not say \"$words\""
    done
done
[[ ! -e $WORK/run ]] || fail "kto check wrote a run"
for words in l5 ""; do
    # shellcheck disable=SC2086
    "$KTO" check a/run.cfg --device $words >"$WORK/log" 2>&1
    status=$?
    ((status == 2)) || fail "--device \"$words\": exit code $status, expected 2"
    grep -q 'there are l4, .* and h200' "$WORK/log" || fail "--device \"$words\" does not name the known devices"
done
