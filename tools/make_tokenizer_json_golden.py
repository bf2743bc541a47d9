#!/usr/bin/env python3
"""Writes tests/golden/tokenizer-json: a small tokenizer.json for each kind of pipeline, and what transformers makes of texts
with it.

For maintainers; needs tokenizers and transformers. The vocabularies are trained on the texts below, seeded.
"""
import json
import pathlib
import random

from make_tokenizer_golden import FIXED, WORDS, random_strings, write_lines
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "tokenizer-json"
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
STRINGS = ["I'm you'RE we'Ve it'S 's 'ſ 'T", "don't'll'd", "1234567 12 3", "²³½Ⅷ٣४", "\u180e", "a\u180eb", "a\x85b", "\x1c\x1d", "a\u2028b\u2029", "가\u11a8", "\u1100\u1161", "ﬁ ﬂ", "Å Å", "e\u0323\u0301",
           "e\u0301\u0323", "ạ\u1df6\u0301", "e\u1df6\u0301\u0323", "\U00011935\U00011930\U00011938", "㋿", "x--y---z -- ", "a,b, c ,d", "camelCase HTTPServer", "日本語とカタカナ", "if(x){y;}", "<|im_start|>", "a<|im_start|>b", "<|im_start|> <|im_end|>", "<|im_start|", "<|im_end|><|im_end|>x",
           "left[L] a", "a  [L]  b", "a  [R]  b", "[R][R] x", "a [LR] b", " [LR] [LR] ", "word", "aword", "word1", "1word", "word word", "(word)", "é word é", "wordé", "Größe", "a größe b", "two words", "x two words y",
           "a  two  words", "\u00a0[L]\u2003[R]\u3000x"]


def lines():
    rng = random.Random(17)
    made = []
    for _ in range(1500):
        line = " ".join(rng.choice(WORDS) + rng.choice(["", "", "s", "ed", "ing"]) for _ in range(rng.randint(4, 14)))
        made.append(rng.choice([line, line.capitalize() + ".", line + "?", "  " + line, f"({line}): {rng.randint(0, 9999)}", line.upper()]))
    return made + ["café naïve über señor façade größe", "привет мир", "日本語 中文 文字", "x = y[i] + 1;\tif (a <= b) { return; }"] * 30


def train(tokenizer, size, special=(), alphabet=(), bytes_=False):
    special = [*special, *([f"<0x{b:02X}>" for b in range(256)] if bytes_ else [])]
    tokenizer.train_from_iterator(lines(), trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=list(alphabet), show_progress=False))
    if bytes_:  # byte pieces are pieces of the model alone
        whole = json.loads(tokenizer.to_str())
        whole["added_tokens"] = [t for t in whole["added_tokens"] if not t["content"].startswith("<0x")]
        return Tokenizer.from_str(json.dumps(whole))
    return tokenizer


def by_bytes(steps, normalizer=None, **model):
    tokenizer = Tokenizer(BPE(**model))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    train(tokenizer, 256 + 220, alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tokenizer


def level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior=behavior, invert=invert)


def llama3():
    tokenizer = by_bytes([split(GPT4), level()], ignore_merges=True)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|endoftext|> $A", pair="<|endoftext|> $A <|endoftext|>:1 $B:1", special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))])])
    return tokenizer


def pieces(normalizer, pre_tokenizer, decoder, size=700, **model):
    tokenizer = Tokenizer(BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True, **model))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    # Words are trained as SentencePiece has them: they do not reach across blanks.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer = train(tokenizer, size, ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"], bytes_=True)
    whole = json.loads(tokenizer.to_str())
    whole["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    return tokenizer


STRIPPED = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def llama2():
    tokenizer = pieces(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None, STRIPPED)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return tokenizer


def metaspace(scheme, cut):
    return pieces(None, pre_tokenizers.Metaspace(prepend_scheme=scheme, split=cut), decoders.Metaspace(prepend_scheme=scheme, split=cut))


def gemma():
    return pieces(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"),
                  decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]))


def characters():
    """Characters without bytes, unknown ones one by one; every behaviour of Split, and normalizers by pattern."""
    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"-{2,}"), "—"), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"[,;]"), "merged_with_previous"), pre_tokenizers.Split(Regex(r"[({\[]"), "merged_with_next"), pre_tokenizers.Split(Regex(r"[.?]"), "contiguous"),
        pre_tokenizers.Split(Regex(r"\w+|[^\w\s]+"), "removed", invert=True), pre_tokenizers.Digits(individual_digits=False)])
    tokenizer.decoder = decoders.Fuse()
    return train(tokenizer, 500, ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"])


def added():
    tokenizer = by_bytes([level(prefix=True, regex=True)], normalizer=normalizers.NFC())
    tokenizer.add_tokens([AddedToken("[L]", lstrip=True), AddedToken("[R]", rstrip=True), AddedToken("[LR]", lstrip=True, rstrip=True, normalized=False), AddedToken("word", single_word=True),
                          AddedToken("größe", normalized=True), AddedToken("two words", normalized=False), AddedToken("e\u0301x", normalized=True)])
    return tokenizer


KINDS = {
    "llama-3": (llama3, {}),
    "gpt-2": (lambda: by_bytes([pre_tokenizers.Digits(individual_digits=True), level(regex=True)]), {"add_bos_token": True, "bos_token": "<|endoftext|>"}),
    "qwen": (lambda: by_bytes([split(QWEN), level()], normalizer=normalizers.NFC()), {}),
    "tekken": (lambda: by_bytes([split(TEKKEN), level()], ignore_merges=True), {}),
    "deepseek": (lambda: by_bytes([split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(PUNCTUATION), level()], normalizer=normalizers.Sequence([])), {}),
    "llama-2": (llama2, {}),
    "metaspace-first": (lambda: metaspace("first", False), {}),
    "metaspace-always": (lambda: metaspace("always", True), {}),
    "gemma": (gemma, {}),
    "characters": (characters, {}),
    "added": (added, {}),
}
STRING_MERGES = {"gpt-2", "llama-2"}  # as files of before 2024 have them


def write(name, make, config):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    whole = json.loads(make().to_str())
    if name in STRING_MERGES:
        whole["model"]["merges"] = [" ".join(pair) for pair in whole["model"]["merges"]]
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False) + "\n")
    eos = "<|im_end|>"
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, **config}) + "\n")
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    cases = []
    for text in FIXED + STRINGS + random_strings(60):
        ids = tokenizer(text)["input_ids"]
        cases.append({"text": text, "ids": ids, "decoded": tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True), "decoded_all": tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)})
    rng = random.Random(19)
    for _ in range(60):  # as a model in training samples them
        ids = [rng.randrange(tokenizer.backend_tokenizer.get_vocab_size()) for _ in range(rng.randint(1, 12))]
        cases.append({"ids": ids, "decoded": tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True), "decoded_all": tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)})
    write_lines(folder / "cases.json", cases)


def main():
    for name, (make, config) in KINDS.items():
        write(name, make, config)


if __name__ == "__main__":
    main()
