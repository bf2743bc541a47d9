#!/usr/bin/env python3
"""Makes tests/golden/templates: what transformers' apply_chat_template renders.

For maintainers; needs transformers (with jinja2), trl, and the unpacked wheel of axolotl, from which some templates come.

    tools/make_template_golden.py --axolotl FOLDER     copies the templates, too
    tools/make_template_golden.py                      renders the templates that are there
"""
import argparse
import copy
import datetime
import json
import pathlib
import shutil

import trl
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "templates"

TRL = ["llama3", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "qwen3_6", "gemma", "gemma3", "phi3", "phi3_5", "deepseek_r1_distill", "deepseekv3",
       "cohere", "cohere2", "glm4moe", "lfm2", "qwen3_training", "gptoss"]
AXOLOTL = ["mistral_v1", "mistral_v2v3", "mistral_v7_tekken", "phi_4", "exaone4", "jamba", "command_a"]

class Clock:
    """What strftime_now reads."""
    now = staticmethod(lambda: datetime.datetime(2026, 1, 2, 3, 4, 5))


chat_template_utils.datetime = Clock

# --- language features ----------------------------------------------------------------------------------------------

MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
V = {"messages": MESSAGES, "n": 3, "f": 2.5, "s": "Hello World", "e": "", "l": [1, 2, 3], "d": {"b": 1, "a": [1, None, True]}, "t": True, "z": None,
     "u": "naïve 日本 ß Ωmega", "items": [{"n": "x", "v": 2, "o": {"k": "p"}}, {"n": "Y", "v": 1, "o": {"k": "q"}}, {"n": "z", "v": 3}]}

