#!/usr/bin/env bash
# export_transformers.sh: what kto export writes, read by transformers and PEFT: the same greedy text as kto's, the weights
# bit for bit as the definition says, logits as near as the dtypes allow. Needs a Python (KTO_PYTHON, default python3)
# with peft, transformers 5, torch and sentencepiece.
. "$(dirname "$0")/common.sh"
python=${KTO_PYTHON:-python3}
"$python" -c 'import peft, torch, sentencepiece, transformers; assert int(transformers.__version__.split(".")[0]) >= 5' 2>/dev/null || {
    echo "skipped: $python has no peft, transformers (5 or newer), torch and sentencepiece; set KTO_PYTHON"
    exit 77
}
cd "$GOLDEN/../.." || exit 1
run=$WORK/run
must() {
    "$@" >>"$WORK/log" 2>&1 || {
        cat "$WORK/log"
        echo "$* failed"
        exit 1
    }
}
must mpirun -n 2 "$KTO" train configs/demo/demo.cfg train.output_dir="$run"
must "$KTO" export "$run" --format peft --out "$WORK/peft" --base-name owner/reviewer
must "$KTO" export "$run" --format merged --out "$WORK/stored"
must "$KTO" export "$run" --format merged --out "$WORK/wide" --dtype float32 --shard-bytes 500000
head -n 20 configs/demo/titles.jsonl >"$WORK/prompts.jsonl"
sed "s#configs/demo/model#$WORK/stored#" "$run/config.cfg" >"$WORK/stored.cfg"
"$KTO" sample "$run" --prompts "$WORK/prompts.jsonl" --greedy --max-tokens 64 >"$WORK/tuned.jsonl" || exit 1
"$KTO" sample "$WORK/stored.cfg" --base --prompts "$WORK/prompts.jsonl" --greedy --max-tokens 64 >"$WORK/stored.jsonl" || exit 1
"$python" - "$WORK" configs/demo/model <<'PYTHON'
import glob, json, sys
import huggingface_hub, peft, torch, transformers
from safetensors.torch import load_file

work, base = sys.argv[1], sys.argv[2]
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

def load(path, dtype):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()

# Weights: merged ones by the definition in fp64, rounded to fp32 and then to the stored dtype; the others as they were.
adapter = load_file(work + "/peft/adapter_model.safetensors")
stored = load_file(work + "/stored/model.safetensors")
wide = {}
for path in glob.glob(work + "/wide/*.safetensors"):
    wide.update(load_file(path))
config = json.load(open(work + "/peft/adapter_config.json"))
was = load_file(base + "/model.safetensors")
assert set(was) == set(stored) == set(wide)
merged = 0
for name, value in was.items():
    a = adapter.get("base_model.model." + name.removesuffix("weight") + "lora_A.weight")
    want = value.float()
    if a is not None:
        b = adapter["base_model.model." + name.removesuffix("weight") + "lora_B.weight"]
        # Sums in another order than kto's may round to another fp32 neighbour, and that to another bf16 one.
        want = (value.double() + config["lora_alpha"] / config["r"] * (b.double() @ a.double())).float()
        merged += 1
    assert wide[name].dtype == torch.float32 and stored[name].dtype == value.dtype
    assert (wide[name] - want).abs().max() <= 2**-23 * want.abs().max(), name
    assert torch.equal(stored[name], wide[name].to(value.dtype)), name
assert 2 * merged == len(adapter) and merged == 21, merged

# The heads of the model cards, as the Hub's own library reads them.
card = huggingface_hub.ModelCard.load(work + "/peft/README.md").data.to_dict()
assert (card["base_model"], card["library_name"], card["tags"]) == ("owner/reviewer", "peft", ["kto.c", "kto", "lora"]), card
card = huggingface_hub.ModelCard.load(work + "/stored/README.md").data.to_dict()
assert "base_model" not in card and card["library_name"] == "transformers", card

tokenizer = transformers.AutoTokenizer.from_pretrained(work + "/stored")
models = {
    "peft": peft.PeftModel.from_pretrained(load(base, torch.float32), work + "/peft").eval(),
    "wide": load(work + "/wide", "auto"),
    "stored": load(work + "/stored", torch.float32),
}
assert models["wide"].dtype == torch.float32 and load(work + "/stored", "auto").dtype == torch.bfloat16
differences = 0
worst = {name: 0.0 for name in models}
largest = 0.0
for name, model in models.items():
    for line in open(work + ("/stored.jsonl" if name == "stored" else "/tuned.jsonl")):
        row = json.loads(line)
        text = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=64, eos_token_id=2, pad_token_id=2)
        theirs = tokenizer.decode(ids[0, inputs.input_ids.shape[1]:], skip_special_tokens=True)
        if theirs.removeprefix("\n") != row["completion"]:
            differences += 1
            print(name + ":", repr(theirs), "\nkto: ", repr(row["completion"]))
        with torch.no_grad():
            logits, right = model(ids).logits, models["peft"](ids).logits
        worst[name] = max(worst[name], (logits - right).abs().max().item())
        largest = max(largest, right.abs().max().item())
print("differing texts:", differences, " largest logit:", largest, " off by at most:", worst)
# float32: some hundred roundings of 2^-24 on the way to a logit. bfloat16: each weight is off by up to 2^-9 of itself, in
# the residual stream of three layers and in the head; they mostly cancel, so twice a single one's share of 2^-8 is ample.
assert worst["wide"] <= 100 * 2**-24 * largest, worst
assert 0 < worst["stored"] <= 2 * 2**-8 * largest, worst
sys.exit(differences > 0)
PYTHON
