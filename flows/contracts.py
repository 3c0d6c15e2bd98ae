"""Checks between stages that would otherwise fail hours later: lengths, vocabulary, tokenizer and chat template.

Pure reading: a recipe's numbers against each other and, for an imported base, the files of its directory.
"""

from __future__ import annotations

from components.failures import BadInput
from flows.graph import Graph


def check_contracts(graph: Graph) -> None:
    """Raises BadInput naming the recipe key."""
    _names(graph)


def _names(graph: Graph) -> None:
    seen: dict[str, int] = {}
    for index, phase in enumerate(graph.recipe.rlvr):
        if phase.name in seen:
            raise BadInput(
                f"the phases {seen[phase.name]} and {index} have the same name {phase.name!r}",
                where=f"rlvr.{index}.name",
                remedy="Name each phase differently",
            )
        seen[phase.name] = index
