#!/bin/sh
# All tests in two lanes side by side, because most of them wait for servers or use one core: the pipeline on
# the real stack, and the library with the faults. Usage: tests/run.sh [PATH ...]; with paths, just those, in one lane.
set -u
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ $# -eq 0 ] || exec "$python" -m pytest "$@"

library=$(mktemp)
trap 'rm -f "$library"; kill "$lane" 2>/dev/null' EXIT INT TERM
"$python" -m pytest -p no:cacheprovider tests/components tests/faults tests/test_house.py >"$library" 2>&1 &
lane=$!
"$python" -m pytest tests/e2e tests/flows tests/infra tests/tasks
servers=$?
wait "$lane"
code=$?
lane=
printf '\n---- tests/components and tests/faults, run beside the above\n'
cat "$library"
[ "$servers" -eq 0 ] && exit "$code"
exit "$servers"
