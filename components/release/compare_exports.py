"""Log-probs that vLLM computes from exports of one model, against those of a reference export.

For a machine with a GPU, where the kernels of a quantised export can be asked, and nothing of a stack stands: it needs
vLLM and the exported directories, and neither Ray nor a trainer nor servers. Each directory is loaded in a process of
its own, so that one after another has all the memory.

    python -m components.release.compare_exports BFLOAT16 INT4 FP8 --sequences sequences.json

sequences.json: [[tokens, prompt length], ...]; what comes after the prompt is scored. One JSON object per export goes
to stdout, with the differences that the stage `release` would look at (components.release.parity). The exit code is 1
when one is outside the tolerance or could not be loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from components.failures import BadInput, InfrastructureError
from components.release.parity import Parity, ReleasedEngine, Scored, compare_logprobs

MODULE = "components.release.compare_exports"  # not __name__, which is __main__ at a prompt
LAST_WORDS = 2000


def score_export(directory: Path, sequences: Sequence[Scored], deadline_s: float) -> list[list[float]]:
    """Log-probs of the tokens after each prompt, by a vLLM in a process of its own.

    Raises:
        InfrastructureError: vLLM did not load or score the directory within `deadline_s`; with its last words.
    """
    with tempfile.TemporaryDirectory(prefix="ringflow-score-") as scratch:
        asked, told, log = (Path(scratch) / name for name in ("asked.json", "told.json", "log"))
        asked.write_text(json.dumps(sequences))
        command = [sys.executable, "-m", MODULE, "--score", str(directory), str(asked), str(told)]
        with log.open("wb") as stream:
            try:
                code = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, timeout=deadline_s, cwd=_root()
                ).returncode
            except subprocess.TimeoutExpired:
                code = f"nothing after {deadline_s:g} s"
        if code != 0:
            words = log.read_text(errors="replace")[-LAST_WORDS:]
            raise InfrastructureError(f"vLLM did not score {directory} ({code}); it said last: {words}")
        return json.loads(told.read_text())


def compare_exports(
    reference: Path, exports: Sequence[Path], sequences: Sequence[Scored], tolerance: float, deadline_s: float = 600.0
) -> dict[str, Parity | InfrastructureError]:
    """Export -> its distance from the reference, or why there is none. deadline_s: for each directory."""
    expected = score_export(reference, sequences, deadline_s)
    found: dict[str, Parity | InfrastructureError] = {}
    for directory in exports:
        try:
            found[str(directory)] = compare_logprobs(
                expected, score_export(directory, sequences, deadline_s), tolerance
            )
        except InfrastructureError as error:
            found[str(directory)] = error
    return found


def read_sequences(path: Path) -> list[Scored]:
    """Raises BadInput when it is not [[tokens, prompt length], ...] with something after each prompt."""
    try:
        read = [([int(token) for token in tokens], int(start)) for tokens, start in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"not [[tokens, prompt length], ...]: {error}", where=str(path)) from error
    for number, (tokens, start) in enumerate(read):
        if not 0 < start < len(tokens):
            raise BadInput(f"a prompt of {start} in {len(tokens)} tokens", where=f"{path}: sequence {number}")
    return read


def _root() -> Path:
    return Path(__file__).parents[2]


def _score(directory: str, asked: str, told: str) -> None:
    sequences = read_sequences(Path(asked))
    engine = ReleasedEngine(directory, max(len(tokens) for tokens, _ in sequences) + 1)
    Path(told).write_text(json.dumps(engine.score(sequences)))


def main() -> int:
    if sys.argv[1:2] == ["--score"]:
        _score(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(
        description="Compare exports of one model by the log-probs vLLM computes from them."
    )
    parser.add_argument("reference", type=Path)
    parser.add_argument("exports", type=Path, nargs="+")
    parser.add_argument("--sequences", type=Path, required=True)
    parser.add_argument("--tolerance", type=float, default=0.5)
    parser.add_argument("--deadline", type=float, default=600.0, metavar="SECONDS")
    asked = parser.parse_args()
    sequences = read_sequences(asked.sequences)
    found = compare_exports(asked.reference.resolve(), [path.resolve() for path in asked.exports], sequences,
                            asked.tolerance, asked.deadline)  # fmt: skip
    for directory, result in found.items():
        told = result.report() if isinstance(result, Parity) else {"failed": str(result)}
        print(json.dumps({"export": directory, **told}))
    return 0 if all(isinstance(result, Parity) and result.within for result in found.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
