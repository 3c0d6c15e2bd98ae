"""`mlflow server` in one process; run as `python -m infra.stack.mlflow_server --host ...`.

The command imports all of MLflow to prepare the database, and then starts uvicorn as a child that imports all of it
again: twice the memory and the start time. Here uvicorn runs in the process that is already loaded. A later MLflow that
renames the hook starts its child as usual.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def _serve_here(command: list[str], *, extra_env: dict[str, str] | None = None, **ignored: Any) -> None:
    import uvicorn

    os.environ.update(extra_env or {})
    uvicorn.main(command[command.index("uvicorn") + 1 :])


def main() -> None:
    import mlflow.server
    from mlflow.cli import server

    mlflow.server._exec_cmd = _serve_here
    server(sys.argv[1:])


if __name__ == "__main__":
    main()
