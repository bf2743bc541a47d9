#!/usr/bin/env bash
# tools.sh plot|tensorboard: tools/plot_log.py draws a run; tools/log_to_tensorboard.py follows one to its end and loses nothing.
# Python is KTO_PYTHON, or python3.
. "$(dirname "$0")/../runs/common.sh"
tool=$1 python=${KTO_PYTHON:-python3} root=$(cd "$GOLDEN/../.." && pwd)
skip() {
    echo "skipped: $1"
    exit 77
}
fail() {
    cat "$WORK/out"
    echo "$1"
    exit 1
}
command -v "$python" >/dev/null || skip "$python is not installed; set KTO_PYTHON"
needs_python() {
    for package in "$@"; do
        "$python" -c "import $package" 2>/dev/null || skip "$python has no $package; set KTO_PYTHON"
    done
}
# says CODE TEXT WORDS ...: the tool ends with that code and one line with that text.
says() {
    local code=$1 text=$2 got
    shift 2
    "$python" "$@" >"$WORK/out" 2>&1
    got=$?
    ((got == code)) && [[ $(wc -l <"$WORK/out") == 1 ]] && grep -q "$text" "$WORK/out" || fail "not code $code and one line with: $text"
}
# Without the package: a folder in front in which importing it fails.
missing() { # SCRIPT PACKAGE ...
    mkdir -p "$WORK/none"
    for package in "${@:2}"; do echo "raise ImportError(name='$package')" >"$WORK/none/$package.py"; done
    PYTHONPATH=$WORK/none says 1 "^[a-z_]*: $2 is missing; install it: python3 -m pip install " "$1" run --out out
    rm -r "$WORK/none"
}
case $tool in
plot)
    script=$root/tools/plot_log.py
    missing "$script" h5py
    needs_python h5py matplotlib
    missing "$script" matplotlib
    train d 1 "$WORK/a" train.eval_steps=5
    train d 1 "$WORK/b" train.max_steps=3 train.eval_steps=0
    cd "$WORK" || exit 1
    "$python" "$script" a --out one.png >out 2>&1 || fail "no picture"
    [[ $(head -c 4 one.png | tail -c 3) == PNG ]] || fail "one.png is none"
    "$python" "$script" a/metrics.h5 b --label x --label y --smooth 0 --metric kl --metric grad_norm --metric loss --out more.svg \
        >out 2>&1 || fail "no picture of two runs"
    grep -q '</svg>' more.svg || fail "more.svg is none"
    says 3 'nowhere: cannot be read as a run' "$script" nowhere --out x.png
    says 2 'there is no metric lost; there are step, epoch' "$script" a --metric lost --out x.png
    says 2 '1 runs have 2 labels' "$script" a --label x --label y --out x.png
    says 2 'x.nothing: ' "$script" a --out x.nothing
    ;;
tensorboard)
    script=$root/tools/log_to_tensorboard.py
    missing "$script" h5py
    needs_python h5py tensorboardX tensorboard
    missing "$script" tensorboardX torch
    cd "$root" || exit 1
    "$KTO" train configs/demo/demo.cfg train.output_dir="$WORK/run" train.max_steps=30 train.eval_steps=10 >"$WORK/log" 2>&1 &
    trainer=$!
    until [[ -e $WORK/run/config.cfg ]]; do
        kill -0 $trainer || fail "the run failed"
        sleep 0.05
    done
    timeout 200 "$python" "$script" "$WORK/run" --out "$WORK/tb" --follow >"$WORK/out" 2>&1 || fail "--follow ends with $?"
    wait $trainer || fail "the run failed beside its reader"
    grep -q '30 steps and 3 evaluations are in' "$WORK/out" || fail "not all rows are counted"
    "$python" - "$WORK" <<'PYTHON' >"$WORK/out" 2>&1 || fail "TensorBoard reads other values"
import sys, h5py, numpy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1] + "/tb/run", size_guidance={"scalars": 0})
events.Reload()
with h5py.File(sys.argv[1] + "/run/metrics.h5") as file:
    for group, name, tag in (("train", "loss", "train/loss"), ("train", "rewards_margins", "train/rewards/margins"),
                             ("eval", "loss", "eval/loss"), ("train", "step_seconds", "train/step_seconds")):
        wanted = {int(s): numpy.float32(v) for s, v in zip(file[group]["step"], file[group][name]) if numpy.isfinite(v)}
        got = [(e.step, numpy.float32(e.value)) for e in events.Scalars(tag)]
        assert len(got) == len(wanted) and dict(got) == wanted, tag
PYTHON
    says 0 '30 steps and 3 evaluations are in' "$script" "$WORK/run" --out "$WORK/tb" # again: anew, not twice
    (($(find "$WORK/tb/run" -type f | wc -l) == 1)) || fail "events lie there twice"
    says 2 'nowhere: no such run' "$script" "$WORK/nowhere" --out "$WORK/tb"
    touch "$WORK/tb/run/mine"
    says 2 'holds other files than events' "$script" "$WORK/run" --out "$WORK/tb"
    ;;
*) exit 2 ;;
esac
