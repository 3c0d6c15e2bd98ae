#!/bin/sh
# All tests, in processes that each keep their own Ray and engines, one after another: faults want a machine to themselves.
# Usage: tests/run.sh [PATH ...]; with paths, just those.
set -u
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ $# -eq 0 ] || exec "$python" -m pytest "$@"
c=tests/components
code=0
"$python" -m pytest tests/e2e tests/flows tests/infra tests/tasks tests/test_house.py || code=1
"$python" -m pytest $c/training $c/rollout $c/rl $c/model $c/cluster || code=1
"$python" -m pytest $c/data $c/evaluation $c/artifacts $c/lineage $c/recipe || code=1
"$python" -m pytest $c/rewards $c/sandbox $c/release tests/faults || code=1
exit $code
