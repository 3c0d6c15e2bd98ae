#!/bin/sh
# languages.sh PYTHON: installs Debian's packages of the languages that the sandbox misses here, then says what it has.
# Usage: make languages. About 2 GB with everything missing. See docs/sandbox.md.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "languages: $*" >&2
    exit 1
}

packages=$("$1" -c '
from components.sandbox.languages import LANGUAGES, missing_tools
print(*sorted({name for row in LANGUAGES if missing_tools(row) for name in row.packages}))')
if [ -n "$packages" ]; then
    command -v apt-get >/dev/null || fail "this is no Debian; install what holds: $packages"
    [ "$(id -u)" = 0 ] || fail "run: sudo apt-get install --no-install-recommends $packages"
    echo "languages: Debian packages $packages"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null ||
        fail "apt-get could not install them (see above)"
fi
"$1" -m flows.cli sandbox languages
