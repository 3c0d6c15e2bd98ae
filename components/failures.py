"""The failure kinds of a stage, and what each one makes the orchestration do.

Bad input is never retried: the message names file, record and field, and the way out. Infrastructure failures are
retried with back-off, and are never turned into a reward, a score or an empty result. Diverged training is rolled back
once and then stopped with its reason. A lost lease or a cancellation stops the stage and leaves its resume area intact.
"""

from __future__ import annotations

from components.redact import redacted


class RingflowError(Exception):
    """Base of every error ringflow raises on purpose. `str(error)` is written for the person who has to act.

    Secrets are taken out of the text (components.redact): errors go to logs, to Prefect and to MLflow.
    """

    def __init__(self, *parts: object) -> None:
        super().__init__(*(redacted(part) if isinstance(part, str) else part for part in parts))


class BadInput(RingflowError):
    """The input is wrong: never retried.

    Args:
        problem: what is wrong, one sentence.
        where: file, record and field, as `path:line: field`, or the recipe key; empty only when no place exists.
        remedy: what to do about it.
    """

    def __init__(self, problem: str, *, where: str = "", remedy: str = "") -> None:
        problem, where, remedy = redacted(problem), redacted(where), redacted(remedy)
        self.problem, self.where, self.remedy = problem, where, remedy
        text = f"{where}: {problem}" if where else problem
        super().__init__(f"{text}. {remedy}" if remedy else text)

    def __reduce__(self):  # keeps the fields when the error crosses a process boundary
        return _rebuild, (type(self), self.problem, self.where, self.remedy)


def _rebuild(kind: type[BadInput], problem: str, where: str, remedy: str) -> BadInput:
    return kind(problem, where=where, remedy=remedy)


class InfrastructureError(RingflowError):
    """A server, process, disk or network failed: retried with back-off, bounded."""


class DeadlineExceeded(InfrastructureError):
    """A wait passed its deadline. The message names what was waited for and for how long."""


class Diverged(RingflowError):
    """Training produced NaN, or the mismatch guard stopped it. The message carries the diagnosis."""


class LeaseLost(RingflowError):
    """Another run holds this stage's lease now: this one must stop at once and must not commit."""


class LeaseExpired(LeaseLost, InfrastructureError):
    """The store was out of reach for longer than the lease holds. This attempt stops and must not commit; as nobody is
    known to have taken the lease, the stage is tried again like after any failure of the machinery."""


class IntegrityError(RingflowError):
    """Stored bytes or identity do not match what was recorded: refused with both values shown."""


class Cancelled(RingflowError):
    """Someone asked the run to stop: the stage ends within seconds and leaves its resume area intact."""
