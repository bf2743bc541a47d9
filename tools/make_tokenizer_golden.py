#!/usr/bin/env python3
"""Makes tests/golden/tokenizer and tests/golden/chat: a small SentencePiece model, and what transformers gives with it.

For maintainers; needs sentencepiece, tokenizers and transformers (with jinja2). The ids are those of a tokenizer.json as
TinyLlama-1.1B-Chat-v1.0 has it (Prepend + Replace normalisers, BPE with byte fallback), built here from the model.

    tools/make_tokenizer_golden.py                     writes the two folders
    tools/make_tokenizer_golden.py --model FILE --out DIR     cases for another tokenizer.model, to check by hand
"""
import argparse
import io
import json
import pathlib
import random

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import import_protobuf

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"

WORDS = """the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one
you were all her she there would their we him been has when who will no more if out so said what up its about into than them
can only other new some could time these two may then do first any my now such like our over man me even most made after also
did many before must through back years where much your way well down should because each just those people how too little state
good very make world still own see men work long get here between both life being under never day same another know while last
might us great old year off come since against go came right used take three paper review method results model training data
experiment novel baseline author reviewer accept reject weak strong clear figure table section evidence claim theorem proof
learning network attention language token gradient descent optimal policy reward reference completion prompt answer question
sentence writing careful sloppy brilliant terrible wonderful confusing elegant tedious convincing unconvincing important trivial
computer science mathematics physics biology chemistry history music science number letter character symbol space""".split()


def train_model(path):
    rng = random.Random(7)
    lines = []
    for _ in range(3000):
        words = [rng.choice(WORDS) + rng.choice(["", "", "", "s", "ed", "ing", "ly", "er"]) for _ in range(rng.randint(4, 14))]
        line = " ".join(words)
        line = rng.choice([line, line.capitalize() + ".", line + "?", "  " + line, line.replace(" ", "    ", 2), f"({line}): {rng.randint(0, 9999)}"])
        lines.append(line)
    lines += ["café naïve über señor façade", "привет мир", "日本語 中文 文字", "x = y[i] + 1;\tif (a <= b) { return; }"] * 20
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=1000, byte_fallback=True,
        character_coverage=0.9995, normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, split_digits=True, num_threads=1, minloglevel=2)
    path.write_bytes(model.getvalue())


