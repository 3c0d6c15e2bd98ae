"""Ray's Jobs API beside a running head: `python -m infra.stack.ray_jobs --address=... --temp-dir=... --port=...`.

Ray starts it with the whole dashboard, which is a dozen processes and, on two cores, as long a start as all other
servers together. Here it is the dashboard's HTTP server with one module, a process of its own: switching it on or off
leaves the head, and what runs in it, alone. The token of the head is asked of every request.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import time
from pathlib import Path

HEAD_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--address", "--temp-dir", "--port"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    session = os.path.realpath(Path(given.temp_dir) / "session_latest")

    import ray
    from ray._raylet import GcsClient

    gcs = GcsClient(address=given.address)
    name_the_head(gcs)
    script = Path(ray.__file__).parent / "dashboard" / "dashboard.py"
    sys.argv = [
        str(script),
        *("--host=127.0.0.1", f"--port={given.port}", "--node-ip-address=127.0.0.1"),
        *(f"--temp-dir={given.temp_dir}", f"--session-dir={session}", f"--log-dir={session}/logs"),
        *(f"--gcs-address={given.address}", f"--cluster-id-hex={gcs.cluster_id.hex()}"),
        "--modules-to-load=JobHead",
    ]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


def name_the_head(gcs) -> None:
    """Jobs start on the head, whose id another module of the dashboard (NodeHead) would write down."""
    from ray._private import ray_constants

    give_up = time.monotonic() + HEAD_S
    while True:
        nodes = gcs.get_all_node_info(timeout=10)
        heads = [key.hex() for key, node in nodes.items() if node.is_head_node and not node.end_time_ms]
        if heads:
            break
        if time.monotonic() > give_up:
            raise SystemExit(f"Ray has no head node after {HEAD_S:g} s")
        time.sleep(0.2)
    key, place = ray_constants.KV_HEAD_NODE_ID_KEY, ray_constants.KV_NAMESPACE_JOB
    gcs.internal_kv_put(key, heads[0].encode(), True, namespace=place)


if __name__ == "__main__":
    main()
