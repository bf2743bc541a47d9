#!/usr/bin/env bash
# transformers 5.24.0 writes a tokenizer_config.json that JSON readers with 64-bit integers refuse as a whole.
#
# Expected: a tokenizer without a length limit is saved without model_max_length, or with null, or with a number that any
#   JSON reader takes.
# Happens: "model_max_length": 1000000000000000019884624838656, int(1e30) as Python prints it, some 2^40 times what 64
#   bits hold. Python's own json reads it back, so nobody notices; jansson 2.14 and simdjson refuse the file, also where
#   that key is not asked for, and orjson gives a float in its place.
# Seen:
#   writes   1000000000000000019884624838656
#   json     1000000000000000019884624838656
#   orjson   1e+30
#   simdjson BIGINT_ERROR
#   jansson  too big integer
# A reader in C: decode integers as reals (jansson's JSON_DECODE_INT_AS_REAL) and check those that are used.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check transformers==5.24.0 tokenizers==0.23.3 orjson==3.13.0 pysimdjson==7.0.2
apt-get download -q libjansson4=2.14-2 >/dev/null 2>&1
dpkg -x libjansson4_*.deb jansson
cat >look.py <<'END'
import ctypes, glob, json
import orjson, simdjson
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "<unk>": 2}, [], unk_token="<unk>"))
PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained("saved")
text = open("saved/tokenizer_config.json", "rb").read()
print("writes  ", next(line.split(b": ")[1].rstrip(b",").decode() for line in text.splitlines() if b"max_length" in line))
print("json    ", json.loads(text)["model_max_length"])
print("orjson  ", orjson.loads(text)["model_max_length"])
try:
    print("simdjson", simdjson.Parser().parse(text).as_dict()["model_max_length"])
except RuntimeError as error:
    print("simdjson", str(error).split(":")[0])
jansson = ctypes.CDLL(glob.glob("jansson/usr/lib/*/libjansson.so.4")[0])
jansson.json_loads.restype = ctypes.c_void_p
error = ctypes.create_string_buffer(512)  # json_error_t: three ints, source[80], text[160]
value = jansson.json_loads(text, 0, error)
print("jansson ", "reads it" if value else error.raw[12 + 80:].split(b"\0")[0].decode().split(" near")[0])
END
TRANSFORMERS_VERBOSITY=error venv/bin/python look.py 2>/dev/null | tee seen
diff - seen <<'END'
writes   1000000000000000019884624838656
json     1000000000000000019884624838656
orjson   1e+30
simdjson BIGINT_ERROR
jansson  too big integer
END