FEATURES = r"""
a{{ s }}b
{{ 1 }}{{ 1.5 }}{{ true }}{{ none }}{{ True }}{{ None }}{{ false }}
{{ missing }}|{{ missing is defined }}|{{ s is defined }}
{{ missing.attribute }}
{{ missing['x'] }}
{{ missing + 'x' }}
{{ missing ~ 'x' }}
{{ missing == 1 }}{{ missing == other }}{{ missing != 1 }}
{{ missing < 1 }}
{{ missing() }}
{{ d.nothing }}|{{ d.nothing is defined }}|{{ d['nothing'] }}
{{ d.nothing.more }}
{{ z.more }}
{{ z is none }}{{ z.more is defined }}
{{ s.nothing is defined }}{{ s['nothing'] is undefined }}
{% for x in missing %}a{% else %}none{% endfor %}
{{ 'l' in missing }}
{{ missing | length }}{{ missing | list }}{{ missing | upper }}
{% for x in l %}{{ x }}{% endfor %}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }},{% endfor %}
{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}
{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}
{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}
{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }}{% endfor %}
{% for x in l if x != 2 %}{{ loop.index }}{{ x }}{{ loop.last }}{% else %}none{% endfor %}
{% for x in l if x > 5 %}{{ x }}{% else %}none{% endfor %}
{% for x in [] %}{{ x }}{% else %}empty{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in d %}{{ k }}{% endfor %}
{% for c in 'añb' %}[{{ c }}]{% endfor %}
{% for a, (b, c) in [(1, (2, 3)), (4, (5, 6))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}
{% for a, b in [(1,)] %}{{ a }}{% endfor %}
{% for x in 5 %}{{ x }}{% endfor %}
{% for x in none %}{{ x }}{% endfor %}
{% for x in range(3) %}{{ x }}{% endfor %}{{ x is defined }}
{% for x in l %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}
{% for x in l %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in l %}{% for y in l %}{% if y == 2 %}{% break %}{% endif %}{{ x }}{{ y }}{% endfor %}{% endfor %}
{% for x in l %}{% for y in [1] %}{{ loop.index }}{{ loop.length }}{% endfor %}{{ loop.index }}{% endfor %}
{% for x in [[1, [2]], [3]] recursive %}{{ loop.depth }}{% if x is iterable %}[{{ loop(x) }}]{% else %}{{ x }}{% endif %}{% endfor %}
{% for x in l %}{{ loop(x) }}{% endfor %}
{% set x = 1 %}{% for y in l %}{{ x }}{% set x = y %}{{ x }},{% endfor %}{{ x }}
{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}
{% set ns = namespace(x=0, found=false) %}{% for y in l %}{% set ns.x = ns.x + y %}{% endfor %}{{ ns.x }}{{ ns.found }}{{ ns.nothing }}
{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{{ ns['a'] }}
{% set ns = namespace(_x=0) %}
{% set ns = namespace() %}{% set ns._x = 1 %}
{% set d.x = 1 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}
{% set a, b = 'xy' %}{{ a }}{{ b }}
{% set a = 1, %}{{ a }}
{% set a %}x{{ 1 + 1 }}y{% endset %}[{{ a }}]{{ a is string }}
{% set a | upper | replace('X', 'z') %}x{{ 'q' }}y{% endset %}[{{ a }}]
{% set a %}{% set inner = 1 %}{{ inner }}{% endset %}{{ a }}{{ inner is defined }}
{% if n > 2 %}a{% elif n > 1 %}b{% else %}c{% endif %}
{% if n > 5 %}a{% elif n > 1 %}b{% else %}c{% endif %}
{% if n > 5 %}a{% elif n > 4 %}b{% else %}c{% endif %}
{% if not e and l and d and s %}yes{% endif %}{% if e or z or [] or {} or 0 or 0.0 or missing %}no{% endif %}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}
{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% macro m(a, b=2, c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c='x') }}{{ m(b=1, a=0) }}{{ m() }}
{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}{{ m(1) }}
{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}
{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}
{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(3) }}
{% macro m() %}{{ g }}{% endmacro %}{% set g = 5 %}{{ m() }}
{% for x in l %}{% macro m() %}<{{ x }}>{% endmacro %}{{ m() }}{% endfor %}
{% macro m() %}{% set inner = 3 %}{{ inner }}{% endmacro %}{{ m() }}{{ inner is defined }}
{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}
{% macro m() %} x {% endmacro %}[{{ m() | trim }}]{{ m() | length }}
{% macro m(x) %}({{ caller() }}{{ x }}){% endmacro %}{% call m(1) %}body{% endcall %}
{% macro m() %}{% for i in l %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(i) m() %}<{{ i }}>{% endcall %}
{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}
{% filter upper %}abc{{ s }}{% endfilter %}
{% filter replace('a', 'b') | upper %}aXa{% endfilter %}
{% generation %}x{{ s }}{% endgeneration %}y
{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}
{% raw %}{{ x }} {% if %}{% endraw %}z
{%- raw -%}  {{ x }}  {%- endraw -%}  z
a {# comment #} b{#- x -#} c
  {# comment #}
x
  {% if true %}
a
  {% endif %}
b
a  {%- if true %}  b  {%- endif %}  c
a  {% if true -%}  b  {% endif -%}  c
a
  {%+ if true %}b{% endif +%}
c
{{ 'x' -}}   y   {{- 'z' }}
  {{ 'x' }}
  {{ 'y' }}
{% if true %}x{% endif %}


{% if true %}y{% endif %}
{% print 1, 2 %}
{{ 'a' 'b' "c" }}
{{ 'q\'s' }}{{ "d\"q" }}{{ 'n\nt\tb\\' }}{{ '\x41\u00e9\U0001F600\101' }}{{ '\q' }}
{{ "a
b" }}
{{ 1 + 2 * 3 - 4 / 2 }}{{ 7 // 2 }}{{ -7 // 2 }}{{ 7 % 3 }}{{ -7 % 3 }}{{ 2 ** 10 }}{{ 2 ** -1 }}{{ 7.5 // 2 }}{{ -7.5 % 2 }}
{{ 2 ** 3 ** 2 }}{{ -2 ** 2 }}{{ (1, 2) + (3,) }}{{ [1] + [2] }}{{ 'a' * 3 }}{{ 3 * 'ab' }}{{ [1] * 2 }}{{ 'a' * -1 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1.0 / 0 }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ [1] + (2,) }}
{{ z + 1 }}
{{ -s }}
{{ -n }}{{ +n }}{{ -f }}{{ -n | abs }}{{ (-n) | abs }}
{{ 0.1 + 0.2 }} {{ 1e16 }} {{ 1e15 }} {{ 1.5e-5 }} {{ 0.0001 }} {{ 1e100 }} {{ 123456789.125 }} {{ 10 / 4 }} {{ 4 / 2 }} {{ -0.0 }} {{ 5e-324 }} {{ 1e22 }}
{{ 1_000 }}{{ 0x1f }}{{ 0b101 }}{{ 0o17 }}{{ 1e3 }}{{ 1.5E2 }}
{{ 1 < 2 < 3 }}{{ 1 < 2 > 3 }}{{ 1 == 1.0 }}{{ true == 1 }}{{ 'a' < 'b' }}{{ [1, 2] < [1, 3] }}{{ 'a' == 1 }}{{ (1, 2) == (1, 2) }}{{ [1] == (1,) }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ [1] < [none] }}
{{ 2 in l }}{{ 5 not in l }}{{ 'b' in d }}{{ 'ell' in s }}{{ 'x' in ('x', 'y') }}{{ not 2 in l }}
{{ 1 in s }}
{{ 1 in 5 }}
{{ 'x' in none }}
{{ [] in d }}
{{ e or 'default' }}{{ s and n }}{{ e and n }}|{{ z or e or 0 }}{{ not s }}{{ not not s }}
{{ 'a' if n == 3 else 'b' }}{{ 'a' if n == 4 else 'b' }}{{ 'a' if n == 4 }}|{{ 'a' if n == 4 else 'b' if n == 3 else 'c' }}
{{ ('a' if n == 4).x }}
{{ 1 ~ 'a' ~ 2.0 ~ none ~ true ~ [1] }}
{{ l[0] }}{{ l[-1] }}{{ l[5] }}{{ l[5] is defined }}{{ s[0] }}{{ s[-1] }}{{ u[3] }}{{ l.0 }}{{ (1, 2)[1] }}
{{ l[1:] }}{{ l[:-1] }}{{ l[::-1] }}{{ l[::2] }}{{ l[5:] }}{{ l[-2:] }}{{ l[:] }}{{ l[2:0:-1] }}{{ l[-100:100] }}{{ l[100:-100:-1] }}
{{ s[1:4] }}{{ s[:-3] }}{{ s[::-1] }}{{ u[1:8] }}{{ u[::-2] }}{{ u[-4:] }}{{ s[3:1] }}{{ (1, 2, 3)[:2] }}{{ range(10)[2:5] | list }}
{{ l[::0] }}
{{ l['a'] is defined }}{{ n[0] is defined }}{{ z[0] is defined }}{{ d[0] is defined }}{{ (1, 2)['x'] is defined }}
{{ l['a':] }}
{{ d[1:] is defined }}
{{ z[1:] is defined }}
{{ n[1:] }}
{{ missing[1:] }}
{{ d }}{{ l }}{{ (1,) }}{{ () }}{{ [] }}{{ {} }}{{ {'a': 1, 2: 'b', none: true, 1.5: []} }}
{{ ['it\'s', "q\"", 'b\\n\n\t', 'é', '\x07', '\u200b', '\xa0', '\u3000', '\U0001F600', '\x7f', 'a\'"b'] }}
{{ {'a': 1, 'a': 2, 'b': 3} }}{{ {1: 'a', true: 'b', 1.0: 'c'} }}
{{ {[]: 1} }}
{{ d.b }}{{ d['b'] }}{{ d.a[0] }}{{ d.get('b') }}{{ d.get('q') }}{{ d.get('q', 5) }}
{{ d.keys() | list }}{{ d.values() | list }}{{ d.items() | list }}{{ d.keys() }}{{ d.items() }}{{ d.values() | length }}
{{ {'items': 5}.items is callable }}{{ {'items': 5}['items'] }}{{ d.get is callable }}{{ {'q': 1}['keys'] is callable }}
{{ d.update({'x': 1}) }}
{{ d.update is defined }}|{{ d.update }}
{{ l.append(4) }}
{{ l.pop is defined }}
{{ d.__class__ }}|{{ d.__class__ is defined }}
{{ s.__class__.__name__ }}
{{ l.index(2) }}{{ l.count(1) }}{{ (1, 2).index(2) }}{{ l.copy() }}{{ d.copy() }}
{{ l.index(9) }}
{{ s | trim }}{{ '  a ' | trim }}|{{ 'xxaxx' | trim('x') }}{{ 5 | trim }}{{ '\u3000a\x1c' | trim }}
{{ s | upper }}{{ s | lower }}{{ 'heLLo woRLd-foo (bar) [x' | title }}{{ 'heLLo woRLd' | capitalize }}{{ u | upper }}{{ u | lower }}{{ 5 | upper }}
{{ d | tojson }}{{ s | tojson }}{{ none | tojson }}{{ true | tojson }}{{ 1.0 | tojson }}{{ 1e20 | tojson }}{{ [] | tojson }}{{ {} | tojson }}{{ (1, 2) | tojson }}
{{ d | tojson(indent=2) }}{{ d | tojson(indent=0) }}{{ [] | tojson(indent=2) }}{{ {'a': {}} | tojson(indent=1) }}{{ d | tojson(indent='--') }}
{{ d | tojson(separators=(',', ':')) }}{{ d | tojson(sort_keys=true) }}{{ u | tojson }}{{ u | tojson(ensure_ascii=true) }}{{ '😀\x7f' | tojson(ensure_ascii=true) }}{{ d | tojson(indent=4, separators=(', ', ' : ')) }}
{{ '<a href="x">\'&\n\t\r\x08\x0c\x01\x7f/\\' | tojson }}
{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}
{{ missing | tojson }}
{{ range(3) | tojson }}
{{ d.keys() | tojson }}
{{ namespace(a=1) | tojson }}
{{ l | join }}{{ l | join(', ') }}{{ items | join('-', attribute='n') }}{{ s | join('.') }}{{ d | join(',') }}{{ [none, 1.5, 'x'] | join('|') }}{{ l | join(d=', ') }}
{{ 5 | join }}
{{ items | map(attribute='n') | join(',') }}{{ items | map(attribute='o') | list }}{{ items[:2] | map(attribute='o.k') | join(',') }}
{{ items | map(attribute='o.k') | join(',') }}
{{ items | map(attribute='o.k', default='?') | list }}
{{ l | map('string') | list }}{{ ['a', 'b'] | map('upper') | join }}{{ [' a '] | map('trim') | list }}{{ ['a-b'] | map('replace', '-', '+') | first }}{{ [[1, 2]] | map('join', '/') | list }}
{{ [1, 2] | map | list }}
{{ [1, 2] | map('nothing') | list }}
{{ items | selectattr('v', 'equalto', 2) | map(attribute='n') | list }}{{ items | selectattr('o') | list | length }}{{ items | rejectattr('o') | list | length }}{{ items | selectattr('o', 'defined') | list | length }}
{{ items | selectattr('v', '>', 1) | map(attribute='v') | list }}{{ items | rejectattr('v', 'in', [1, 2]) | map(attribute='v') | list }}{{ items | selectattr('n', 'ne', 'x') | map(attribute='n') | list }}
{{ l | select('odd') | list }}{{ l | reject('odd') | list }}{{ [0, 1, none, 'a'] | select | list }}{{ [0, 1, none, 'a'] | reject | list }}{{ l | select('divisibleby', 3) | list }}{{ [1, 'a'] | select('string') | list }}
{{ l | select('nothing') | list }}
{% if l | select('gt', 5) %}true{% endif %}{{ l | select('gt', 5) | list | length }}
{{ (l | select('odd'))[0] is defined }}
{{ (l | select('odd'))[0:1] }}
{{ l | select('odd') | length }}
{{ l | select('odd') | last }}
{{ l | select('odd') | join(',') }}{{ 3 in (l | select('odd')) }}{{ l | select('odd') is iterable }}{{ l | select('odd') is sequence }}
{% set g = l | map('string') %}{{ g | first }}{{ g | list }}{{ g | list }}
{{ missing | default('x') }}{{ z | default('x') }}{{ e | default('x') }}{{ e | default('x', true) }}{{ z | d('x', boolean=true) }}{{ missing | d }}{{ d.q | default(5) }}{{ s | default('x') }}
{{ missing.x | default('x') }}
{{ l | length }}{{ s | length }}{{ d | count }}{{ u | length }}{{ 'é' | length }}
{{ 5 | length }}
{{ none | length }}
{{ 'abc' | list }}{{ d | list }}{{ (1, 2) | list }}{{ d | items | list }}{{ missing | items | list }}
{{ 5 | items | list }}
{{ 5 | list }}
{{ d | dictsort }}{{ {'b': 1, 'A': 2} | dictsort }}{{ {'b': 1, 'A': 2} | dictsort(true) }}{{ {'b': 1, 'A': 2} | dictsort(by='value', reverse=true) }}
{{ l | first }}{{ l | last }}{{ [] | first }}|{{ [] | last is defined }}{{ s | first }}{{ u | last }}{{ d | first }}{{ d | last }}
{{ ([] | first).x }}
{{ 5 | string }}{{ 1.0 | string }}{{ none | string }}{{ [1] | string }}{{ missing | string }}
{{ '5' | int }}{{ '5.7' | int }}{{ 'x' | int }}{{ 'x' | int(7) }}{{ 5.9 | int }}{{ none | int }}{{ true | int }}{{ ' 12 ' | int }}{{ '1_0' | int }}{{ 'ff' | int(0, 16) }}{{ -5.9 | int }}{{ '1e2' | int }}
{{ '5' | float }}{{ 'x' | float }}{{ 5 | float }}{{ none | float(1.5) }}{{ '1e3' | float }}{{ ' .5 ' | float }}
{{ missing | int }}
{{ -5 | abs }}{{ (-5.5) | abs }}{{ true | abs }}
{{ 'x' | abs }}
{{ 2.567 | round }}{{ 2.567 | round(2) }}{{ 2.5 | round }}{{ 3.5 | round }}{{ 5 | round }}{{ 2.1 | round(0, 'ceil') }}{{ 2.19 | round(1, 'floor') }}{{ 2.5 | round | int }}
{{ l | sum }}{{ items | sum(attribute='v') }}{{ l | sum(start=10) }}{{ [] | sum }}{{ [0.5, 1] | sum }}
{{ ['a'] | sum }}
{{ l | reverse | list }}{{ s | reverse }}{{ u | reverse }}{{ d | reverse | list }}{{ l | map('string') | reverse | list }}
{{ [3, 1, 2] | sort }}{{ ['b', 'A', 'c'] | sort }}{{ ['b', 'A', 'c'] | sort(case_sensitive=true) }}{{ [3, 1, 2] | sort(reverse=true) }}{{ items | sort(attribute='v') | map(attribute='n') | list }}{{ ['B', 'b', 'a'] | sort }}
{{ [1, 'a'] | sort }}
{{ [1, 2, 1, 3, 2] | unique | list }}{{ ['a', 'A', 'b'] | unique | list }}{{ ['a', 'A'] | unique(true) | list }}{{ items | unique(attribute='v') | list | length }}
{{ l | min }}{{ l | max }}{{ ['b', 'A'] | min }}{{ ['b', 'A'] | max(case_sensitive=true) }}{{ [] | max }}|{{ items | max(attribute='v') }}{{ (items | min(attribute='v')).n }}
{{ 'a b a' | replace('a', 'x') }}{{ 'aaa' | replace('a', 'b', 2) }}{{ 'abc' | replace('', '-') }}{{ 5 | replace(5, 6) }}{{ 'a' | replace(old='a', new='b') }}
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ 'a\nb' | indent('> ') }}|{{ 'a\n' | indent(2) }}|
{{ '%s-%d' | format('a', 5) }}{{ '%05.2f' | format(3.14159) }}{{ '%(a)s' | format(a=1) }}{{ '%s' % 'x' }}{{ '%s %s' % ('a', 1) }}{{ '100%%' % () }}{{ '%x' % 255 }}{{ '%r' % 'a' }}{{ '%3d|%-3d|' % (1, 2) }}
{{ '%d' % 'a' }}
{{ '%s %s' % 'a' }}
{{ '%s' % (1, 2) }}
{{ 'x' % 1 }}
{{ 'x' | format(1) }}
{{ 'x' % [1] }}{{ 'x' % d }}{{ '%s' % d }}{{ '%(b)s' % d }}{{ (1,) in d }}{{ range(3) in d }}
{{ 'a' | safe }}{{ 5 | safe }}
{{ s | nothing }}
{{ s is nothing }}
{{ s | trim(1, 2) }}
{{ s | upper(x=1) }}
{{ 5 is odd }}{{ 4 is even }}{{ 9 is divisibleby 3 }}{{ 9 is divisibleby(2) }}{{ 9 is not divisibleby 3 }}{{ true is odd }}
{{ s is string }}{{ d is mapping }}{{ l is sequence }}{{ s is sequence }}{{ d is sequence }}{{ 5 is sequence }}{{ missing is sequence }}{{ l is iterable }}{{ 5 is iterable }}{{ s is iterable }}{{ missing is iterable }}{{ none is iterable }}
{{ 5 is number }}{{ 5.5 is number }}{{ true is number }}{{ s is number }}{{ 5 is integer }}{{ true is integer }}{{ 5.0 is integer }}{{ 5.0 is float }}{{ true is boolean }}{{ 1 is boolean }}
{{ true is true }}{{ 1 is true }}{{ false is false }}{{ 0 is false }}{{ none is none }}
{{ none is not none }}{{ z is none and not s is none }}{{ 1 is eq 1 }}{{ 1 is equalto(1) }}{{ 1 is ne 2 }}{{ 1 is lt 2 }}{{ 1 is ge 2 }}{{ 2 is in [1, 2] }}{{ 2 is not in l }}{{ 'a' is sameas 'a' }}{{ none is sameas none }}{{ true is sameas 1 }}
{{ 'abc' is lower }}{{ 'ABC' is upper }}{{ 'aBc' is lower }}{{ '1' is lower }}{{ range is callable }}{{ s is callable }}{{ 'upper' is filter }}{{ 'nothing' is filter }}{{ 'odd' is test }}
{{ s is defined and s is string }}{{ 1 if s is defined else 2 }}{{ s is string == true }}{{ l is sequence or missing.x }}
{{ '  a '.strip() }}|{{ '  a '.lstrip() }}|{{ '  a '.rstrip() }}|{{ 'xxaxx'.strip('x') }}{{ 'xya'.lstrip('yx') }}{{ '\n\na\n'.lstrip('\n') }}{{ 'éaé'.strip('é') }}{{ 'a'.strip(none) }}
{{ 'a,b,c'.split(',') }}{{ 'a b  c '.split() }}{{ 'a,b,c'.split(',', 1) }}{{ 'a,b,c'.rsplit(',', 1) }}{{ ' a b  c '.split(none, 1) }}{{ ' a b  c '.rsplit(none, 1) }}{{ ''.split() }}{{ ''.split(',') }}{{ 'a<t>b</t>c'.split('<t>')[-1].split('</t>')[0] }}{{ 'abc'.split(sep='b') }}{{ 'a,b,c'.split(',', maxsplit=1) }}
{{ 'a'.split('') }}
{{ s.startswith('Hell') }}{{ s.endswith('ld') }}{{ s.startswith(('x', 'H')) }}{{ s.startswith('lo', 3) }}{{ s.endswith('lo', 0, 5) }}{{ s.startswith('') }}{{ s.startswith('', 100) }}
{{ s.startswith(5) }}
{{ s.upper() }}{{ s.lower() }}{{ 'heLLo woRLd it\'s'.title() }}{{ 'heLLo'.capitalize() }}{{ 'aBc'.swapcase() }}
{{ s.replace('l', 'L') }}{{ s.replace('l', 'L', 1) }}{{ s.find('o') }}{{ s.rfind('o') }}{{ s.find('q') }}{{ s.index('W') }}{{ s.count('l') }}{{ u.find('本') }}{{ s.find('o', 5) }}{{ s.find('o', 5, 6) }}{{ s.count('') }}
{{ s.index('q') }}
{{ ', '.join(['a', 'b']) }}{{ '-'.join('abc') }}{{ ''.join([]) }}{{ ','.join(d) }}{{ ','.join(items | map(attribute='n')) }}
{{ ','.join([1]) }}
{{ 'a\nb\r\nc\x0bd\u2028e\n'.splitlines() }}{{ 'a\nb'.splitlines(true) }}{{ ''.splitlines() }}
{{ 'a=b=c'.partition('=') }}{{ 'a=b=c'.rpartition('=') }}{{ 'a'.partition('=') }}{{ 'a'.rpartition('=') }}{{ 'prefix-x'.removeprefix('prefix-') }}{{ 'x.py'.removesuffix('.py') }}
{{ 'abc'.isalpha() }}{{ 'ab1'.isalnum() }}{{ '12'.isdigit() }}{{ ' \n'.isspace() }}{{ 'abc'.islower() }}{{ 'ABC'.isupper() }}{{ ''.isdigit() }}{{ 'é'.isalpha() }}
{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '*') }}|{{ 'a'.center(4, '-') }}|{{ 'ab'.center(5, '-') }}|{{ '5'.zfill(3) }}{{ '-5'.zfill(4) }}{{ 'abc'.rjust(2) }}
{{ '{}-{}'.format('a', 1) }}{{ '{1}{0}'.format('a', 'b') }}{{ '{x}'.format(x=5) }}{{ '{{}}'.format() }}
{{ '{}'.format() }}
{{ range(3) | list }}{{ range(1, 4) | list }}{{ range(5, 0, -2) | list }}{{ range(0) | list }}{{ range(3) }}{{ range(1, 7, 2) }}{{ range(3)[1] }}{{ 2 in range(3) }}{{ range(3) | length }}{{ range(5)[-1] }}
{{ range(100001) | length }}
{{ range(1, 2, 0) }}
{{ range('a') }}
{{ dict(a=1, b='x') }}{{ dict() }}{{ dict({'a': 1}, b=2) }}{{ dict([('a', 1), ('b', 2)]) }}{{ dict(d, c=3).c }}
{{ raise_exception('stop: ' ~ n) }}
{% if false %}{{ raise_exception('no') }}{% endif %}ok
{{ strftime_now is defined }}{{ strftime_now('%%') }}{{ strftime_now('') }}x
{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d %H:%M:%S') }} {{ strftime_now('%A, %B %d, %Y') }}
{{ n() }}
{{ s.nothing() }}
{% macro f(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ f(*[1, 2]) }}{{ f(**{'a': 3, 'b': 4}) }}{{ f(1, **{'b': 5}) }}
{{ [1, 2, 3,] }}{{ (1, 2,) }}{{ {'a': 1,} }}{{ ((1)) }}{{ [[1], [2, [3]]] }}
{{ messages[0]['role'] }}{{ messages[0].content }}{{ messages[-1].role }}{{ messages[1:] | map(attribute='role') | list }}
{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{{ '\n' if not loop.last }}{% endfor %}
{% for m in messages if m.role != 'system' %}{{ loop.index0 % 2 == 0 }}{{ m.role }}{% endfor %}
{% set loop_messages = messages[1:] if messages[0].role == 'system' else messages %}{{ loop_messages | length }}
{% set system = (messages | selectattr('role', 'equalto', 'system') | list | first).content %}{{ system }}
{%- for m in messages -%}{%- if loop.first and m.role == 'system' -%}S{%- elif m.role == 'user' -%}U{%- else -%}A{%- endif -%}{%- endfor -%}
{{ messages | tojson }}
{{ 'a' if messages is defined and messages }}{{ tools is defined }}{{ tools }}
{{ x.y.z if x is defined }}{{ (d.a or [])[0] }}{{ d.get('a', [])[2] }}{{ (d.q or {}).get('z', 'none') }}
{{ "%s" | format(d.a[0]) ~ ('x' | upper) }}
{{ 'x' | upper ~ 'y' }}{{ -1 | string }}{{ 1 + 2 | string | int }}{{ not e | length }}{{ 'a' in 'abc' | upper }}{{ 1 == 1 | int }}
{{ l | length > 2 and d | length == 2 }}{{ (l | length - 1) }}{{ l[l | length - 1] }}{{ (messages | length - 1) - 1 }}
{{ [1, 2][0] + {'a': 5}.a }}{{ {'a': {'b': [10, 20]}}['a'].b[1] }}{{ 'abc'[1].upper() }}{{ [s][0][0:2] }}
{{ "a" is string and 1 is not string }}{{ s is not none and s | length > 0 }}
{{ true and 'x' or 'y' }}{{ false and 'x' or 'y' }}{{ 1 if 0 else 2 if 0 else 3 }}
{{ 'ß'.upper() }}{{ 'ÀÉ'.lower() }}{{ 'àé' | capitalize }}{{ 'straße' | title }}
{{ ('a', 'b') | join('+') }}{{ 'abc' | join(',') }}{{ [('a', 1)] | map('first') | list }}{{ [[3, 4]] | map('last') | list }}{{ items | map(attribute='o') | select('defined') | list | length }}
{{ {'a': none} | tojson }}{{ [1.5, -2, 1e-7] | tojson }}{{ {'x': {'y': [1, {'z': 2}]}} | tojson(indent=2) }}
{{ '' ~ none }}{{ '' ~ 1.0 }}{{ 1 ~ 2 }}{{ [1, 'a', none, 1.5, true] }}
{%- if missing %}x{%- endif %}{% if messages[5] is defined %}x{% endif %}{% if d.x is defined and d.x %}x{% endif %}-
{% if s == 'Hello World' and not (n == 4 or n == 5) %}ok{% endif %}
{% set x = {'a': 1} %}{% set y = x %}{{ y is sameas x }}{{ {'a': 1} == x }}{{ {'a': 1.0} == x }}
{% set x = l + [4] %}{{ x }}{{ l }}
{% for x in l | reverse %}{{ x }}{% endfor %}{% for k, v in d | items %}{{ k }}{% endfor %}{% for k, v in d | dictsort %}{{ k }}{% endfor %}
{% for x in l -%}
    {{ x }}
{%- endfor %}
{% for x in l: %}{{ x }}{% endfor %}
{{ {'a': 1}.a }}{{ [1, 2].0 }}{{ 'abc'.0 }}
{% for x in l %}{% set y = x %}{% if loop.last %}{{ y }}{% endif %}{% endfor %}{{ y is defined }}
{{ 'a' not in s }}{{ not 'a' in s }}{{ 'H' in s and 'W' in s }}{{ 1 in [1] == true }}
{{ 9223372036854775807 }}{{ -9223372036854775807 }}{{ 4611686018427387904 * 1 }}
{{ loop is defined }}{{ caller is defined }}{{ range is defined }}{{ namespace is defined }}{{ true is defined }}
{% set range = 5 %}{{ range }}
{% set messages = messages[1:] %}{{ messages | length }}
{{ }}
{{ 1 + }}
{% if %}{% endif %}
{% if true %}
{% endif %}
{% for x in l %}
{% nothing %}
{{ 'open
{{ (1 }}
{{ 1) }}
{% set 5 = 1 %}
{% set true = 1 %}
{% break %}
{# open
{% raw %}x
{{ s | }}
{{ s is }}
{{ a.b. }}
{{ $ }}
{{ a ? b }}
{% for x l %}{% endfor %}
{% else %}
{% macro m(a=1, b) %}{% endmacro %}
{{ f(a=1, 2) }}
{{ x is string is string }}
{% endfor %}
{{ 012 }}
{{ 1.2.3 }}
""".strip("\n")


