#!/usr/bin/env bash
# The manual pages: one for each command with all its flags, all keys in kto.cfg(5), and nothing that man, groff or mandoc
# warn of.
. "${BASH_SOURCE[0]%/*}/common.sh"
"$KTO" man --dir "$WORK" || exit 1
tools=0

text() { # FILE: as plain text, unbroken
    sed 's/\\-/-/g' "$1"
}

page() { # NAME FILE
    "$KTO" man $1 | cmp - "$WORK/$2" || wrong "kto man $1 prints another page than --dir writes"
    local section
    for section in NAME SYNOPSIS DESCRIPTION OPTIONS 'EXIT STATUS' EXAMPLES 'SEE ALSO'; do
        [[ $2 == *.5 && $section =~ ^(SYN|OPT|EXIT) ]] || grep -q "^\.SH $section" "$WORK/$2" || wrong "$2 has no $section"
    done
}

page '' kto.1
page kto.cfg kto.cfg.5
while read -r name; do
    file=kto-${name// /-}.1
    page "$name" "$file"
    text "$WORK/kto.1" | grep -qF "kto-${name// /-} (1)" || wrong "kto.1 does not name $name"
    for flag in $(command_flags "$name"); do
        text "$WORK/$file" | grep -qF "\\fB$flag\\fR" || wrong "$file does not have $flag"
    done
done < <(command_names)
for key in $(config_keys); do
    grep -qF "\\fB$key\\fR" "$WORK/kto.cfg.5" || wrong "kto.cfg.5 does not have $key"
done

silent() { # NAME COMMAND...: says nothing of the page
    local name=$1
    shift
    "$@" >"$WORK/warnings" 2>&1 || true
    [[ ! -s $WORK/warnings ]] || wrong "$name: $(cat "$WORK/warnings")"
}
for file in "$WORK"/*.[15]; do
    if command -v mandoc >/dev/null; then silent mandoc mandoc -T lint -W warning "$file"; fi
    if command -v groff >/dev/null; then silent groff groff -man -ww -z "$file"; fi
    if command -v man >/dev/null && command -v groff >/dev/null; then
        silent man env LC_ALL=C.UTF-8 MANROFFSEQ='' MANWIDTH=80 sh -c 'man --warnings -E UTF-8 -l -Tutf8 -Z "$1" 2>&1 >/dev/null' sh "$file"
    fi
done
for tool in mandoc groff; do command -v $tool >/dev/null && tools=$((tools + 1)); done
((failures == 0)) || exit 1
((tools)) || {
    echo "skipped: neither groff nor mandoc is installed to judge the pages"
    exit 77
}