def build(path, added=()):
    """The tokenizer.json of a tokenizer.model, as transformers made TinyLlama's."""
    proto = import_protobuf().ModelProto()
    proto.ParseFromString(path.read_bytes())
    vocab = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    merges = []
    for piece in proto.pieces:
        parts = [(piece.piece[:i], piece.piece[i:]) for i in range(1, len(piece.piece))]
        parts = [(a, b) for a, b in parts if a in vocab and b in vocab]
        merges += [(piece.score, *part) for part in sorted(parts, key=lambda x: (vocab[x[0]], vocab[x[1]]))]
    merges = [(a, b) for _, a, b in sorted(merges, key=lambda m: m[0], reverse=True)]
    tokenizer = Tokenizer(BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    for token in [AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")] + list(added):
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    return tokenizer


FIXED = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "a", " a", "  a", "a ", "a  ", " a ", "hi", "  hi", "hello world", "Hello, world!",
    "double  space", "triple   space", "four    spaces", "many                              spaces", "tab\tbetween", "\ttab first",
    "line\nbreak", "line\r\nbreak", "\nfirst", "last\n", "a\n\nb", " \n ", "\n \n", "trailing \n",
    "<s>", "</s>", "<unk>", "<s></s>", "</s></s>", "<s><s>", "</s>a", "a</s>", "a</s>b", "a </s> b", " </s>", "</s> ", "</s>  </s>", "</s>\n",
    "a</s>\nb</s>\n", "<s>hello</s>", "<s> hello </s>", "<s", "</s", "s>", "< s>", "</ s>", "<</s>>", "<s<s>>", "</s></", "<S>", "</S>", "<unk", "<pad>",
    "<|user|>\nhi</s>\n<|assistant|>\n", "<|system|>\nBe good.</s>\n<|user|>\nhi</s>\n<|assistant|>\nyes</s>\n", "[INST] hi [/INST]", "<<SYS>>\nx\n<</SYS>>\n\n",
    "<0x0A>", "<0x00>", "<0x", "0x0A>", "▁", "▁▁", "▁a", "a▁", "a▁b", "▁ ▁", " ▁", "▁ a", "</s>▁", "x▁</s>▁y",
    "😀", "😀😀", "a😀b", "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽 ok", "☃", "naïve café", "e\u0301", "cafe\u0301", "\u0301", "n\u0303o", "Å Å", "ﬁne", "ＡＢＣ", "ſ", "İ", "ß",
    "日本語", "中文字符", "日本語 中文", "한국어", "привет", "привет, мир!", "שלום", "مرحبا", "नमस्ते", "ไทย", "ａ　ｂ", "\u00a0", "a\u00a0b", "\u2003", "\u200b", "\u200d", "\ufeff",
    "\ufeffa", "\ufffd", "\u2028", "\u0085", "\x01", "\x7f", "\x1b[0m", "\U0010ffff", "\U000e0001", "\ue000", "\u0080", "\u07ff", "\u0800", "\uffff", "\U00010000",
    "a" * 50, "aaaa" * 25, "=" * 40, "-" * 33, "." * 17, " " * 40, "\n" * 20, "ab" * 30, "supercalifragilisticexpialidocious", "the" * 20, "0123456789", "3.14159", "1,000,000",
    "x = y[i] + 1;\tif (a <= b) { return; }", "https://example.org/a?b=c&d=%20#e", "user@example.org", "C:\\path\\file", "\\n", "\"quoted\"", "'single'", "`tick`", "a_b_c", "camelCaseWord",
    "The reviewer said the paper is weak.", "I'm, you're; it's!", "ALL CAPS TEXT", "MiXeD cAsE", "word" + " " * 7 + "word", "end with space ", "(parentheses)", "{\"json\": [1, 2]}", "100%", "$5.00", "#tag", "@name", "~", "^", "|", "||",
]


def random_strings(count):
    rng = random.Random(11)
    atoms = WORDS + ["</s>", "<s>", "<unk>", "<s", "/s>", " ", "  ", "   ", "\n", "\t", "▁", "😀", "é", "e\u0301", "日", "я", ".", ",", "aa", "a", "0", "<0x0A>", "ſ", "\u200d"]
    made = []
    for i in range(count):
        if i % 3 == 0:
            made.append("".join(rng.choice(atoms) for _ in range(rng.randint(1, 14))))
        elif i % 3 == 1:
            made.append(" ".join(rng.choice(atoms) for _ in range(rng.randint(1, 14))))
        else:
            limits = [0x80, 0x250, 0x3100, 0xd7ff, 0x1fbff]
            made.append("".join(c for c in (chr(rng.randint(1, rng.choice(limits))) for _ in range(rng.randint(1, 20))) if not 0xd800 <= ord(c) < 0xe000))
    return made


def text_cases(tokenizer, strings):
    cases = []
    for text in strings:
        ids = tokenizer.encode(text).ids
        cases.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True),
                      "decoded_all": tokenizer.decode(ids, skip_special_tokens=False)})
    return cases


def id_cases(tokenizer, count):
    """Random ids, as a model in training samples them: broken UTF-8 from byte pieces, control tokens anywhere."""
    rng = random.Random(13)
    cases = []
    for i in range(count):
        top = 259 if i % 2 else tokenizer.get_vocab_size()
        ids = [rng.choice([i for i in (rng.randrange(top), rng.randrange(131, 259)) if i != 3]) for _ in range(rng.randint(1, 12))]
        cases.append({"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True),
                      "decoded_all": tokenizer.decode(ids, skip_special_tokens=False)})
    return cases