def feature_list():
    """Templates: one a line, and those that go over several lines as written here."""
    lines = []
    several = {"  {# comment #}": 2, "  {% if true %}": 4, "a": 0, "{% if true %}x{% endif %}": 4, '{{ "a': 2, "  {{ 'x' }}": 2, "{% for x in l -%}": 3}
    text = FEATURES.split("\n")
    at = 0
    while at < len(text):
        count = several.get(text[at], 1) or 3
        lines.append("\n".join(text[at:at + count]))
        at += count
    return lines + ["", "\n", "a\n", "a\n\n", "\r\n{% if true %}\r\nx\r{% endif %}\r\n", "{{ 1 }}\n", "   {% if true %}x{% endif %}   \n", "{% if true %}\n\nx{% endif %}",
                    "\t{%- if true +%}\nx{% endif %}", "x {#- a -#}  y", "x\n  {#+ a #}\ny", "{{- 'x' -}}", "\u3000{%- if true -%}\u3000x{% endif %}", "{{ 'x' }}\n\n{{ 'y' }}\n\n",
                    "{% for m in messages %}\n{% if m.role == 'user' %}\n{{ m.content }}\n{% endif %}\n{% endfor %}", "{%raw%}\n x {%endraw%}\n y", "{% raw %}a{% endraw -%}  b", "{% raw -%}  a  {%+ endraw %}\nb"]


