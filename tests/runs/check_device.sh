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
    for words in 'scratch .* MiB' 'train.micro_batch_tokens' 'fits: ' ' [0-9.]* m*s a step by the roofline' ' steps take [0-9.]* m*s$' 'AdamW '; do
        grep -q "$words" "$WORK/log" || fail "kto check --device $device does not say \"$words\""
    done
done
[[ ! -e $WORK/run ]] || fail "kto check wrote a run"
refused() { # MESSAGE WORD ...
    "$KTO" check a/run.cfg "${@:2}" >"$WORK/log" 2>&1
    local status=$?
    ((status == 2)) || fail "${*:2}: exit code $status, expected 2"
    grep -q -- "$1" "$WORK/log" || fail "${*:2}: does not say \"$1\""
}
refused 'there are l4, .* and h200' --device l5
refused 'there are l4, .* and h200' --device=
refused '--device needs a value' --device
