"""`ray start` without what a local stack does not use; run as `python -m infra.stack.ray_head start --head ...`.

Measured on two cores, half of the start time of `ray start` went into these:
- its command line imports Ray Serve, and with it pandas, only to offer `ray serve`;
- it starts a Ray Client proxy whenever grpc is installed (drivers here connect directly);
- with --include-dashboard=false it still starts the dashboard process, for usage statistics that are switched off.

Two of its deadlines are too short when other servers start on the same two cores, and end the head:
- the raylet gets 30 s to register with the GCS;
- the raylet gives its dashboard agent 15 s to import, only to learn a port that was chosen here and that `ray start`
  does not pass on. The port is written where the raylet looks before the raylet starts.
A later Ray that renames these internals starts as usual, only slower.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

REGISTRATION_S = 120.0


def main() -> None:
    # The sign that the head has finished starting (services.py waits for it): Ray leaves a file of the last start alone
    # when the address is the same.
    for argument in sys.argv:
        if argument.startswith("--temp-dir="):
            Path(argument.removeprefix("--temp-dir="), "ray_current_cluster").unlink(missing_ok=True)

    sys.modules["ray.serve.scripts"] = None  # type: ignore[assignment]  # Ray logs this at debug level and goes on
    from ray._private import services
    from ray._private.node import Node
    from ray._raylet import DASHBOARD_AGENT_LISTEN_PORT_NAME, persist_port
    from ray.scripts import scripts

    node_info, start_raylet = services.get_node, Node.start_raylet

    def wait_for_node(*arguments: Any) -> Any:
        give_up = time.monotonic() + REGISTRATION_S
        while True:
            try:
                return node_info(*arguments)
            except RuntimeError:
                if time.monotonic() > give_up or running[-1].dead_processes():
                    raise
                time.sleep(0.1)

    running: list[Node] = []

    def start_raylet_with_port(self: Node, *arguments: Any, **options: Any) -> Any:
        running.append(self)
        port = self._ray_params.dashboard_agent_listen_port
        persist_port(self._session_dir, self._node_id, DASHBOARD_AGENT_LISTEN_PORT_NAME, port)
        return start_raylet(self, *arguments, **options)

    services.get_node = wait_for_node
    Node.start_raylet = start_raylet_with_port
    Node.start_api_server = lambda self, **ignored: None
    scripts.get_ray_client_dependency_error = lambda: "Ray Client is not part of the local stack"
    sys.argv[0] = "ray"
    scripts.main()


if __name__ == "__main__":
    main()
