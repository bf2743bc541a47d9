#!/usr/bin/env python3
"""Writes a Llama of a chosen shape with random weights, for timings and tests of size.

Needs nothing but Python. A million normal numbers are drawn, and matrices are cut from them at random places, piece by
piece, so that 22 layers take seconds and little memory. The same arguments give the same bytes. The default shape is that
of TinyLlama-1.1B.
"""

import argparse
import array
import json
import math
import os
import random
import shutil
import struct
import sys

POOL = 1 << 20  # numbers drawn
PIECE = 1 << 16  # elements that are cut from the pool at a time
# TinyLlama-1.1B-Chat-v1.0's template (the one that io/chat_template calls zephyr).
CHAT_TEMPLATE = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
DTYPES = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("F32", 4)}


def tensors(a):
    """(name, shape, standard deviation) of every tensor; None: all ones."""
    head_dim = a.hidden // a.heads
    kv = a.kv_heads * head_dim
    yield "model.embed_tokens.weight", (a.vocab, a.hidden), 0.02
    for i in range(a.layers):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (a.hidden,), None
        yield layer + "self_attn.q_proj.weight", (a.hidden, a.hidden), 0.02
        yield layer + "self_attn.k_proj.weight", (kv, a.hidden), 0.02
        yield layer + "self_attn.v_proj.weight", (kv, a.hidden), 0.02
        yield layer + "self_attn.o_proj.weight", (a.hidden, a.hidden), 0.02
        yield layer + "post_attention_layernorm.weight", (a.hidden,), None
        yield layer + "mlp.gate_proj.weight", (a.intermediate, a.hidden), 0.02
        yield layer + "mlp.up_proj.weight", (a.intermediate, a.hidden), 0.02
        yield layer + "mlp.down_proj.weight", (a.hidden, a.intermediate), 0.02
    yield "model.norm.weight", (a.hidden,), None
    yield "lm_head.weight", (a.vocab, a.hidden), 0.02


def encode(values, dtype):
    """Little-endian bytes of a list of floats."""
    if dtype == "float16":
        return struct.pack(f"<{len(values)}e", *values)
    floats = array.array("f", values)
    if sys.byteorder == "big":
        floats.byteswap()
    if dtype == "float32":
        return floats.tobytes()
    bits = array.array("I", floats.tobytes())
    rounded = array.array("H", [(b + 0x7FFF + (b >> 16 & 1)) >> 16 for b in bits])  # to nearest, ties to even
    return rounded.tobytes()


def make_pools(a):
    """By standard deviation: the encoded pool that tensors are cut from."""
    draw = random.Random(a.seed)
    normal = [draw.gauss(0, 1) for _ in range(POOL)]
    return {d: encode([d * x for x in normal] if d else [1.0] * PIECE, a.dtype) for d in {t[2] for t in tensors(a)}}


def write_tensor(file, pool, count, size, draw):
    while count > 0:
        n = min(count, PIECE)
        begin = draw.randrange(len(pool) // size - n + 1)
        file.write(pool[begin * size : (begin + n) * size])
        count -= n


def write_shard(path, shard, dtype, seed, pools):
    code, size = DTYPES[dtype]
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for _, name, shape, _ in shard:
        begin, end = end, end + math.prod(shape) * size
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".tmp", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number, _, shape, deviation in shard:
            write_tensor(file, pools[deviation], math.prod(shape), size, random.Random(seed * 1_000_003 + number))
    os.replace(path + ".tmp", path)
    return end


def write_weights(a):
    size, pools = DTYPES[a.dtype][1], make_pools(a)
    shards, room = [[]], a.shard_mb * 1_000_000
    for number, (name, shape, deviation) in enumerate(tensors(a)):
        need = math.prod(shape) * size
        if a.shard_mb and shards[-1] and need > room:
            shards.append([])
            room = a.shard_mb * 1_000_000
        shards[-1].append((number, name, shape, deviation))
        room -= need
    if not a.shard_mb:
        return write_shard(os.path.join(a.out, "model.safetensors"), shards[0], a.dtype, a.seed, pools)
    weight_map, total = {}, 0
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        total += write_shard(os.path.join(a.out, file), shard, a.dtype, a.seed, pools)
        weight_map.update({name: file for _, name, _, _ in shard})
    write_json(a, "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    return total


def write_json(a, name, value):
    with open(os.path.join(a.out, name), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", help="folder to write")
    p.add_argument("--tokenizer", help="a SentencePiece tokenizer.model to copy")
    p.add_argument("--layers", type=int, default=22)
    p.add_argument("--hidden", type=int, default=2048)
    p.add_argument("--intermediate", type=int, default=5632)
    p.add_argument("--heads", type=int, default=32)
    p.add_argument("--kv-heads", type=int, default=4)
    p.add_argument("--vocab", type=int, default=32000)
    p.add_argument("--max-position", type=int, default=2048)
    p.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--shard-mb", type=int, default=0, help="cut into shards of at most this many MB (0: one file)")
    a = p.parse_args()
    if a.hidden % a.heads or a.heads % a.kv_heads:
        p.error("hidden must be a multiple of heads, and heads of kv-heads")
    os.makedirs(a.out, exist_ok=True)
    total = write_weights(a)
    write_json(a, "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": a.hidden, "initializer_range": 0.02,
        "intermediate_size": a.intermediate, "max_position_embeddings": a.max_position, "num_attention_heads": a.heads,
        "num_hidden_layers": a.layers, "num_key_value_heads": a.kv_heads, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": a.dtype,
        "use_cache": True, "vocab_size": a.vocab,
    })
    if a.tokenizer:
        shutil.copyfile(a.tokenizer, os.path.join(a.out, "tokenizer.model"))
        write_json(a, "tokenizer_config.json", {
            "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False, "eos_token": "</s>", "legacy": False, "model_max_length": a.max_position,
            "pad_token": "</s>", "padding_side": "right", "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>", "use_default_system_prompt": False,
        })
    print(f"{a.out}: {a.layers} layers, {total / 1e6:.0f} MB of weights")


if __name__ == "__main__":
    main()
