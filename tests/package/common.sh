# shellcheck shell=bash
# What the scripts of this folder share. Needs KTO, the program; makes a scratch folder WORK that goes away at the end.
set -u
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
failures=0

wrong() {
    echo "$*"
    failures=$((failures + 1))
}

# The names of all commands, as help lists them.
command_names() {
    "$KTO" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z-]\+\( [a-z-]\+\)\?\)\(  .*\|$\)/\1/p'
}

# The flags of a command, as its help lists them.
command_flags() {
    # shellcheck disable=SC2086
    "$KTO" help $1 | sed -n '/^Options:/,/^$/s/^  \(--[a-z0-9-]\+\).*/\1/p'
}

config_keys() {
    "$KTO" help keys | sed -n 's/^  \([a-z]\+\.[a-z_0-9]\+\).*/\1/p'
}
