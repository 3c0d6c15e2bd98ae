"""The model card: what was trained, on what, how well it does and how sure that is, and what it is not for.

Every statement is filled from artifacts; a fact that is missing leaves its line out rather than a guess in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.evaluation.table import caption, markdown_table
from components.evaluation.types import Evaluation
from components.model.hf_config import FP8, INT4, INT4_DENSE, INT4_GROUP, QUANTISED, REST
from components.release.export import Exported
from components.release.parity import Parity

_PACKED = f"int4 (compressed-tensors pack-quantized, a bfloat16 factor for every {INT4_GROUP} inputs; "
STORED = {
    FP8: "FP8 (e4m3, blocks of 128 x 128; all but projections apart)",
    INT4: f"{_PACKED}all but projections apart)",
    INT4_DENSE: f"{_PACKED}all but projections, and the routed experts' projections, apart in bfloat16)",
}


@dataclass(frozen=True)
class CardFacts:
    """What the card says.

    sources: entries of sources.json (uri, sha256, licence, records, split).
    decontamination: decontamination.json ({"counts": {split: {records, kept, removed, review}}, ...}).
    evaluations: stage -> evaluation, in the order of the recipe.
    artifacts: what the release was made from: name -> (fingerprint, uri).
    parity_of: what vLLM loaded when it was compared with the trainer.
    architecture: rows of (property, value).
    """

    name: str
    alias: str
    licence: str
    preset: str
    exported: Exported
    parity: Parity
    architecture: Sequence[tuple[str, Any]]
    sources: Sequence[Mapping[str, Any]]
    decontamination: Mapping[str, Any]
    evaluations: Mapping[str, Evaluation]
    artifacts: Mapping[str, tuple[str, str]]
    picture: str | None = None
    parity_of: str = "these files"


def render_card(facts: CardFacts) -> str:
    """README.md with the front matter of the Hugging Face hub."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["count"] = lambda value: f"{value:,}"
    counts = facts.decontamination.get("counts", {})
    splits = {name: row for name, row in counts.items() if isinstance(row, Mapping) and "kept" in row}
    final = list(facts.evaluations.values())[-1]
    dtype = facts.exported.dtype
    return environment.from_string(CARD).render(
        facts=facts,
        weights=facts.exported,
        compute=REST if dtype in QUANTISED else dtype,
        stored=STORED.get(dtype, dtype),
        needs_gpu=dtype == INT4,
        parity=facts.parity,
        total=facts.exported.parameters[0],
        active=facts.exported.parameters[1],
        reference=f"models:/{facts.name}@{facts.alias}",
        semantic=bool(counts.get("semantic")),
        scores=markdown_table(facts.evaluations),
        caption=caption(facts.evaluations),
        final=final.overall,
        settings=final.settings,
        training=_training(facts.evaluations),
        general="rlhf" in facts.evaluations,
        architecture=_table(("architecture", ""), facts.architecture),
        sources=_table(
            ("split", "records", "source", "licence", "sha256"),
            [
                (row["split"], f"{row['records']:,}", row["uri"], row["licence"] or "none stated", row["sha256"][:16])
                for row in facts.sources
            ],
        ),
        contamination=_table(
            ("split", "records", "kept", "removed", "kept, listed for review"),
            [(name, row["records"], row["kept"], row["removed"], row.get("review", 0)) for name, row in splits.items()],
        ),
        artifacts=_table(
            ("artifact", "fingerprint", "location"),
            [(name, fingerprint[:16], uri) for name, (fingerprint, uri) in facts.artifacts.items()],
        ),
    )


def _training(stages: Iterable[str]) -> str:
    """The stages that made the model, which are those it was evaluated after."""
    kinds = {stage.partition("-")[0] for stage in stages}
    named = {"sft": "SFT", "rlvr": "RL with verifiable rewards", "rlhf": "general RL"}
    return ", ".join(text for kind, text in named.items() if kind in kinds) or "no stage after the base model"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, rows)])


CARD = """---
license: {{ facts.licence }}
library_name: vllm
pipeline_tag: text-generation
tags: [bailing_moe, reasoning, reinforcement-learning, ringflow]
---

# {{ facts.name }}

A reasoning model of the Ling 2.0 architecture (`BailingMoeV2ForCausalLM`, preset `{{ facts.preset }}`):
{{ total | count }} parameters, {{ active | count }} active per token, context of
{{ weights.context_length | count }} tokens. Trained with ringflow: {{ training }}.

## Use

```bash
ringflow serve {{ reference }}     # OpenAI-compatible server on 127.0.0.1:8000
ringflow chat {{ reference }}
```

With a plain vLLM: `vllm serve DIRECTORY --trust-remote-code --reasoning-parser qwen3 --dtype {{ compute }}`.
The only code in the directory is the class that reads config.json; without `--dtype`, vLLM runs float32 weights in
bfloat16. {% if needs_gpu %}vLLM computes 4-bit experts of this architecture on GPUs alone (`--device cuda`); what
`ringflow export {{ reference }} --dtype int4-dense --out DIR` writes runs on CPUs too. {% endif %}
The model thinks between `<think>` and `</think>` before it answers; switch that off with
`chat_template_kwargs: {"enable_thinking": false}`.

{{ architecture }}

## Scores

{{ scores }}
{{ caption }}.

{% if facts.picture %}
![Scores over stages]({{ facts.picture }})

{% endif %}
Settings: {{ final.samples }} answers per item over {{ final.items }} held-out items, temperature
{{ settings.temperature }}, top-p {{ settings.top_p }}, at most {{ settings.max_new_tokens }} new tokens,
{{ settings.engine_dtype }} engine, seed {{ settings.seed }}. Truncated and missing answers count as wrong and are
listed apart; answers that the verifier failed on ({{ final.errors }} of {{ final.answers }} for this model) are left
out.

## Data

{{ sources }}

## Contamination

Before training, the data were compared with every benchmark above by normalised string
{{ "and n-gram overlap, and by embedding" if semantic else "and n-gram overlap" }}.

{{ contamination }}

Evidence for each removed record is in the `data` artifact below (evidence.parquet, report.html).

## Weights

{{ stored }} safetensors, {{ weights.shards }} file{{ "" if weights.shards == 1 else "s" }},
{{ weights.bytes | count }} bytes. Log-probs of the trainer (megatron-core) and of {{ facts.parity_of }} in vLLM, over
{{ parity.tokens | count }} response tokens of {{ parity.sequences }} held-out sequences: largest difference
{{ "%.2e" | format(parity.max_abs_dlogp) }}, 99 % within {{ "%.2e" | format(parity.p99_abs_dlogp) }} (tolerance
{{ "%.0e" | format(parity.tolerance) }}), mean {{ "%.2e" | format(parity.mean_abs_dlogp) }}.

## Lineage

`ringflow lineage {{ reference }}` prints the chain from this model to every data shard.

{{ artifacts }}

## Intended use and limitations

- Made for problems whose answers can be checked, of the kinds in the table above; elsewhere nothing was measured.
{% if total < 100_000_000 %}
- At {{ total | count }} parameters this is a model for testing and teaching the recipe: it has no general knowledge and
  holds no conversation.
{% endif %}
- Scores hold for the settings above. Another temperature, length limit or template is another score.
- Thoughts are not a faithful account of how an answer came about, and answers can be wrong with confidence.
- No safety training or red-teaming{{ " beyond the general RL stage" if general else "" }} was done. Put your own
  safeguards around it.

## Licence

{{ facts.licence }}. The data keep the licences listed above.
"""
