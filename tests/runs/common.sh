# shellcheck shell=bash
# What the run scripts share. Needs KTO (the program), COMPARE_GOLDEN, COMPARE_RUNS and GOLDEN (tests/golden) in the
# environment; makes a scratch folder WORK that goes away at the end.
set -u
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_plm_rsh_agent=false # all ranks are here, and there may be no ssh
export OMPI_MCA_hwloc_base_binding_policy=none OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export OMP_WAIT_POLICY=passive # tests share the machine: waiting threads must not spin
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
cd "$GOLDEN" || exit 1

# train NAME RANKS OUTPUT_DIR [key=value ...]: one golden run's configuration, trained on RANKS ranks.
train() {
    local name=$1 ranks=$2 output=$3
    shift 3
    if ! mpirun -n "$ranks" "$KTO" train "$name/run.cfg" train.output_dir="$output" "$@" >"$WORK/log" 2>&1; then
        cat "$WORK/log"
        echo "kto train $name on $ranks ranks failed"
        exit 1
    fi
}

now() { echo $(($(date +%s%N) / 1000000)); } # milliseconds

# wait_for_end LAUNCHER RUN_DIR SINCE: until the launcher and all ranks have ended, with exit code $status, $milliseconds after
# SINCE.
wait_for_end() {
    wait "$1"
    status=$?
    while pgrep -f -- "^$KTO train .* train.output_dir=$2 " >/dev/null; do sleep 0.05; done
    milliseconds=$(($(now) - $3))
}

# report WHAT RUN_DIR: the figures of a fault, after wait_for_end.
report() {
    echo "$1: exit code $status, all ranks ended after $milliseconds ms; left: $(cd "$2" && find . -type f ! -name 'reference-*' |
        sed -E 's|^./||; s|step-0*([0-9]+).h5|\1|' | sort -V | tr '\n' ' ')"
}
