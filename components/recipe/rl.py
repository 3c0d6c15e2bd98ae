"""Recipe sections for RL: losses as data, one typed config each, and the phases that use them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.recipe.base import StrictModel
from components.recipe.data import Domain
from components.recipe.rewards import RewardsConfig
from components.recipe.training import OptimiserConfig


class IcePopLoss(StrictModel):
    """IcePop (arXiv 2510.18855, eq. 1-3): k multiplies inside [alpha, beta] and masks outside; r is clipped apart."""

    name: Literal["icepop"] = "icepop"
    alpha: float = Field(default=0.5, gt=0)
    beta: float = Field(default=5.0, gt=0)
    clip_epsilon: float = Field(default=0.2, gt=0)
    kl_coefficient: float = Field(default=0.0, ge=0)


class TisLoss(StrictModel):
    """Truncated importance sampling: weight min(k, cap), nothing masked."""

    name: Literal["tis"] = "tis"
    cap: float = Field(default=2.0, gt=0)
    clip_epsilon: float = Field(default=0.2, gt=0)
    kl_coefficient: float = Field(default=0.0, ge=0)


class GrpoLoss(StrictModel):
    """Plain GRPO. `old_policy`: whose log-probs r divides by, the trainer's (right) or the engine's (a common bug)."""

    name: Literal["grpo"] = "grpo"
    clip_epsilon: float = Field(default=0.2, gt=0)
    kl_coefficient: float = Field(default=0.0, ge=0)
    old_policy: Literal["trainer", "engine"] = "trainer"


class KPopLoss(StrictModel):
    """KPop (arXiv 2606.15079, section 3.2.3): a token is kept only if the binary KL of its probability is at most phi
    in both directions, train to infer and infer to train.

    The report says what is masked; that k stays the weight of a kept token, as in IcePop, is our choice. phi 2.0 is the
    value of AReaL's example, the report's own is unpublished.
    """

    name: Literal["kpop"] = "kpop"
    phi: float = Field(default=2.0, gt=0, description="Largest binary KL, in nats")
    clip_epsilon: float = Field(default=0.2, gt=0)
    kl_coefficient: float = Field(default=0.0, ge=0)


class GspoLoss(StrictModel):
    """GSPO (arXiv 2507.18071, eq. 5-7): one ratio per response, the geometric mean of its tokens', clipped as one.

    Clipping bounds are the paper's section 5.1: 3e-4 below, 4e-4 above.
    """

    name: Literal["gspo"] = "gspo"
    clip_low: float = Field(default=3e-4, gt=0)
    clip_high: float = Field(default=4e-4, gt=0)
    kl_coefficient: float = Field(default=0.0, ge=0)


class DrGrpoLoss(StrictModel):
    """Dr.GRPO (arXiv 2503.20783): neither the response's length nor the group's deviation divides.

    Advantages are R - mean(R); every response is divided by one constant, `length`, the generation budget
    (rollout.max_new_tokens) when absent.
    """

    name: Literal["dr-grpo"] = "dr-grpo"
    clip_epsilon: float = Field(default=0.2, gt=0)
    kl_coefficient: float = Field(default=0.0, ge=0)
    length: int | None = Field(default=None, ge=1, description="Constant divisor of every response, in tokens")


class C3poLoss(StrictModel):
    """C3PO (Ring-lite, arXiv 2506.14731, eq. 2-3): whole responses in order until the budget is reached, divided by it.

    The divisor is `token_budget` whatever the step's lengths are, so the size of a step never follows them. What comes
    after the response that reaches the budget is not trained on, and counted. Ring-lite: 409,600 tokens, KL 1e-3.
    """

    name: Literal["c3po"] = "c3po"
    token_budget: int = Field(ge=1, description="Phi, response tokens of one step")
    clip_epsilon: float = Field(default=0.2, gt=0)
    kl_coefficient: float = Field(default=0.0, ge=0)


Loss = Annotated[
    IcePopLoss | TisLoss | GrpoLoss | KPopLoss | GspoLoss | DrGrpoLoss | C3poLoss, Field(discriminator="name")
]


class RolloutConfig(StrictModel):
    """Sampling, and when a step has enough of it (components.rl.scheduler).

    synchronous: a step draws its prompts and waits for the last response.
    c3po++ (arXiv 2510.18855, 2.3.3): a step ends at a token budget; unfinished rollouts go on under the next weights.
        The report publishes neither budget nor retention.
    async: engines decode while the learner updates; no trained token is older than max_staleness steps.
    With max_staleness 0 (and c3po++ without a budget) all three train on the same batches.
    """

    mode: Literal["synchronous", "c3po++", "async"] = "synchronous"
    prompts_per_step: int = Field(ge=1)
    group_size: int = Field(ge=2, description="Responses per prompt")
    max_new_tokens: int = Field(ge=1)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    engine_dtype: Literal["float32", "bfloat16"] = "float32"
    oversample: float = Field(default=1.0, ge=1, description="Prompts sampled per step over prompts trained per step")
    max_staleness: int = Field(default=0, ge=0, description="Steps a rollout may be carried over (retention, sigma)")
    token_budget: int | None = Field(default=None, ge=1, description="c3po++: response tokens that end a step (Phi)")
    budget_counts: Literal["finished", "generated"] = Field(
        default="finished", description="c3po++: tokens of responses that ended (algorithm 1), or all drawn tokens"
    )
    overdue: Literal["purge", "wait"] = Field(default="purge", description="c3po++: what happens to the too old")
    max_purges: int = Field(default=3, ge=0, description="c3po++: how often a prompt is drawn again after a purge")
    pool: int | None = Field(default=None, ge=1, description="Unfinished rollouts handed to the engines (Omega)")
    routing_replay: bool = Field(
        default=False, description="The trainer routes every token to the experts that the engine chose for it"
    )

    @model_validator(mode="after")
    def _mode_has_what_it_needs(self) -> Self:
        if self.mode == "synchronous" and (self.max_staleness or self.token_budget or self.pool):
            raise ValueError("max_staleness, token_budget and pool need mode c3po++ or async")
        if self.mode == "c3po++" and self.max_staleness and not self.token_budget:
            raise ValueError("mode c3po++ with max_staleness > 0 needs a token_budget: nothing else ends a step early")
        if self.mode != "synchronous" and self.routing_replay:
            raise ValueError(
                "routing_replay needs mode synchronous: one version of the weights routes a whole response"
            )
        if self.mode == "async" and (self.token_budget or self.oversample != 1.0):
            raise ValueError("mode async takes prompts_per_step groups a step: no token_budget, no oversample")
        return self


class PromptFilter(StrictModel):
    """Which prompts are drawn, beyond a shuffled pass over all of them; everything is off by default.

    refill: dynamic sampling (DAPO, arXiv 2503.14476, 3.2): a step whose groups came out without signal, all rewards
        equal, draws as many more, at most so many times.
    curriculum: from the second pass on, prompts that about half of the answers solved come first.
    retire_after: a prompt whose answers were all right, or all wrong, in so many draws in a row is not drawn again
        (Ring-lite, arXiv 2506.14731, drops both kinds beforehand). Retired prompts are counted in every step.
    """

    refill: int = Field(default=0, ge=0, description="Rounds of further prompts in a step")
    curriculum: Literal["shuffled", "pass-rate"] = "shuffled"
    retire_after: int = Field(default=0, ge=0, description="Draws all solved or all failed; 0: never")


class GuardConfig(StrictModel):
    """Bounds of the mismatch guard. Trouble starts where mean |dlogp| passes about 0.05 (paper, App. C)."""

    mode: Literal["act", "watch"] = Field(default="act", description="watch: warns, for runs that look for a collapse")
    max_mean_abs_dlogp: float = Field(default=0.05, gt=0)
    max_jump: float = Field(default=5.0, gt=1, description="Mean |dlogp| over its median of the last steps")
    max_stale_mean_abs_dlogp: float = Field(
        default=0.5, gt=0, description="The same over tokens that older weights drew: what was learned since is in it"
    )
    max_reward_error_fraction: float = Field(default=0.02, ge=0, le=1)
    max_grad_norm_ratio: float = Field(default=20.0, gt=1, description="Gradient norm over its median")
    max_entropy_ratio: float = Field(default=4.0, gt=1, description="Policy entropy over its median, and")
    min_entropy_jump: float = Field(default=0.5, gt=0, description="above this many nats")
    max_truncated_rise: float = Field(default=0.4, gt=0, le=1, description="Fraction cut at the length limit")
    patience: int = Field(default=3, ge=1, description="Consecutive violations before a rollback, or the end")
    resyncs: int = Field(default=2, ge=0, description="How often weights are published again on a mismatch")
    rollbacks: int = Field(default=1, ge=0, description="How often a run goes back to its last good checkpoint")


class RlPhase(StrictModel):
    """One RLVR phase: one node `rlvr-N` of the DAG."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    domains: tuple[Domain, ...] = Field(min_length=1)
    steps: int = Field(ge=1)
    rollout: RolloutConfig
    loss: Loss = IcePopLoss()
    optimiser: OptimiserConfig
    minibatches: int = Field(default=2, ge=1, description="Optimiser updates per step")
    guard: GuardConfig = GuardConfig()
    prompt_filter: PromptFilter = PromptFilter()
    checkpoint_every: int = Field(default=10, ge=1)
    rewards: RewardsConfig = RewardsConfig()
    reward_timeout_s: float = Field(default=5.0, gt=0, description="Deadline of one verification")
    rehearsed_domains: tuple[Domain, ...] = Field(default=(), description="Of earlier phases, to be kept")
    rehearsal: float = Field(default=0.0, ge=0, lt=1, description="Their share of each step's prompts")

    @model_validator(mode="after")
    def _rehearsal_is_of_other_domains(self) -> Self:
        if (self.rehearsal > 0) != bool(self.rehearsed_domains):
            raise ValueError("rehearsal (a share above 0) and rehearsed_domains need each other")
        if both := set(self.domains) & set(self.rehearsed_domains):
            raise ValueError(f"rehearsed_domains: {', '.join(sorted(both))} is among domains already")
        return self

    @model_validator(mode="after")
    def _refill_has_an_end_to_wait_for(self) -> Self:
        if self.prompt_filter.refill and self.rollout.mode == "async":
            raise ValueError("prompt_filter.refill needs a step that ends: mode synchronous or c3po++")
        return self


class RlhfConfig(RlPhase):
    """General RL on reward-model and rule rewards, mixed with verifiable prompts so that reasoning is kept."""

    name: str = "rlhf"
    domains: tuple[Domain, ...] = ("general",)
    loss: Loss = GrpoLoss()
    verifiable_fraction: float = Field(default=0.5, ge=0, le=1, description="Share of prompts with a rule verifier")
    verifiable_domains: tuple[Domain, ...] = ("math", "code", "logic", "science")

    @model_validator(mode="after")
    def _verifiable_prompts_are_the_rehearsal(self) -> Self:
        if self.rehearsal > 0:
            raise ValueError("rlhf keeps reasoning by verifiable_fraction and verifiable_domains, not by rehearsal")
        return self
