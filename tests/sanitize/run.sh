#!/usr/bin/env bash
# run.sh address|threads BUILD [CTEST ARGUMENT ...]: builds with the preset of that name into BUILD and runs the tests there.
#   address   AddressSanitizer with leaks, and UndefinedBehaviorSanitizer
#   threads   ThreadSanitizer, with Clang and its OpenMP runtime, whose Archer tells it of OpenMP's barriers (package libomp-14-dev)
# In the environment, TARGETS="NAME ..." builds only those. Exit code 77 where the compiler for it is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
kind=$1 build=$2
shift 2
if [[ $kind == threads ]]; then
    printf 'int main(void) {\n#pragma omp parallel\n    {\n    }\n    return 0;\n}\n' >"/tmp/kto-omp-$$.c"
    clang -fopenmp -fsanitize=thread "/tmp/kto-omp-$$.c" -o "/tmp/kto-omp-$$" 2>/dev/null && found=true || found=false
    rm -f "/tmp/kto-omp-$$.c" "/tmp/kto-omp-$$"
    if ! $found; then
        echo "skipped: clang with ThreadSanitizer and OpenMP is not installed"
        exit 77
    fi
fi
cmake -S . -B "$build" --preset "$kind" >/dev/null
# shellcheck disable=SC2086
cmake --build "$build" --parallel "$(nproc)" ${TARGETS:+--target $TARGETS} >"$build/build.log" 2>&1 || { tail -n 30 "$build/build.log" && exit 1; }
# Leaks are told apart by the libraries on their stacks, so these must be whole. Faults are the sanitizer's, not cmocka's.
# faults.c of tests/runs is preloaded before the sanitizer. Archer needs to be told that libraries without instrumentation (oneDNN) are none of its business.
export ASAN_OPTIONS=fast_unwind_on_malloc=0:malloc_context_size=20:handle_segv=2:handle_abort=2:verify_asan_link_order=0
export LSAN_OPTIONS=suppressions=$PWD/tests/sanitize/leaks.txt:print_suppressions=0 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1
exec ctest --test-dir "$build" --output-on-failure --parallel "$(nproc)" "$@"