def render(template, variables):
    try:
        return chat_template_utils._compile_jinja_template(template).render(**copy.deepcopy(variables))
    except Exception as error:  # whatever Python raises ends the rendering
        print(f"    {template[:70]!r}: {type(error).__name__}: {error}")
        return None


# --- the families ---------------------------------------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "get_weather", "description": "The weather in a city & its <region>.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "Like \"Köln\""}, "days": {"type": "integer", "enum": [1, 2, 3]},
                                     "opts": {"type": "array", "items": {"type": "number"}}}, "required": ["city"]}}}


def m(role, content=None, **more):
    return {"role": role, **({} if content is None else {"content": content}), **more}


CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2, "exact": True, "ratio": 1.0, "none": None}}}
CONVERSATIONS = [
    {"messages": [m("user", "Hello")]},
    {"messages": [m("user", "Hello"), m("assistant", "Hi there.")]},
    {"messages": [m("system", " Be kind. "), m("user", "  One\n"), m("assistant", " Two \n"), m("user", "Three é😀")]},
    {"messages": [m("system", "Be kind."), m("user", "One"), m("assistant", "<think>\nhm\n</think>\n\nTwo"), m("user", "Three"), m("assistant", "<think>\nwell\n</think>\n\nFour")]},
    {"messages": [m("user", "One"), m("assistant", "Two", reasoning_content="because"), m("user", "Three"), m("assistant", "Four", thinking="so")]},
    {"messages": [m("user", "Weather?"), m("assistant", tool_calls=[CALL]), m("tool", "{\"sun\": true}", tool_call_id="abcdefghi", name="get_weather"), m("assistant", "Sunny.")], "tools": [TOOL]},
    {"messages": [m("system", "Use tools."), m("user", "Weather?")], "tools": [TOOL, TOOL]},
    {"messages": [m("user", "Weather?"), m("assistant", "", tool_calls=[CALL, CALL]), m("tool", "sun"), m("tool", "rain"), m("user", "Thanks")], "tools": [TOOL]},
    {"messages": [m("user", "Think not"), m("assistant", "No")], "variables": {"enable_thinking": False}},
    {"messages": [m("user", "a"), m("user", "b")]},
    {"messages": [m("assistant", "only me")]},
    {"messages": [m("system", "only the system")]},
    {"messages": [m("user", "{{ braces }} {% raw %} <|im_end|> </s> 'q' \"d\"\r\n\t"), m("assistant", "")]},
    {"messages": [m("developer", "late"), m("user", "x", name="Ann")], "variables": {"date_string": "1 Jan 2026", "custom": [1, {"a": None}]}},
]


