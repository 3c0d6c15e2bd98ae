#!/bin/sh
# All tests: two lanes side by side, since most tests wait for servers or use one core, then the faults. Every process
# keeps its own servers, Ray and engines. Usage: tests/run.sh [PATH ...]; with paths, just those, in one process.
set -u
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ $# -eq 0 ] || exec "$python" -m pytest "$@"

c=tests/components
said=$(mktemp)
lane=
trap 'rm -f "$said"; [ -z "$lane" ] || kill "$lane" 2>/dev/null' EXIT
trap 'exit 130' INT TERM
code=0

library() {
    failed=0
    for part in "$c/training $c/rollout $c/rl $c/model $c/cluster" \
        "$c/data $c/evaluation $c/artifacts $c/lineage $c/recipe $c/simulation $c/telemetry $c/test_redact.py" \
        "$c/rewards $c/sandbox $c/release tests/faults/hostile" "tests/infra tests/tasks"; do
        "$python" -m pytest -p no:cacheprovider $part & # in the background, so that the trap below ends it at once
        running=$!
        trap 'kill "$running" 2>/dev/null; wait "$running"; exit 130' INT TERM
        wait "$running" || failed=1
    done
    exit $failed
}

(library) >"$said" 2>&1 &
lane=$!
"$python" -m pytest tests/e2e tests/flows tests/test_house.py || code=1
wait "$lane" || code=1
lane=
printf '\n---- tests of the library, run beside the above\n'
cat "$said"
printf '\n---- faults, and beside them those that want servers of their own, and Ray jobs\n'
own="tests/faults/test_servers.py tests/faults/test_time_and_races.py tests/faults/test_jobs.py tests/faults/test_rayjobs.py"
"$python" -m pytest -p no:cacheprovider $own >"$said" 2>&1 &
lane=$!
"$python" -m pytest tests/faults/test_damage.py tests/faults/test_kill_flow.py tests/faults/test_s3.py \
    tests/faults/test_workers.py tests/faults/test_team.py || code=1
wait "$lane" || code=1
lane=
cat "$said"
exit $code
