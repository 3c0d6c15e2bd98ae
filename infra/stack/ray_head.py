"""`ray start` without what a local stack does not use; run as `python -m infra.stack.ray_head start --head ...`.

Measured on two cores, half of the start time of `ray start` went into these:
- its command line imports Ray Serve, and with it pandas, only to offer `ray serve`;
- it starts a Ray Client proxy whenever grpc is installed (drivers here connect directly);
- with --include-dashboard=false it still starts the dashboard process, for usage statistics that are switched off.
It also gives the raylet 30 seconds to register, too few when other servers start on the same two cores.
A later Ray that renames these internals starts as usual, only slower.
"""

from __future__ import annotations

import sys
import time
from typing import Any

REGISTRATION_S = 120.0


def main() -> None:
    sys.modules["ray.serve.scripts"] = None  # type: ignore[assignment]  # Ray logs this at debug level and goes on
    from ray._private import services
    from ray._private.node import Node
    from ray.scripts import scripts

    node_info = services.get_node

    def wait_for_node(*arguments: Any) -> Any:
        give_up = time.monotonic() + REGISTRATION_S
        while True:
            try:
                return node_info(*arguments)
            except RuntimeError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)

    services.get_node = wait_for_node
    Node.start_api_server = lambda self, **ignored: None
    scripts.get_ray_client_dependency_error = lambda: "Ray Client is not part of the local stack"
    sys.argv[0] = "ray"
    scripts.main()


if __name__ == "__main__":
    main()
