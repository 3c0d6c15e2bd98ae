"""What a person asks for when two models are compared; imports no server, so it is checked at once."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from components.failures import BadInput
from components.recipe.load import LoadedRecipe
from flows import forms
from flows.graph import Graph
from flows.standard_request import BenchmarksRequest

SIDES = ("before", "after")


class CompareRequest(BenchmarksRequest):
    """Two models, paired item by item; fails when the second is surely worse."""

    model_config = ConfigDict(extra="forbid", title="Compare two models")

    before: str = Field(
        title="Before",
        description="models:/ring-nano@released, a checkpoint such as sft; with benchmarks also a Hugging Face "
        "directory or MODEL@URL",
        json_schema_extra=forms.position(0),
    )
    after: str = Field(
        title="After", description="Such as models:/ring-nano@candidate", json_schema_extra=forms.position(1)
    )
    benchmarks: list[str] = Field(
        default=[],
        title="Benchmarks",
        description="One item each, aime25 or aime25=FILE; the recipe's held-out sets when empty",
        json_schema_extra=forms.position(4),
    )

    def check(self) -> None:
        """Everything that needs no server. Raises BadInput."""
        if self.before == self.after:
            raise BadInput("a model is compared with itself", where="after", remedy="Name two models or versions")
        if self.benchmarks:
            super().check()
            return
        for model in (self.before, self.after):
            if self.served(model) is not None:
                raise BadInput(
                    "a model behind HTTP cannot be asked for a recipe's held-out sets",
                    where=model,
                    remedy="Name standard benchmarks: -b gsm8k=FILE",
                )
        self.read(read_base=False, servers=False)

    def load(self) -> tuple[Graph, LoadedRecipe]:
        """The benchmarks and two evaluations, `evaluate-before` and `evaluate-after`. Raises BadInput."""
        self.check()
        named = {side: getattr(self, side) for side in SIDES}
        if self.benchmarks:
            return self.standard({f"evaluate-{side}": self.served(model) or side for side, model in named.items()})
        graph, loaded = self.read(read_base=False)
        return graph.evaluations({f"evaluate-{side}": side for side in SIDES}), loaded
