#!/usr/bin/env bash
# libconfig 1.5 reads an integer beyond 32 bits as another number, without an error.
#
# Expected: "tokens = 3000000000;" is an error, or an integer of 64 bits, which config_lookup_int64 is there to read.
# Happens: without the suffix L the text is cut to 32 bits when it is parsed, so that config_lookup_int64 succeeds and gives
#   the wrong number; with L, what exceeds 64 bits becomes the largest that fits. config_read_string says that all is well.
# Seen:
#   3000000000           -1294967296
#   4294967297           1
#   99999999999999999999 -1
#   3000000000L          3000000000
#   9223372036854775808L 9223372036854775807
# A program that takes sizes or token counts from libconfig must check the number's text.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -q libconfig9=1.5-0.4 >/dev/null 2>&1
dpkg -x libconfig9_*.deb lib
cat >look.py <<'END'
import ctypes, glob

library = ctypes.CDLL(glob.glob("lib/usr/lib/*/libconfig.so.9")[0])
for text in "3000000000", "4294967297", "99999999999999999999", "3000000000L", "9223372036854775808L":
    config = ctypes.create_string_buffer(4096)  # a config_t
    library.config_init(config)
    assert library.config_read_string(config, f"tokens = {text};".encode())
    value = ctypes.c_longlong()
    assert library.config_lookup_int64(config, b"tokens", ctypes.byref(value))
    print(f"{text:20} {value.value}")
END
python3 look.py | tee seen
diff - seen <<'END'
3000000000           -1294967296
4294967297           1
99999999999999999999 -1
3000000000L          3000000000
9223372036854775808L 9223372036854775807
END