def write_lines(path, rows):
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def config(added=()):
    tokens = [AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")]
    decoder = dict(enumerate(tokens)) | dict(added)
    return {"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>",
            "added_tokens_decoder": {str(i): {"content": t.content, "lstrip": False, "normalized": t.normalized, "rstrip": False,
                                              "single_word": False, "special": t.special} for i, t in decoder.items()}}


ADDED = [AddedToken("<|im_start|>", normalized=False, special=True), AddedToken("<|im_end|>", normalized=False, special=True),
         AddedToken("<|im_end|><|x|>", normalized=False, special=True), AddedToken("Reviewer#2", normalized=False, special=False),
         AddedToken("[X]", normalized=True, special=False), AddedToken("two words", normalized=True, special=False)]
ADDED_STRINGS = ["<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "<|im_end|><|x|>", "<|im_end|><|x", "<|im_start|><|im_start|>", "a Reviewer#2 b", "aReviewer#2b",
                 "Reviewer#2", "[X]", "a[X]b", "a [X] b", "[X][X]", "[X] [X]", " [X]", "</s>[X]</s>", "two words", "in two words here", "two  words", "atwo words", "two words two words", "", " "]


def conversations():
    make = lambda role, text: {"role": role, "content": text}
    system, user, assistant = (lambda t, r=r: make(r, t) for r in ("system", "user", "assistant"))
    return [
        [user("Hello")],
        [system("Be kind."), user("Hello")],
        [user("Hello"), assistant("Hi there.")],
        [system("Be kind."), user("Hello"), assistant("Hi there.")],
        [system("Be kind."), user("One"), assistant("Two"), user("Three")],
        [user("One"), assistant("Two"), user("Three"), assistant("Four")],
        [user("")],
        [user(""), assistant("")],
        [system(""), user("x")],
        [user("  spaces  "), assistant("\n newline \t")],
        [system("\u00a0S\u2003"), user("\u3000wide\u2028 \x1c"), assistant("\u200bzero\u0085")],
        [user("two\nlines\n\nand </s> inside <s>"), assistant("{{ braces }} {% raw %} 'quotes' \"double\"")],
        [user("emoji 😀 & <html> é"), assistant("日本語\r\n")],
        [assistant("only me")],
        [user("a"), user("b")],
        [system("only a system message")],
        [user("a"), system("late"), user("b")],
        [make("tool", "x")],
        [user("a"), make("tool", "x")],
    ]


ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
CHATML = """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
NO_PROMPT = "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
CHATML_LINES = """{%- for message in messages -%}
    {{- "<|im_start|>" + message["role"] + "\\n" + message["content"] + "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}"""
VARIANTS = {  # of a template: texts that render as it does
    "zephyr": [ZEPHYR, ZEPHYR.replace(">\n' ", ">\\n' "), ZEPHYR.replace("  +", " +") + "\n", ZEPHYR.replace("\n{% ", "\n    {%  "), ZEPHYR.replace("'", '"'), ZEPHYR.replace("\n", "\r\n")],
    "chatml": [CHATML, NO_PROMPT + CHATML, CHATML.replace("'<|im_end|>' + '\n'", "'<|im_end|>\n'"), CHATML.replace("\n'", "\\n'"), CHATML_LINES, CHATML.replace("%}{", "%}\n{")],
    "llama-2": [LLAMA2, LLAMA2.replace("content.strip()", "content | trim"), LLAMA2.replace("'", '"')],
}


def chat_cases():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build(GOLDEN / "tokenizer" / "tokenizer.model"), bos_token="<s>", eos_token="</s>")
    cases = []
    known_roles = {"system", "user", "assistant"}
    for name, texts in VARIANTS.items():
        for messages in conversations():
            for prompt in (False, True):
                rendered = []
                for text in texts:
                    try:
                        rendered.append(tokenizer.apply_chat_template(messages, chat_template=text, tokenize=False, add_generation_prompt=prompt))
                    except Exception as error:  # raise_exception in the template
                        rendered.append(None)
                assert all(r == rendered[0] for r in rendered), (name, messages, rendered)
                text = rendered[0]
                # Messages that a template passes over in silence are refused by us.
                if name != "chatml" and not {m["role"] for m in messages} <= known_roles:
                    text = None
                turns = messages[messages[0]["role"] == "system":]
                if name == "llama-2" and any(m["role"] != "assistant" for m in turns[1::2]):
                    text = None
                cases.append({"template": name, "messages": messages, "add_generation_prompt": prompt, "text": text})
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, help="a tokenizer.model to make cases for")
    parser.add_argument("--out", type=pathlib.Path, help="the folder for them")
    arguments = parser.parse_args()
    if arguments.model:
        tokenizer = build(arguments.model)
        write_lines(arguments.out / "cases.json", text_cases(tokenizer, FIXED + random_strings(3000)))
        write_lines(arguments.out / "decode.json", id_cases(tokenizer, 500))
        return
    folder = GOLDEN / "tokenizer"
    added = folder / "added"
    added.mkdir(parents=True, exist_ok=True)
    train_model(folder / "tokenizer.model")
    write_json(folder / "tokenizer_config.json", config())
    tokenizer = build(folder / "tokenizer.model")
    write_lines(folder / "cases.json", text_cases(tokenizer, FIXED + random_strings(240)))
    write_lines(folder / "decode.json", id_cases(tokenizer, 100))
    count = tokenizer.get_vocab_size()
    write_json(added / "tokenizer_config.json", config((count + i, token) for i, token in enumerate(ADDED)))
    tokenizer = build(folder / "tokenizer.model", ADDED)
    write_lines(added / "cases.json", text_cases(tokenizer, ADDED_STRINGS + FIXED[:60]))
    (GOLDEN / "chat").mkdir(exist_ok=True)
    write_lines(GOLDEN / "chat" / "cases.json", chat_cases())


if __name__ == "__main__":
    main()
