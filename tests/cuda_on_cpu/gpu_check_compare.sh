#!/usr/bin/env bash
# gpu_check_compare.sh: `tools/gpu_check --compare` finds what is more than 10 % worse, in the right direction, and nothing else.
cd "$(dirname "$0")/../.." || exit 1
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
report() { # FILE GPU LINE ...: each "STEP|NAME|VALUE|UNIT"
    printf 'device\tfigure\tgpu_name\t%s\t\n' "$2" >"$WORK/$1"
    printf '%s\n' "${@:3}" | sed 's/|/\tfigure\t/; s/|/\t/g' >>"$WORK/$1"
}
failures=0
expect() { # CODE TEXT: of comparing old and new
    tools/gpu_check --compare "$WORK/old" "$WORK/new" >"$WORK/log" 2>&1
    local code=$?
    if ((code != $1)) || ! grep -q "$2" "$WORK/log"; then
        echo "exit code $code, expected $1 and \"$2\":"
        cat "$WORK/new" "$WORK/log"
        failures=$((failures + 1))
    fi
}
report old H9 'step|plain|100|ms' 'step|plain|50|tokens/s' 'trl|plain|100|ms (TRL)' 'kernels|plain, GPU waits|4|% waiting' 'gemm|plain|60|%'
report new H9 'step|plain|109|ms' 'step|plain|46|tokens/s' 'trl|plain|500|ms (TRL)' 'kernels|plain, GPU waits|4.3|% waiting' 'gemm|plain|55|%'
expect 0 '4 figures compared, 0 more'
report new H9 'step|plain|10|ms' 'step|plain|500|tokens/s' 'gemm|plain|90|%'
expect 0 '3 figures compared, 0 more'
report new H9 'step|plain|111|ms'
expect 1 'step: plain: 111 ms, was 100'
report new H9 'step|plain|90|ms' 'step|plain|44|tokens/s'
expect 1 'step: plain: 44 tokens/s, was 50'
report new H9 'kernels|plain, GPU waits|5|% waiting'
expect 1 'GPU waits: 5 % waiting, was 4'
report new H9 'gemm|plain|53|%'
expect 1 'gemm: plain: 53 %, was 60'
report new H9 'step|plain|nan|tokens/s'
expect 1 'nan tokens/s'
report new H9 'gemm|plain|53|ms' 'step|header|53|ms'
expect 2 'no figure in common'
report new H8 'step|plain|100|ms'
expect 2 'not the same GPU'
report new '' 'step|plain|100|ms'
expect 2 'not the same GPU'
# The reports of docs/gpu can be read: each is as good as itself.
for file in docs/gpu/*.tsv; do
    cp "$file" "$WORK/old" && cp "$file" "$WORK/new"
    expect 0 ', 0 more than 10 % worse'
    [[ $file =~ -[0-9]{4}-[0-9]{2}-[0-9]{2}\.tsv$ ]] || failures=$((failures + 1))
done
exit $((failures > 0))
