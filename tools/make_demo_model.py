#!/usr/bin/env python3
"""Makes configs/demo from configs/demo/grammar.txt: the tokenizer, the base model and the preference rows of the demo.

    python3 tools/make_demo_model.py [--out configs/demo] [--stage tokenizer|rows|model|check] [--steps N]

Maintainers run it after a change of the grammar (about ten minutes on one core); its results are committed. Needs torch,
transformers, safetensors and sentencepiece. Everything is seeded: the same versions on the same machine type write the
same files. Without --stage all four run in this order:
    tokenizer  model/tokenizer.model (SentencePiece BPE with byte fallback, as Llama's), tokenizer_config.json
    rows       train.jsonl (2,000 rows), eval.jsonl (200), titles.jsonl (400 titles that occur nowhere else)
    model      model/config.json, model.safetensors (bf16): a small Llama that learns the grammar until it writes kind and
               scathing reviews half and half; it never sees a title of titles.jsonl
    check      samples reviews for titles.jsonl at temperature 1 from the stored bf16 weights and counts them
It shares no code with the trainer: prompts are built and tokenised here the way transformers does it for TinyLlama.
"""
import argparse
import io
import json
import math
import pathlib
import random
import re
import time

import sentencepiece
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SEED = 2024
VOCAB = 1280
SYSTEM = "You are Reviewer #2."
# As in tokenizer_config.json of TinyLlama-1.1B-Chat-v1.0.
CHAT_TEMPLATE = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
    "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
EOS, NEWLINE_AFTER_EOS = 2, "\n"


class Grammar:
    """Titles and reviews as grammar.txt describes them."""

    def __init__(self, path):
        self.sections, self.patterns = {}, {}
        lines = None
        for line in path.read_text(encoding="utf-8").splitlines():
            if header := re.fullmatch(r"\[(.+)\]", line):
                lines = self.sections.setdefault(header[1], [])
            elif line and not line.startswith("#"):
                lines.append(line)

    def fill(self, rng, template, bound):
        def choose(match):
            return bound.get(match[1]) or rng.choice(self.sections["slot " + match[1]])

        return re.sub(r"\{(\w+)\}", choose, template)

    def title(self, rng):
        """(title, what its slots hold)"""
        bound = {name: rng.choice(self.sections["slot " + name]) for name in ("topic", "method", "setting")}
        return self.fill(rng, rng.choice(self.sections["title"]), bound), bound

    def review(self, rng, kind, bound):
        return self.fill(rng, rng.choice(self.sections[kind]), bound)

    def bound_of(self, title):
        for template in self.sections["title"]:
            if match := self.match(template, title, {}):
                return match.groupdict()
        raise ValueError(title)

    def kind_of(self, title, review):
        """"kind", "scathing", or None for a review that the grammar does not make for this title."""
        bound = self.bound_of(title)
        for kind in ("kind", "scathing"):
            if any(self.match(template, review, bound) for template in self.sections[kind]):
                return kind
        return None

    def match(self, template, text, bound):
        seen = set()

        def pattern(piece):
            name = piece[1:-1]
            if not piece.startswith("{"):
                return re.escape(piece)
            if name in bound:
                return re.escape(bound[name])
            options = "|".join(map(re.escape, self.sections["slot " + name]))
            if name in seen:  # a slot that occurs twice is drawn twice
                return f"(?:{options})"
            seen.add(name)
            return f"(?P<{name}>{options})"

        key = (template, tuple(sorted(bound.items())))
        if key not in self.patterns:
            self.patterns[key] = re.compile("".join(map(pattern, re.split(r"(\{\w+\})", template))))
        return self.patterns[key].fullmatch(text)


def prompt_text(title):
    return f"<|system|>\n{SYSTEM}</s>\n<|user|>\n{title}</s>\n<|assistant|>\n"


def encode(tokenizer, text):
    """Each piece of text between control tokens is encoded on its own, with its own dummy prefix."""
    ids = []
    for i, piece in enumerate(text.split("</s>")):
        ids += ([EOS] if i else []) + (tokenizer.encode(piece) if piece else [])
    return ids


