#!/usr/bin/env python3
"""Makes the fixtures under tests/golden that only Python can make: the tiny model, and what TRL and transformers say.

    make_golden.py [--out tests/golden] [tiny-model] [model] [model/NAME] [RUN ...]
                                                                                    (default: everything but long)

Run by maintainers with torch, transformers, peft, trl 1.16 and sentencepiece; nothing in the build or the tests needs it.
All seeds are fixed: the same library versions on the same machine give the same bytes.

tiny-model/     a random Llama with its own SentencePiece tokenizer, laid out like TinyLlama-1.1B-Chat-v1.0
a b c d long    one training run each: run.cfg, rows, starting adapter, and per step what TRL's KTOTrainer computed
dpo dpo-chat    the same on pairs, from TRL's DPOTrainer
qwen2 ...       the same as b, shorter, with a model of each family of FAMILIES
model/          forward values and LoRA gradients of the full model, from transformers (layout: model/README.md)
"""

import argparse
import io
import json
import math
import os
import random
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from safetensors.torch import save as to_safetensors

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# --- text -------------------------------------------------------------------------------------------------------------

NOUNS = (
    "river garden lantern teacher harbour engine violin winter market orchard bridge letter kitchen planet forest "
    "shadow window sailor thunder pebble castle camera blanket mirror ladder compass feather island candle railway"
).split()
VERBS = "finds builds repairs forgets paints carries answers measures follows opens guards counts borrows".split()
ADJECTIVES = "quiet bright broken patient hollow golden distant careful sudden wooden gentle narrow".split()
HEADERS = [
    "You are a careful assistant. Answer in one sentence.\n",
    "You are a careful assistant. Answer in one word.\n",
    "Continue the story in the same voice, and keep it short. ",
    "",
]
GOOD = ["Sure: ", "Yes, ", ""]
BAD = ["No. ", "Hm... ", ""]


def sentence(rng):
    parts = ["the", rng.choice(ADJECTIVES), rng.choice(NOUNS), rng.choice(VERBS), "a", rng.choice(NOUNS)]
    if rng.random() < 0.3:
        parts += ["near", "the", rng.choice(NOUNS)]
    return " ".join(parts)


def question(rng, header):
    kind = rng.randrange(4)
    if kind == 0:
        text = f"Why is it that {sentence(rng)}?"
    elif kind == 1:
        text = f"Question {rng.randrange(100)}: {sentence(rng)}, true or false? Answer:"
    elif kind == 2:
        text = f"Once {sentence(rng)}, and then "  # the last space merges into the completion
    else:
        text = f"{rng.choice(NOUNS).capitalize()} {rng.choice(NOUNS)}?"
    return header + text


def answer(rng, label):
    """Short: a log-probability is a sum over the completion, and at -64 one unit in the last place of TRL's fp32 is 4e-6."""
    text = rng.choice(GOOD if label else BAD) + f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    text += rng.choice([".", "!", "", "", "", " na\u00efve", " \U0001f642"])
    return text if rng.random() < 0.5 else " " + text


def tokenizer_texts():
    rng = random.Random(7)
    texts = [question(rng, rng.choice(HEADERS)).replace("\n", " ") + answer(rng, rng.random() < 0.5) for _ in range(1500)]
    return texts + ["<|user|> <|assistant|> <|system|> <|user|>"] * 20


def save_file(tensors, path):
    path.write_bytes(to_safetensors({k: v.contiguous() for k, v in tensors.items()}, metadata={"format": "pt"}))


# --- tiny model -------------------------------------------------------------------------------------------------------

# TinyLlama-1.1B-Chat-v1.0's own template, byte for byte.
ZEPHYR_TEMPLATE = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)


def model_config(vocab, hidden=64, layers=3, heads=4, kv_heads=2, intermediate=128, **more):
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": 2048,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": vocab,
    }
    config.update(more)
    return config


