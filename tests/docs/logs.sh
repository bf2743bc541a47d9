#!/usr/bin/env bash
# logs.sh EXAMPLE: runs the code under EXAMPLE's heading in docs/logs.md, as it stands there, beside a run in runs/first, and
# looks for the last loss, as kto log gives it, among the numbers it prints; "live" reads a run that goes on, and its rows are
# compared. Python is KTO_PYTHON, or python3.
. "$(dirname "$0")/../runs/common.sh"
example=$1 page=$GOLDEN/../../docs/logs.md python=${KTO_PYTHON:-python3}
[[ $python == */* ]] && PATH=$(dirname "$python"):$PATH # for examples that call python3

skip() {
    echo "skipped: $1"
    exit 77
}
needs_python() {
    local missing=()
    for package in "$@"; do "$python" -c "import $package" 2>/dev/null || missing+=("$package"); done
    ((${#missing[@]} == 0)) || skip "$python has no ${missing[*]}; set KTO_PYTHON"
}
needs() {
    for tool in "$@"; do command -v "$tool" >/dev/null || skip "$tool is not installed"; done
}
heading="### $example"
case $example in
h5py) needs_python h5py ;;
pandas) needs_python h5py pandas ;;
xarray) needs_python xarray h5netcdf ;;
live)
    needs_python h5py
    heading="## While the run goes on"
    ;;
Octave) needs octave ;;
R)
    needs Rscript
    Rscript -e 'library(hdf5r)' >/dev/null 2>&1 || skip "R has no hdf5r"
    ;;
Julia)
    needs julia
    julia -e 'using HDF5' >/dev/null 2>&1 || skip "Julia has no HDF5.jl"
    ;;
h5dump) needs h5dump h5ls ;;
*) echo "no example $example" && exit 1 ;;
esac

stop_run() {
    kill "$run" 2>/dev/null
    wait "$run" 2>/dev/null
}
if [[ $example == live ]]; then
    cd "$GOLDEN/../.." || exit 1
    "$KTO" train configs/demo/demo.cfg train.output_dir="$WORK/runs/first" train.num_train_epochs=1000 >"$WORK/log" 2>&1 &
    run=$!
    trap 'stop_run; rm -rf "$WORK"' EXIT
    for ((i = 0; i < 300; i++)); do
        (($("$KTO" log "$WORK/runs/first" --csv 2>/dev/null | wc -l) > 2)) && break
        sleep 0.1
    done
else
    train d 1 "$WORK/runs/first"
fi
cd "$WORK" || exit 1
# Each fenced block below the heading becomes a file NUMBER.LANGUAGE.
awk -v heading="$heading" '
    $0 == heading { inside = 1; next }
    inside && !block && /^#/ { inside = 0 }
    inside && !block && /^```[a-z]/ { block = sprintf("%d.%s", ++count, substr($0, 4)); next }
    block && /^```$/ { close(block); block = ""; next }
    block { print > block }
' "$page"
PATH=$(dirname "$KTO"):$PATH
wanted=$("$KTO" log runs/first --csv --group train --metric loss | tail -n 1 | cut -d , -f 4)
blocks=0
for block in [0-9]*.*; do
    [[ -e $block ]] || break
    case $block in
    *.python) "$python" "$block" ;;
    *.octave) octave --no-gui --quiet "$block" ;;
    *.r) Rscript "$block" ;;
    *.julia) julia "$block" ;;
    *.sh) bash -e "$block" ;;
    *) echo "a block of unknown language: $block" >&2 && false ;;
    esac >out 2>err || {
        cat "$block" out err
        echo "block $block under \"$heading\" fails"
        exit 1
    }
    if [[ $example == live ]]; then
        kill -0 "$run" || exit 1
        "$KTO" log runs/first --csv --group train --metric loss >all.csv
        while read -r step loss; do # Python and %.17g write the same number differently
            grep -q ",train,$step," all.csv && awk -F , -v step="$step" -v loss="$loss" '
                $2 == "train" && $3 == step && $4 + 0 == loss + 0 { same = 1 } END { exit !same }' all.csv ||
                echo "step $step: $loss is not the loss of kto log"
        done <out >differences
        (($(sort -u out | wc -l) > 1)) || echo 'no row came while the file was open' >>differences
        [[ -s differences ]] && cat out differences && exit 1
        blocks=$((blocks + 1))
        continue
    fi
    # Printed digits differ; 1e-4 relative is what the example with the fewest shows.
    tr -c '0-9.eE+\n-' ' ' <out | awk -v wanted="$wanted" '
        { for (i = 1; i <= NF; i++) { d = $i - wanted; if ($i ~ /^[0-9]/ && (d < 0 ? -d : d) <= 1e-4 * wanted) found = 1 } }
        END { exit !found }' || {
        cat "$block" out err
        echo "block $block under \"$heading\" does not print the last loss, $wanted"
        exit 1
    }
    blocks=$((blocks + 1))
done
((blocks > 0)) || {
    echo "docs/logs.md has no example under \"$heading\""
    exit 1
}
echo "$blocks examples, last loss $wanted"
