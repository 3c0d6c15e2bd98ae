#!/bin/sh
# Makes .venv hold exactly what requirements.lock names, every file checked against its hash, plus ringflow itself.
# Usage: make install. Idempotent: with nothing changed it compares one checksum and ends. See docs/install.md.
set -eu
cd "$(dirname "$0")/../.."
. infra/install/indexes.sh
stamp=.venv/.ringflow-installed

fail() {
    echo "install: $*" >&2
    exit 1
}

fingerprint() {
    cat requirements.lock pyproject.toml infra/install/* | sha256sum | cut -d ' ' -f 1
}

have_311() {
    [ "$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = 3.11 ]
}

find_python() {
    for candidate in ${PYTHON:-} python3.11 python3 python; do
        if have_311 "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 is needed, and neither PYTHON, python3.11, python3 nor python is one (python3 here: $(
        python3 --version 2>/dev/null || echo none)). Install Python 3.11, or name it: make install PYTHON=/path/to/python3.11"
}

# debian PACKAGES...: installs them when this user may, else fails with the one command that does it.
debian() {
    command -v apt-get >/dev/null || fail "missing here: $1. Install the packages that hold: $*"
    [ "$(id -u)" = 0 ] || fail "missing here: $1. Run: sudo apt-get install $*"
    echo "install: Debian packages $*"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "$@"; } >/dev/null ||
        fail "apt-get could not install $*; install them by hand and run this again"
}

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] ||
    fail "the CPU lock is for Linux on x86_64, this is $(uname -s) on $(uname -m); see docs/install.md"
if [ -x .venv/bin/python ] && have_311 .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=.venv/bin/python
else
    python=$(find_python)
    # Debian ships Python without the part of venv that brings pip.
    "$python" -c 'import ensurepip, venv' 2>/dev/null || debian python3.11-venv
    rm -rf .venv
    "$python" -m venv .venv || fail "could not create .venv with $python (disk full, or not writable?)"
    python=.venv/bin/python
fi
rm -f "$stamp"

# torch.compile (megatron-core's fused functions, vLLM's sampler) builds C++ kernels against Python's headers.
command -v "${CXX:-g++}" >/dev/null || debian g++
"$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || debian python3.11-dev

"$python" -m pip install --quiet --disable-pip-version-check --require-hashes -r infra/install/uv.lock ||
    fail "pip could not install uv (see above): is a package index reachable?"

export_pip_settings
# Byte code is compiled once, here: where Python may not write it later, every server, worker and test would compile its
# imports again, at 10 to 30 seconds each.
export UV_COMPILE_BYTECODE=1 UV_COMPILE_BYTECODE_TIMEOUT=300
export VIRTUAL_ENV="$PWD/.venv" UV_NO_CONFIG=1 UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}"
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
sync() {
    .venv/bin/uv pip sync --quiet --require-hashes "$@" requirements.lock
}
if ! sync 2>"$errors"; then
    grep -q torch "$errors" || { cat "$errors" >&2; fail "uv could not install requirements.lock (see above)"; }
    echo "install: the CPU build of torch is not where pip is configured to look; asking PyTorch's CPU index"
    # Every file must match a hash of the lock, so a second index cannot bring in another package of the same name.
    sync --extra-index-url "$TORCH_CPU_INDEX" --index-strategy unsafe-best-match 2>"$errors" ||
        { cat "$errors" >&2; fail "uv could not install requirements.lock (see above)"; }
fi
.venv/bin/uv pip install --quiet --no-deps --no-build-isolation --editable . || fail "could not install ringflow itself (see above)"
fingerprint >"$stamp"
echo "install: done, .venv holds $(grep -c == requirements.lock) packages"
