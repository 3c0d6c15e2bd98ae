"""`ray start` without the parts that a local stack does not use; run as `python -m infra.stack.ray_head start --head`.

The command line of Ray imports Ray Serve (and with it pandas: most of its start time) only to offer `ray serve`, and
starts a Ray Client proxy whenever grpc is installed. Drivers here connect directly.
"""

from __future__ import annotations

import sys


def main() -> None:
    sys.modules["ray.serve.scripts"] = None  # type: ignore[assignment]  # Ray logs this at debug level and goes on
    from ray.scripts import scripts

    scripts.get_ray_client_dependency_error = lambda: "Ray Client is not part of the local stack"
    sys.argv[0] = "ray"
    scripts.main()


if __name__ == "__main__":
    main()
