"""`python -m infra.stack up|down|status`: the stack without the rest of ringflow."""

from __future__ import annotations

import sys

from components.failures import RingflowError
from infra import stack


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["up"]:
                state = stack.up(report=print)
                print(*state.notes, f"healthy after {state.seconds:.1f} s, state in {state.home}", sep="\n")
            case ["down"]:
                print(f"ended {len(stack.down())} processes")
            case ["status"]:
                services = stack.status()
                for service in services:
                    print(f"{service.name:8} {service.state:10} {service.url} {service.detail}".rstrip())
                return 0 if all(service.state == "healthy" for service in services) else 1
            case _:
                print("usage: python -m infra.stack up|down|status", file=sys.stderr)
                return 2
    except RingflowError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