def family_cases(names):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    cases = []
    for name in names:
        text = (GOLDEN / f"{name}.jinja").read_text()
        rendered = 0
        for conversation in CONVERSATIONS:
            for prompt in (False, True):
                variables = conversation.get("variables", {})
                case = {"template": name, **conversation, "add_generation_prompt": prompt}
                try:
                    case["text"] = tokenizer.apply_chat_template(conversation["messages"], tools=conversation.get("tools"), chat_template=text, tokenize=False,
                                                                 add_generation_prompt=prompt, **variables)
                    rendered += 1
                except Exception as error:
                    case["text"] = None
                    print(f"    {name}: {type(error).__name__}: {error}")
                cases.append(case)
        print(f"{name}: {rendered} of {2 * len(CONVERSATIONS)} are rendered")
    return cases


def write_lines(path, rows):
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axolotl", type=pathlib.Path, help="the unpacked wheel")
    arguments = parser.parse_args()
    GOLDEN.mkdir(parents=True, exist_ok=True)
    if arguments.axolotl:
        for name in TRL:
            shutil.copyfile(pathlib.Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja", GOLDEN / f"{name}.jinja")
        for name in AXOLOTL:
            shutil.copyfile(arguments.axolotl / "axolotl/utils/chat_templates/templates" / f"{name}.jinja", GOLDEN / f"{name}.jinja")
    features = [{"template": template, "text": render(template, V)} for template in feature_list()]
    write_lines(GOLDEN / "features.json", [{"variables": V}] + features)
    print(f"{len(features)} features, {sum(f['text'] is None for f in features)} of them refused")
    write_lines(GOLDEN / "families.json", family_cases(sorted(path.stem for path in GOLDEN.glob("*.jinja"))))


if __name__ == "__main__":
    main()
