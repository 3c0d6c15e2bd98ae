"""The registered model: made by the release stage alone, after its gates, with links to all that explains it.

The stage's function raises when a gate refuses (no evaluation of this model, log-probs of trainer and vLLM apart), and
nothing is committed then; so a committed release has passed them. Its version becomes `candidate`; it becomes
`released` too when the recipe's `release.alias` says so.
"""

from __future__ import annotations

from typing import Any

from components.artifacts.ref import ArtifactRef

CANDIDATE = "candidate"


def register(run: Any, ref: ArtifactRef, parent_url: str, tags: dict[str, str]) -> str:
    """Registers a release and moves its aliases, the most visible one last. Returns the version.

    run: the stage's StageRun; the lineage page and the card are beside it. tags: as tasks.recorded.tags_of.
    """
    name, alias = str(ref.summary["registered_model"]), str(ref.summary.get("alias", ""))
    scores = {f"score.{key}": str(value) for key, value in ref.summary.items() if key.startswith("overall")}
    version = run.tracker.register(ref, name, "", description(ref, name, run.url, parent_url), {**tags, **scores})
    for given in dict.fromkeys((CANDIDATE, alias)):
        if given:
            run.tracker.register(ref, name, given)
    return version


def description(ref: ArtifactRef, name: str, url: str, parent_url: str) -> str:
    """Markdown of a registered version: from here to its lineage, report, card, run and bytes."""
    return (
        f"- [Lineage]({url}/artifacts/lineage.html): every data shard, value, seed and commit behind it\n"
        f"- [Run report]({parent_url}/artifacts/report.html)\n"
        f"- [Model card]({url}/artifacts/README.md)\n"
        f"- [The run that made it]({url})\n\n"
        f"Artifact `{ref.uri}`, manifest sha256 `{ref.manifest_sha256}`.\n\n"
        f"`ringflow lineage {ref.stage}@{ref.fingerprint[:12]}`, `ringflow verify {ref.uri}`, "
        f"`ringflow serve models:/{name}@{ref.summary.get('alias') or CANDIDATE}`"
    )