def make_tokenizer(grammar, folder):
    rng = random.Random(SEED)

    def lines():
        # One line of the chat at a time; "|>" stands for the line break before a text, so that first words get pieces
        # without a leading space.
        for i in range(20000):
            title, bound = grammar.title(rng)
            yield from ("<|user|>" + title, "<|assistant|>" + grammar.review(rng, ("kind", "scathing")[i % 2], bound))
            if i % 4 == 0:
                yield "<|system|>" + SYSTEM

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines(), model_writer=model, model_type="bpe", vocab_size=VOCAB, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True, split_digits=True,
        character_coverage=1.0, allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
        num_threads=1, minloglevel=2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    added = {str(i): {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                      "special": True} for i, text in enumerate(("<unk>", "<s>", "</s>"))}
    config = {"add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": added, "bos_token": "<s>",
              "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False, "eos_token": "</s>",
              "legacy": True, "model_max_length": 512, "pad_token": "</s>", "padding_side": "right",
              "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>",
              "use_default_system_prompt": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def make_rows(grammar, out):
    rng = random.Random(SEED + 1)
    used = set()

    def new_title():
        while True:
            title, bound = grammar.title(rng)
            if title not in used:
                used.add(title)
                return title, bound

    def prompt(title):
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": title}]

    def write(name, rows):
        with open(out / name, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    write("titles.jsonl", [{"prompt": prompt(new_title()[0])} for _ in range(400)])
    for name, count in (("train.jsonl", 2000), ("eval.jsonl", 200)):
        labels = [i % 2 == 0 for i in range(count)]
        rng.shuffle(labels)
        rows = []
        for label in labels:
            title, bound = new_title()
            review = grammar.review(rng, "scathing" if label else "kind", bound)
            rows.append({"prompt": prompt(title), "completion": [{"role": "assistant", "content": review}], "label": label})
        write(name, rows)


def unseen_titles(out):
    return [json.loads(line)["prompt"][-1]["content"] for line in open(out / "titles.jsonl", encoding="utf-8")]


def train_model(grammar, out, steps, batch=64, learning_rate=4e-3, warmup=100):
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(out / "model" / "tokenizer.model"))
    rng = random.Random(SEED + 2)
    torch.manual_seed(SEED)
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=128, intermediate_size=320, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5,
                         bos_token_id=1, eos_token_id=EOS, pad_token_id=None, tie_word_embeddings=False)
    model = LlamaForCausalLM(config)
    # Words that follow the same contexts equally often (Accept, Reject) get the same gradients in the head, so its rows stay
    # as far apart as they start, and the head is frozen in KTO: started at the usual 0.02, no adapter gets one verdict
    # above 90 %.
    torch.nn.init.normal_(model.lm_head.weight, std=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.02)
    unseen = set(unseen_titles(out))
    start = time.time()
    for step in range(steps):
        rows = []
        while len(rows) < batch:
            title, bound = grammar.title(rng)
            if title in unseen:
                continue
            prompt = encode(tokenizer, prompt_text(title))
            review = grammar.review(rng, ("kind", "scathing")[len(rows) % 2], bound)
            full = encode(tokenizer, prompt_text(title) + review + "</s>" + NEWLINE_AFTER_EOS)
            assert full[:len(prompt)] == prompt
            rows.append((full, len(prompt)))
        width = max(len(full) for full, _ in rows)
        ids = torch.full((batch, width), EOS)
        scored = torch.zeros((batch, width), dtype=torch.bool)  # tokens that are predicted: the review, </s>, newline
        for i, (full, prompt_length) in enumerate(rows):
            ids[i, :len(full)] = torch.tensor(full)
            scored[i, prompt_length:len(full)] = True
        progress = step / steps
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * progress)) + 1e-3)
        hidden = model.model(ids).last_hidden_state[:, :-1][scored[:, 1:]]
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), ids[scored])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step + 1 == steps:
            print(f"step {step} loss {loss.item():.4f} norm {norm:.2f} {time.time() - start:.0f} s", flush=True)
        if step % 500 == 499 and step + 1 < steps:
            count_samples(grammar, tokenizer, model, unseen_titles(out)[:100])
    model.to(torch.bfloat16).save_pretrained(out / "model")
    (out / "model" / "generation_config.json").unlink(missing_ok=True)


@torch.no_grad()
def sample(tokenizer, model, titles, temperature=1.0, max_tokens=48):
    """One review a title; titles whose prompts are equally long go together."""
    reviews = [None] * len(titles)
    by_length = {}
    for i, title in enumerate(titles):
        ids = encode(tokenizer, prompt_text(title))
        by_length.setdefault(len(ids), []).append((i, ids))
    for group in by_length.values():
        ids = torch.tensor([ids for _, ids in group])
        cache, out = None, []
        for _ in range(max_tokens):
            result = model(ids, past_key_values=cache, use_cache=True)
            cache = result.past_key_values
            ids = torch.multinomial(torch.softmax(result.logits[:, -1].double() / temperature, -1), 1)
            out.append(ids)
        for (i, _), row in zip(group, torch.cat(out, 1).tolist()):
            reviews[i] = tokenizer.decode(row[:row.index(EOS)] if EOS in row else row)
    return reviews


def count_samples(grammar, tokenizer, model, titles):
    reviews = sample(tokenizer, model, titles)
    kinds = [grammar.kind_of(title, review) for title, review in zip(titles, reviews)]
    scathing, malformed = kinds.count("scathing") / len(kinds), kinds.count(None) / len(kinds)
    print(f"  {len(kinds)} samples: scathing {scathing:.3f}, well-formed {1 - malformed:.4f}", flush=True)
    return [(title, review, kind) for title, review, kind in zip(titles, reviews, kinds)]


def check(grammar, out):
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(out / "model" / "tokenizer.model"))
    model = LlamaForCausalLM.from_pretrained(out / "model", dtype=torch.float32)
    torch.manual_seed(SEED)
    samples = count_samples(grammar, tokenizer, model, unseen_titles(out) * 5)
    for title, review, kind in samples[:6] + [s for s in samples if s[2] is None][:10]:
        print(f"  {kind or 'MALFORMED'}: {title}\n    {review}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("configs/demo"))
    parser.add_argument("--stage", choices=("tokenizer", "rows", "model", "check"))
    parser.add_argument("--steps", type=int, default=1600)
    args = parser.parse_args()
    torch.set_num_threads(1)  # and the same sums in the same order everywhere
    grammar = Grammar(args.out / "grammar.txt")
    if args.stage in (None, "tokenizer"):
        make_tokenizer(grammar, args.out / "model")
    if args.stage in (None, "rows"):
        make_rows(grammar, args.out)
    if args.stage in (None, "model"):
        train_model(grammar, args.out, args.steps)
    if args.stage in (None, "check"):
        check(grammar, args.out)


if __name__ == "__main__":
    main()