def write_model(folder, config, seed):
    """Random weights, wide enough that attention and the vocabulary are not flat; stored as bfloat16."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name:
            value = 1.0 + 0.2 * noise
        elif name.endswith("bias"):
            value = 0.3 * noise
        elif "embed_tokens" in name:
            value = 0.5 * noise if not config["tie_word_embeddings"] else 0.25 * noise
        elif name == "lm_head.weight":
            value = 0.1 * noise
        else:
            value = noise * (1.3 / math.sqrt(tensor.shape[1]))
        tensors[name] = value.to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "model.safetensors")


def make_tiny_model(folder):
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    # Llama's settings.
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tokenizer_texts()), model_writer=model, model_type="bpe", vocab_size=512, byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, character_coverage=0.999, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "add_bos_token": True,
                "add_eos_token": False,
                "bos_token": "<s>",
                "chat_template": ZEPHYR_TEMPLATE,
                "clean_up_tokenization_spaces": False,
                "eos_token": "</s>",
                "legacy": False,
                "model_max_length": 2048,
                "pad_token": "</s>",
                "padding_side": "right",
                "sp_model_kwargs": {},
                "tokenizer_class": "LlamaTokenizer",
                "unk_token": "<unk>",
                "use_default_system_prompt": False,
            },
            indent=2,
        )
        + "\n"
    )
    special = {
        name: {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        for name, text in [("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "</s>"), ("unk_token", "<unk>")]
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    write_model(folder, model_config(512), seed=11)


def fast_tokenizer(folder):
    """The fast tokenizer that transformers makes of a Llama tokenizer.model (TinyLlama's tokenizer.json), built by hand:
    BPE ranks from the piece scores, every space and the start of each piece of text become U+2581."""
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    vocab = {pieces.id_to_piece(i): i for i in range(pieces.vocab_size())}
    merges = []
    for piece, index in vocab.items():
        if pieces.is_byte(index) or pieces.is_control(index) or pieces.is_unknown(index):
            continue
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        splits.sort(key=lambda split: (vocab[split[0]], vocab[split[1]]))
        merges += [(split, pieces.get_score(index)) for split in splits]
    merges.sort(key=lambda merge: merge[1], reverse=True)
    backend = Tokenizer(
        models.BPE(vocab, [split for split, _ in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True, dropout=None)
    )
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in ["<unk>", "<s>", "</s>"]])
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocab["<s>"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>", padding_side="right"
    )
    tokenizer.chat_template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    return tokenizer


# --- rows -------------------------------------------------------------------------------------------------------------


def distinct_neighbours(count, batch, make, apart=1):
    """`count` values of make(), neighbours (cyclically) within a batch distinct: there our y' is TRL's rotation by one.
    apart: equal values are further apart than this, so that neighbours stay distinct when rows between them are dropped."""
    values = []
    while len(values) < count:
        value = make()
        if value in values[-apart:]:
            continue
        first = len(values) // batch * batch
        last = len(values) == min(first + batch, count) - 1
        if len(values) > first and (value == values[-1] or (last and value == values[first])):
            continue
        values.append(value)
    return values


def text_rows(seed, count, batch, labels, pool=0, long_share=0.0, apart=1):
    rng = random.Random(seed)
    common = [question(rng, HEADERS[i % 2]) for i in range(pool)]

    def prompt():
        if common and rng.random() < 0.5:
            return rng.choice(common)
        text = question(rng, rng.choice(HEADERS))
        if rng.random() < long_share:
            text = " ".join(sentence(rng) for _ in range(rng.randrange(1, 5))) + ". " + text
        return text

    prompts = distinct_neighbours(count, batch, prompt, apart)
    return [
        {"prompt": text, "completion": answer(rng, label), "label": label}
        for text, label in zip(prompts, [labels(i, rng) for i in range(count)])
    ]


def chat_rows(seed, count, batch):
    rng = random.Random(seed)
    system = {"role": "system", "content": "You are a friendly chatbot."}

    def prompt():
        messages = [system] if rng.random() < 0.6 else []
        if rng.random() < 0.3:
            messages = messages + [
                {"role": "user", "content": sentence(rng)},
                {"role": "assistant", "content": rng.choice(GOOD) + sentence(rng)},
            ]
        return messages + [{"role": "user", "content": question(rng, "")}]

    rows = []
    for messages in distinct_neighbours(count, batch, prompt):
        label = rng.random() < 0.5
        rows.append({"prompt": messages, "completion": [{"role": "assistant", "content": answer(rng, label)}], "label": label})
    return rows


def paired_rows(seed, count, batch):
    rng = random.Random(seed)
    prompts = distinct_neighbours(count, batch, lambda: question(rng, rng.choice(HEADERS)))
    return [{"prompt": text, "chosen": answer(rng, True), "rejected": answer(rng, False)} for text in prompts]


def text_pairs(seed, count, batch, pool, long_share):
    """Some prompts come several times, some are long; where one answer merges with the prompt's end and the other does not,
    the two seams differ."""
    prompts = [row["prompt"] for row in text_rows(seed, count, batch, alternate, pool=pool, long_share=long_share)]
    rng = random.Random(seed + 1000)
    prompts = [text.rstrip() + rng.choice(["", " "]) for text in prompts]
    return [{"prompt": text, "chosen": answer(rng, True), "rejected": answer(rng, False)} for text in prompts]


def chat_pairs(seed, count, batch):
    rng = random.Random(seed + 1000)
    rows = []
    for row in chat_rows(seed, count, batch):
        answers = {name: [{"role": "assistant", "content": answer(rng, name == "chosen")}] for name in ("chosen", "rejected")}
        rows.append({"prompt": row["prompt"]} | answers)
    return rows


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


# --- runs -------------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One golden run. The defaults are those of our configuration, so that run.cfg shows what the run is about."""

    name: str
    model: str = "tiny-model"
    rows: callable = None
    rows_of: str = ""  # another run's rows instead
    eval_rows: callable = None
    targets: list = field(default_factory=lambda: ["q_proj", "v_proj"])
    r: int = 4
    alpha: float = 8.0
    start_seed: int = 1
    start_b: float = 0.0  # standard deviation of B in the starting adapter
    loss_type: str = "kto"
    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    max_length: int = 1024
    batch: int = 8
    max_steps: int = -1
    epochs: float = 1.0
    learning_rate: float = 5e-4
    scheduler: str = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    eval_steps: int = 0


def alternate(i, rng):
    return rng.random() < 0.5


# Small random models of other families than Llama: name, transformers' class, and what differs from its defaults.
FAMILIES = [
    ("qwen2", "Qwen2ForCausalLM", dict(heads=4, kv_heads=2)),
    ("qwen3", "Qwen3ForCausalLM", dict(heads=2, kv_heads=1, head_dim=12)),
    ("granite", "GraniteForCausalLM", dict(heads=4, kv_heads=2, embedding_multiplier=3.0, residual_multiplier=0.6,
                                           attention_multiplier=0.2, logits_scaling=0.75)),
    ("smollm3", "SmolLM3ForCausalLM", dict(heads=4, kv_heads=2, no_rope_layers=[0, 1])),
    ("olmo2", "Olmo2ForCausalLM", dict(heads=4, kv_heads=2)),
]  # fmt: skip


def family_config(architecture, vocab, hidden, layers, intermediate, heads, kv_heads, **more):
    """config.json as transformers writes it."""
    import transformers

    kind = getattr(transformers, architecture.replace("ForCausalLM", "Config"))
    config = kind(
        vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers, intermediate_size=intermediate,
        num_attention_heads=heads, num_key_value_heads=kv_heads, bos_token_id=1, eos_token_id=2, pad_token_id=None,
        architectures=[architecture], dtype="bfloat16", **more,
    )  # fmt: skip
    return json.loads(config.to_json_string())


RUNS = [
    # q,v targets, B = 0: z0 starts at 0 and stays small.
    Run("a", rows=lambda: text_rows(101, 64, 8, alternate, pool=6), max_steps=30, learning_rate=1e-3),
    # Seven targets, starting away from zero so that z0 > 0; rows dropped and cut by max_length; warmup, weight decay.
    Run(
        "b", rows=lambda: text_rows(102, 84, 8, alternate, pool=18, long_share=0.5, apart=16),
        eval_rows=lambda: text_rows(112, 20, 8, alternate, long_share=0.3), targets=SEVEN, start_b=0.07, start_seed=6,
        desirable_weight=1.33, max_length=48, max_steps=30, learning_rate=1e-3, warmup_steps=5, weight_decay=0.1, eval_steps=10,
    ),
    # apo_zero_unpaired, odd batch, messages through the chat template.
    Run(
        "c", rows=lambda: chat_rows(103, 70, 7), targets=["q_proj", "k_proj", "o_proj", "down_proj"], start_b=0.02, start_seed=3,
        loss_type="apo_zero_unpaired", undesirable_weight=0.8, batch=7, max_steps=30, learning_rate=1e-3, scheduler="constant",
    ),
    # Clipping at every step; the third batch has one class only, the last two rows; two epochs, linear schedule.
    Run(
        "d", rows=lambda: text_rows(104, 58, 4, lambda i, rng: i // 4 == 2 or (i // 4 != 5 and rng.random() < 0.5)),
        eval_rows=lambda: paired_rows(114, 7, 4), targets=["v_proj", "o_proj", "gate_proj", "up_proj"], r=2, alpha=4.0,
        beta=0.3, batch=4, epochs=2.0, learning_rate=2e-3, scheduler="linear", max_grad_norm=0.05, eval_steps=15,
    ),
    Run("long", rows_of="a", max_steps=500),
    # DPO, B = 0: prompts that come several times, differing seams, pairs dropped and cut, a last batch of one pair.
    Run(
        "dpo", rows=lambda: text_pairs(105, 70, 8, pool=10, long_share=0.5), eval_rows=lambda: text_pairs(115, 15, 8, 0, 0.3),
        loss_type="dpo", max_length=48, max_steps=30, learning_rate=1e-3, eval_steps=10,
    ),
    # DPO away from B = 0, odd batch, messages, clipping at every step, warmup, weight decay, two epochs.
    Run(
        "dpo-chat", rows=lambda: chat_pairs(106, 75, 5), eval_rows=lambda: chat_pairs(116, 10, 5),
        targets=["k_proj", "o_proj", "gate_proj", "down_proj"], r=2, alpha=4.0, start_b=0.05, start_seed=8, loss_type="dpo",
        beta=0.4, batch=5, epochs=2.0, learning_rate=2e-3, scheduler="linear", warmup_steps=4, weight_decay=0.1,
        max_grad_norm=0.5, eval_steps=15,
    ),
] + [
    # Run b's rows and settings, shorter, with a model of each other family. (From seed 6, a coordinate of OLMo 2's has a
    # first gradient that is rounding alone, which AdamW makes a whole step of.)
    Run(
        name, model=f"{name}/model", rows_of="b", targets=SEVEN, start_b=0.07, start_seed=7 if name == "olmo2" else 6,
        max_length=48, max_steps=12, learning_rate=1e-3,
    )
    for name, _, _ in FAMILIES
]

CONFIG = """# Golden run ({name}): made by tools/make_golden.py, which ran TRL's {trainer} on the same rows.
# Paths are relative to tests/golden, the directory the tests run it from.
model:  {{ path = "{model}"; dtype = "float32"; }};
data:   {{ train = "{rows}"; eval = "{eval}"; max_length = {max_length}; order = "sequential"; }};
lora:   {{ r = {r}; alpha = {alpha}; target_modules = [{targets}]; init = "{name}/adapter_start"; }};
kto:    {{ loss_type = "{loss_type}"; beta = {beta}; desirable_weight = {desirable_weight}; undesirable_weight = {undesirable_weight}; }};
train:  {{ output_dir = "run-{name}"; global_batch_size = {batch}; num_train_epochs = {epochs}; max_steps = {max_steps};
          learning_rate = {learning_rate!r}; lr_scheduler_type = "{scheduler}"; warmup_steps = {warmup_steps};
          weight_decay = {weight_decay}; max_grad_norm = {max_grad_norm}; eval_steps = {eval_steps}; }};
device: {{ backend = "cpu"; comm = "mpi"; }};
"""

# TRL's names of our columns.
COLUMNS = {
    "loss": "loss", "kl": "kl", "grad_norm": "grad_norm", "learning_rate": "learning_rate", "entropy": "entropy",
    "num_tokens": "num_tokens", "rewards_chosen": "rewards/chosen", "rewards_rejected": "rewards/rejected",
    "rewards_margins": "rewards/margins", "logps_chosen": "logps/chosen", "logps_rejected": "logps/rejected",
    "logits_chosen": "logits/chosen", "logits_rejected": "logits/rejected", "epoch": "epoch", "rows": "rows",
    "rows_chosen": "rows_chosen",
}  # fmt: skip
DPO_COLUMNS = {ours: theirs for ours, theirs in COLUMNS.items() if ours != "kl"} | {"rewards_accuracies": "rewards/accuracies"}


def lora_config(run):
    from peft import LoraConfig

    return LoraConfig(r=run.r, lora_alpha=run.alpha, lora_dropout=0.0, target_modules=run.targets, task_type="CAUSAL_LM")


def start_adapter(names_and_shapes, run):
    """A as PEFT draws it (uniform, bound 1/sqrt(in)), B zero or normal with deviation start_b."""
    generator = torch.Generator().manual_seed(run.start_seed)
    tensors = {}
    for name, shape in sorted(names_and_shapes.items()):
        if "lora_A" in name:
            bound = 1.0 / math.sqrt(shape[1])
            tensors[name] = (torch.rand(shape, generator=generator) * 2 - 1) * bound
        else:
            tensors[name] = torch.randn(shape, generator=generator) * run.start_b
    return tensors


def write_adapter(folder, config, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    config.base_model_name_or_path = "tiny-model"
    config.inference_mode = True
    targets, config.target_modules = config.target_modules, sorted(config.target_modules)
    config.save_pretrained(folder)
    config.target_modules = targets
    save_file(tensors, folder / "adapter_model.safetensors")


def train_with_trl(out, run, attention="sdpa", pad_to=None):
    """Runs TRL. Returns (golden columns and facts, starting adapter, final adapter, LoRA config)."""
    from datasets import load_dataset
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    dpo = run.loss_type == "dpo"

    class Recorder(DPOTrainer if dpo else KTOTrainer):
        """Keeps every step's numbers before anything rounds them."""

        def __init__(self, *args, **kwargs):
            self.steps, self.evals, self.step = [], [], {}
            super().__init__(*args, **kwargs)

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if model.training:
                pairs = len(inputs["input_ids"]) // 2
                self.step = {
                    "loss": float(loss.detach()),
                    "learning_rate": self.optimizer.param_groups[0]["lr"],
                    "rows": pairs if dpo else len(inputs["label"]),
                    "rows_chosen": pairs if dpo else int(inputs["label"].sum()),
                }
            return loss

        def log(self, logs, start_time=None):
            super().log(logs, start_time)
            if "eval_loss" in logs:
                self.evals.append({k.removeprefix("eval_"): v for k, v in logs.items()} | {"step": self.state.global_step})
            elif "grad_norm" in logs:
                self.steps.append(logs | self.step | {"step": self.state.global_step, "epoch": self.state.epoch})

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tokenizer = fast_tokenizer(out / "tiny-model")
    model = AutoModelForCausalLM.from_pretrained(out / run.model, dtype=torch.float32, attn_implementation=attention)
    folder = out / run.name

    def dataset(path):
        return load_dataset("json", data_files=str(path), split="train", cache_dir=scratch)

    with tempfile.TemporaryDirectory() as scratch:
        evaluation = dataset(folder / "eval.jsonl") if run.eval_rows else None
        loss = dict(loss_type="sigmoid") if dpo else dict(
            loss_type=run.loss_type, desirable_weight=run.desirable_weight, undesirable_weight=run.undesirable_weight
        )  # fmt: skip
        args = (DPOConfig if dpo else KTOConfig)(
            output_dir=scratch, bf16=False, fp16=False, use_cpu=True, gradient_checkpointing=False, report_to="none",
            per_device_train_batch_size=run.batch, per_device_eval_batch_size=run.batch, beta=run.beta, **loss,
            max_length=run.max_length, num_train_epochs=run.epochs, max_steps=run.max_steps, learning_rate=run.learning_rate,
            lr_scheduler_type=run.scheduler, warmup_steps=run.warmup_steps, weight_decay=run.weight_decay,
            max_grad_norm=run.max_grad_norm, optim="adamw_torch", train_sampling_strategy="sequential", logging_steps=1,
            save_strategy="no", eval_strategy="steps" if evaluation else "no", eval_steps=run.eval_steps or None,
            disable_tqdm=True, pad_to_multiple_of=pad_to, seed=42,
        )  # fmt: skip
        rows_file = out / (run.rows_of or run.name) / "rows.jsonl"
        # With a peft_config TRL's reference is the base model with adapters off; a PeftModel would make it a copy of the
        # starting adapter. So the starting weights are put in afterwards.
        trainer = Recorder(
            model=model, args=args, train_dataset=dataset(rows_file), eval_dataset=evaluation, processing_class=tokenizer,
            peft_config=lora_config(run),
        )
        shapes = {k: tuple(v.shape) for k, v in get_peft_model_state_dict(trainer.model).items()}
        start = start_adapter(shapes, run)
        set_peft_model_state_dict(trainer.model, {k: v.clone() for k, v in start.items()})
        trainer.train()
        final = {k: v.detach().clone() for k, v in get_peft_model_state_dict(trainer.model).items()}
        data = trainer.train_dataset
        pairs = [json.loads(line) for line in rows_file.read_text(encoding="utf-8").splitlines()]
        before = sum(2 if "chosen" in row and not dpo else 1 for row in pairs)
        for first in range(0, 0 if dpo else len(data), run.batch):
            prompts = [tuple(row["prompt_ids"]) for row in data.select(range(first, min(first + run.batch, len(data))))]
            assert all(one != two for one, two in zip(prompts, prompts[-1:] + prompts[:-1])), "equal neighbours"
        answers = ["chosen_ids", "rejected_ids"] if dpo else ["completion_ids"]
        keys = ["prompt_ids"] + answers + (["KL_completion_ids"] if run.loss_type == "kto" else [])
        facts = {
            "rows": len(data),
            "rows_dropped": before - len(data),
            "rows_cut": sum(len(r["prompt_ids"]) + len(r[answer]) > run.max_length for r in data for answer in answers),
            "eval_rows": len(trainer.eval_dataset) if evaluation else 0,
            "tokens": [{key: data[i][key] for key in keys} for i in range(6)],
            "train": columns(trainer.steps, DPO_COLUMNS if dpo else COLUMNS),
            "eval": columns(trainer.evals, DPO_COLUMNS if dpo else COLUMNS) if evaluation else {},
        }
    return facts, start, final, lora_config(run)


def columns(steps, names):
    """Lists by our column names; null where TRL logged nothing (a class without rows)."""
    table = {"step": [row["step"] for row in steps]}
    for ours, theirs in names.items():
        if any(theirs in row for row in steps):
            table[ours] = [row.get(theirs) for row in steps]
    return table


def worst_share(one, two):
    """The largest difference between two runs' metrics as a share of 2e-5 + 2e-5 relative (1e-4 relative for grad_norm)."""
    worst = (0.0, "")
    for group in ("train", "eval"):
        for name, values in one[group].items():
            for step, x, y in zip(one[group]["step"], values, two[group][name]):
                if x is None or y is None:
                    assert x is None and y is None
                    continue
                allowed = 1e-4 * abs(x) if name in ("grad_norm", "learning_rate") else 2e-5 + 2e-5 * abs(x)
                worst = max(worst, (abs(x - y) / max(allowed, 1e-30) if x != y else 0.0, f"{group}/{name} step {step}"))
    return worst


def movement_share(start, one, two):
    """|one - two| / |one - start|, Euclidean over all adapter weights."""
    between = sum(((one[k] - two[k]).double() ** 2).sum() for k in one)
    moved = sum(((one[k] - start[k]).double() ** 2).sum() for k in one)
    return math.sqrt(between / moved)


def make_family_model(out, seed, name, architecture, more):
    """A model of the family with tiny-model's tokenizer."""
    folder = out / name / "model"
    write_model(folder, family_config(architecture, **{**dict(vocab=512, hidden=32, layers=2, intermediate=48), **more}), seed)
    for file in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(out / "tiny-model" / file, folder / file)


def make_run(out, run):
    import peft
    import transformers
    import trl

    folder = out / run.name
    folder.mkdir(parents=True, exist_ok=True)
    if run.rows:
        write_jsonl(folder / "rows.jsonl", run.rows())
    if run.eval_rows:
        write_jsonl(folder / "eval.jsonl", run.eval_rows())
    values = {k: getattr(run, k) for k in Run.__dataclass_fields__} | {
        "rows": f"{run.rows_of or run.name}/rows.jsonl",
        "eval": f"{run.name}/eval.jsonl" if run.eval_rows else "",
        "targets": ", ".join(f'"{t}"' for t in run.targets),
        "trainer": "DPOTrainer" if run.loss_type == "dpo" else "KTOTrainer",
    }
    (folder / "run.cfg").write_text(CONFIG.format(**values))
    facts, start, final, config = train_with_trl(out, run)
    # TRL against itself, with the sums taken in another order: how far apart two correct fp32 runs end.
    other, _, other_final, _ = train_with_trl(out, run, attention="eager", pad_to=32)
    share, where = worst_share(facts, other)
    moved = movement_share(start, final, other_final)
    assert moved <= 1e-5, f"{run.name}: TRL ends {moved:.2e} of its way from itself; tests/runs/compare_golden.c counts on 1e-5"
    write_adapter(folder / "adapter_start", config, start)
    save_file(final, folder / "adapter_final.safetensors")
    golden = {
        "made_with": {"trl": trl.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
                      "torch": torch.__version__.split("+")[0]},
        "trl_against_itself": {"worst_share_of_tolerance": share, "where": where, "adapter_share_of_movement": moved},
        "adapter_start": "adapter_start/adapter_model.safetensors",
        "adapter_final": "adapter_final.safetensors",
    } | facts  # fmt: skip
    text = json.dumps(golden, ensure_ascii=False)
    # One line a column: small files, readable differences.
    text = text.replace('], "', '],\n"').replace('}, "', '},\n"') + "\n"
    assert json.loads(text) == golden
    (folder / "golden.json").write_text(text)
    kl = facts["train"].get("kl", [0.0])
    print(
        f"{run.name}: {len(facts['train']['step'])} steps, {facts['rows']} rows ({facts['rows_dropped']} dropped, "
        f"{facts['rows_cut']} cut), z0 {min(kl):.4f}..{max(kl):.4f}, loss {facts['train']['loss'][0]:.5f} -> {facts['train']['loss'][-1]:.5f}, "
        f"grad_norm {min(facts['train']['grad_norm']):.3g}..{max(facts['train']['grad_norm']):.3g}; TRL against itself: "
        f"{share:.3f} of the tolerance at {where}, adapter {moved:.2e} of its movement"
    )


# --- the model by itself ----------------------------------------------------------------------------------------------

MODEL_README = """# model/: what transformers computes, for the test of src/model/model

`NAME.json` and `NAME.safetensors`, one pair a model, float32:

- `base`: ../tiny-model with the adapter ../b/adapter_start
- `llama3`: model/llama3 (rope scaling "llama3", original_max_position_embeddings 16 so that the sequences feel it), tied head
- `bias`: model/bias (attention_bias: q, k, v and o have biases), one key/value head
- `qwen2`: biases of q, k and v; `qwen3`: norms of the heads' queries and keys, head_dim 12; `granite`: four multipliers;
  `smollm3`: layers without rotation, tied head; `olmo2`: norms behind the sublayers, and of all queries and all keys.
  config.json as transformers 5 writes it

The small models have their adapter in model/NAME/adapter_start.

JSON: `model`, `adapter` (folders, relative to tests/golden), `vocab`, `sequences`: a list of {`ids`, `prompt_tokens` p,
`coefficient` c}. Token t >= p is scored (predicted from position t-1).
`on` and `off` (adapters on and off) hold, per sequence, lists over its scored tokens: `logp` of the token, `entropy` in nats
and `mean_logit` over the vocabulary, at the predicting position. The sequences share a common header of tokens.

safetensors: `grad.<PEFT name>` [rows, cols]: the gradient of sum_i c_i logp_i with respect to the adapter's A and B, where
logp_i is the sum over sequence i's scored tokens, adapters on; `hidden.<i>` [tokens, hidden]: the last hidden state after the
final norm, adapters on.
"""


def make_model_golden(out, names):
    from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    folder = out / "model"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(MODEL_README)
    small = dict(vocab=96, hidden=32, layers=2, intermediate=48)
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 16}  # fmt: skip
    llama3 = dict(heads=4, kv_heads=2, rope_scaling=scaling, rope_theta=500000.0, tie_word_embeddings=True)
    configs = {
        "base": None,  # tiny-model
        "llama3": model_config(**small, **llama3),
        "bias": model_config(**small, heads=2, kv_heads=1, attention_bias=True),
    } | {name: family_config(architecture, **{**small, **more}) for name, architecture, more in FAMILIES}
    for seed, (name, config) in enumerate(configs.items(), 20):
        if names and name not in names:
            continue
        path = "tiny-model" if name == "base" else f"model/{name}"
        adapter = "b/adapter_start" if name == "base" else f"model/{name}/adapter_start"
        if config is not None:
            write_model(out / path, config, seed)
        torch.set_num_threads(1)
        model = AutoModelForCausalLM.from_pretrained(out / path, dtype=torch.float32, attn_implementation="eager")
        vocab = model.config.vocab_size
        if name != "base":
            run = Run(name, targets=SEVEN, r=3, alpha=6.0, start_seed=31, start_b=0.1)
            model = get_peft_model(model, lora_config(run))
            shapes = {k: tuple(v.shape) for k, v in get_peft_model_state_dict(model).items()}
            start = start_adapter(shapes, run)
            set_peft_model_state_dict(model, {k: v.clone() for k, v in start.items()})
            write_adapter(out / adapter, lora_config(run), start)
        else:
            model = PeftModel.from_pretrained(model, out / adapter, is_trainable=True)
        model.eval()
        rng = random.Random(41)
        header = [1] + [rng.randrange(3, vocab) for _ in range(9)]
        sequences = []
        for tail, scored, coefficient in [(4, 7, 1.0), (0, 12, -0.5), (11, 3, 0.75)]:
            ids = header + [rng.randrange(3, vocab) for _ in range(tail + scored)]
            sequences.append({"ids": ids, "prompt_tokens": len(header) + tail, "coefficient": coefficient})
        golden = {"model": path, "adapter": adapter, "vocab": vocab, "sequences": sequences, "on": [], "off": []}
        tensors = {}
        total = 0.0
        for i, sequence in enumerate(sequences):
            ids = torch.tensor([sequence["ids"]])
            p = sequence["prompt_tokens"]
            for state in ("on", "off"):
                if state == "off":
                    with model.disable_adapter(), torch.no_grad():
                        output = model(input_ids=ids, use_cache=False)
                else:
                    output = model(input_ids=ids, use_cache=False, output_hidden_states=True)
                    tensors[f"hidden.{i}"] = output.hidden_states[-1][0].detach().clone()
                logits = output.logits[0, p - 1 : -1]
                logps = logits.log_softmax(-1)
                logp = logps.gather(1, ids[0, p:, None])[:, 0]
                golden[state].append(
                    {
                        "logp": logp.tolist(),
                        "entropy": (-(logps.exp() * logps).sum(-1)).tolist(),
                        "mean_logit": logits.mean(-1).tolist(),
                    }
                )
                if state == "on":
                    total = total + sequence["coefficient"] * logp.sum()
        total.backward()
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                tensors["grad." + key.replace(".default.", ".")] = parameter.grad.clone()
        save_file(tensors, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(json.dumps(golden, indent=1) + "\n")
        norm = math.sqrt(sum(float((v.double() ** 2).sum()) for k, v in tensors.items() if k.startswith("grad.")))
        print(f"model/{name}: mean entropy {sum(golden['on'][0]['entropy']) / 7:.3f} of {math.log(vocab):.3f}, |grad| {norm:.4g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "tests" / "golden")
    parser.add_argument("what", nargs="*", help="tiny-model, model, model/NAME, or the name of a run")
    args = parser.parse_args()
    what = args.what or ["tiny-model", "model"] + [run.name for run in RUNS if run.name != "long"]
    if "tiny-model" in what:
        make_tiny_model(args.out / "tiny-model")
    for seed, family in enumerate(FAMILIES, 51):
        if family[0] in what:
            make_family_model(args.out, seed, *family)
    for run in RUNS:
        if run.name in what:
            make_run(args.out, run)
    names = [name.removeprefix("model/") for name in what if name.startswith("model/")]
    if names or "model" in what:
        make_model_golden(args.out, [] if "model" in what else names)


if __name__ == "__main__":
    main()
