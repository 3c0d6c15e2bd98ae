#!/bin/sh
# Resolves pyproject.toml into requirements.lock, and uv itself into infra/install/uv.lock, both with hashes.
# Usage: make lock. The files name neither a machine path nor an index, so they install from whatever pip is configured with.
set -eu
cd "$(dirname "$0")/../.."
uv=.venv/bin/uv
[ -x "$uv" ] || { echo "lock: .venv/bin/uv is missing; run 'make install' first" >&2; exit 1; }
. infra/install/indexes.sh
python=.venv/bin/python
export_pip_settings

compile() {
    # A second try with PyTorch's CPU index, as in install.sh: only there is the CPU build public.
    "$uv" pip compile --no-config --quiet --generate-hashes --python-version 3.11 --custom-compile-command "make lock" "$@" ||
        "$uv" pip compile --no-config --quiet --generate-hashes --python-version 3.11 --custom-compile-command "make lock" \
            --extra-index-url "$TORCH_CPU_INDEX" --index-strategy unsafe-best-match "$@"
}

new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
[ "${UPGRADE:-}" ] || cp requirements.lock "$new/requirements.lock" # keeps pins that still fit; UPGRADE=1 moves all
compile pyproject.toml --extra cpu --extra dev --overrides infra/install/overrides.txt -o "$new/requirements.lock"
compile infra/install/uv.in -o "$new/uv.lock"
if ! grep -q '^torch==[0-9.]*+cpu' "$new/requirements.lock"; then
    echo "lock: the CPU build of torch was not found, so nothing was written" >&2
    exit 1
fi
cp "$new/requirements.lock" requirements.lock
cp "$new/uv.lock" infra/install/uv.lock
echo "lock: $(grep -c == requirements.lock) packages"
