#!/usr/bin/env bash
# peft.sh: an adapter that kto trained, loaded by PEFT, answers greedily with the same text as kto. Needs a Python
# (KTO_PYTHON, default python3) with peft, transformers, torch and sentencepiece.
. "$(dirname "$0")/common.sh"
python=${KTO_PYTHON:-python3}
"$python" -c 'import peft, transformers, torch, sentencepiece' 2>/dev/null || {
    echo "skipped: $python has no peft, transformers, torch and sentencepiece; set KTO_PYTHON"
    exit 77
}
train b 1 "$WORK/run" train.max_steps=10
head -n 8 b/rows.jsonl >"$WORK/prompts.jsonl"
"$KTO" sample "$WORK/run" --prompts "$WORK/prompts.jsonl" --greedy --max-tokens 24 >"$WORK/ours.jsonl" || exit 1
"$python" - "$WORK" <<'PYTHON'
import json, sys
import peft, sentencepiece, torch, transformers
from tokenizers import decoders

work = sys.argv[1]
tokenizer = sentencepiece.SentencePieceProcessor(model_file="tiny-model/tokenizer.model")
# As the fast Llama tokenizer decodes: bytes that are no UTF-8 become one replacement character each.
decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                             decoders.Strip(" ", 1, 0)])
model = transformers.LlamaForCausalLM.from_pretrained("tiny-model", dtype=torch.float32)
model = peft.PeftModel.from_pretrained(model, work + "/run/adapter").eval()
with torch.no_grad():
    moved = any(p.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)
assert moved, "the adapter is empty"
differences = 0
for line in open(work + "/ours.jsonl"):
    row = json.loads(line)
    prompt = [1] + tokenizer.encode(row["prompt"])
    ids = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
                         max_new_tokens=24, eos_token_id=2, pad_token_id=2)[0, len(prompt):].tolist()
    ids = ids[:ids.index(2)] if 2 in ids else ids
    theirs = decoder.decode([tokenizer.id_to_piece(i) for i in ids if not tokenizer.is_control(i)])
    if theirs != row["completion"]:
        differences += 1
        print("peft:", repr(theirs), "\nkto: ", repr(row["completion"]))
sys.exit(differences > 0)
PYTHON
