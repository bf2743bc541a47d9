#!/usr/bin/env bash
# An installed kto: all that belongs to it is there and nothing else, its demo trains from any folder, and it looks for
# its modules where they are installed.
. "${BASH_SOURCE[0]%/*}/common.sh"
unset KTO_MODULE_DIR
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1
prefix=$WORK/prefix
"$CMAKE" --install "$BUILD" --prefix "$prefix" >"$WORK/log" 2>&1 || {
    cat "$WORK/log"
    exit 1
}

there() {
    [[ -s $prefix/$1 ]] || wrong "$1 is not installed"
}
for path in share/kto/configs/demo/{demo.cfg,train.jsonl,eval.jsonl,titles.jsonl,model/model.safetensors} \
    share/kto/configs/tinyllama-l4.cfg share/kto/slurm/{train,sweep}.sbatch share/doc/kto/{README.md,LICENSE,docs/operating.md} \
    share/man/man1/kto.1 share/man/man5/kto.cfg.5 share/bash-completion/completions/kto share/zsh/site-functions/_kto; do
    there $path
done
while read -r name; do there "share/man/man1/kto-${name// /-}.1"; done < <(command_names)
for module in kto_cuda kto_nccl; do
    [[ ! -e $BUILD/$module.so ]] || there lib/kto/$module.so
done
[[ $(ls "$prefix") =~ ^bin[[:space:]](lib[[:space:]])?share$ ]] || wrong "other folders: $(ls "$prefix")"
[[ $(ls "$prefix/bin") == kto ]] || wrong "other programs: $(ls "$prefix/bin")"
if grep -rlI -e "$BUILD" -e "$SOURCE" "$prefix"; then wrong "these name the folder that kto was built in"; fi

mkdir "$WORK/elsewhere" && cd "$WORK/elsewhere" || exit 1
kto=$prefix/bin/kto
demo=$prefix/share/kto/configs/demo/demo.cfg
cmp <("$kto" --version) <("$KTO" --version) || wrong "another version"
run() {
    "$kto" "$@" >"$WORK/log" 2>&1 || {
        wrong "kto $* failed"
        cat "$WORK/log"
    }
}
run check "$demo" device.backend=cpu
run train "$demo" train.max_steps=3 train.eval_steps=0 data.eval= device.backend=cpu
[[ -s runs/demo/adapter/adapter_model.safetensors ]] || wrong "no adapter in runs/demo of the folder that kto was started in"
run sample runs/demo --prompts "$prefix/share/kto/configs/demo/titles.jsonl" --max-tokens 1

mkdir -p "$prefix/lib/kto" && : >"$prefix/lib/kto/kto_cuda.so"
"$kto" check "$demo" device.backend=cuda >"$WORK/log" 2>&1
"$kto" train "$demo" train.output_dir=other device.backend=cuda >"$WORK/log" 2>&1 && wrong "an empty module was loaded"
grep -q '/lib/kto/kto_cuda\.so cannot be loaded' "$WORK/log" || wrong "the module is not looked for in lib/kto: $(cat "$WORK/log")"
: >"$prefix/bin/kto_cuda.so"
"$kto" train "$demo" train.output_dir=other device.backend=cuda >"$WORK/log" 2>&1
grep -q '/bin/kto_cuda\.so cannot be loaded' "$WORK/log" || wrong "the module beside the program is not taken: $(cat "$WORK/log")"
exit $((failures > 0))
