#!/usr/bin/env bash
# page.sh: the page of `kto serve` in headless Chromium (browser.py). Exit code 77 where Chromium or Selenium is missing.
. "$(dirname "$0")/../runs/common.sh"
cd "$GOLDEN/../.." || exit 1
python=
for candidate in python3 /usr/bin/python3; do
    "$candidate" -c 'import selenium' 2>/dev/null && python=$candidate && break
done
[[ -n $python ]] || {
    echo "skipped: python3-selenium is not installed"
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
HOME=$WORK "$python" tests/serve/browser.py "$url" $server ${SCREENSHOTS:+--screenshots "$SCREENSHOTS"}
