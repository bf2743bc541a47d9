#!/usr/bin/env bash
# client.sh SCRIPT MODULE: a Python script of this folder against `kto serve`, by the first Python that has MODULE, KTO_PYTHON
# before the others. Exit code 77 where none has, or where the script says that something is missing.
. "$(dirname "$0")/../runs/common.sh"
cd "$GOLDEN/../.." || exit 1
python=
for candidate in ${KTO_PYTHON:-} python3 /usr/bin/python3; do
    "$candidate" -c "import $2" 2>/dev/null && python=$candidate && break
done
[[ -n $python ]] || {
    echo "skipped: Python's $2 is not installed"
    exit 77
}
"$KTO" train configs/demo/demo.cfg train.output_dir="$WORK/run" train.max_steps=2 train.eval_steps=0 device.backend=cpu \
    >"$WORK/log" 2>&1 || { cat "$WORK/log" && exit 1; }
"$KTO" serve "$WORK/run" --port 0 >"$WORK/server.log" 2>&1 &
server=$!
trap 'kill -KILL $server 2>/dev/null; rm -rf "$WORK"' EXIT
for ((i = 0; i < 200; i++)); do
    url=$(grep -o 'http://[^ ]*/' "$WORK/server.log") && break
    sleep 0.1
done
HOME=$WORK "$python" "tests/serve/$1" "$url" $server ${SCREENSHOTS:+--screenshots "$SCREENSHOTS"}
