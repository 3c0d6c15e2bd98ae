"""What people call an artifact or a model: a registered name, an MLflow run, a URI, stage@fingerprint, a directory."""

from __future__ import annotations

import os
from pathlib import Path

from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.failures import BadInput


def find_artifact(reference: str, store: Store) -> ArtifactRef:
    """The committed artifact behind a reference (see components.lineage.references). Raises BadInput."""
    from components.lineage.references import resolve

    return resolve(reference, store, open_tracker)


def open_tracker():
    """The MLflow server of this environment; takes seconds, so it is opened only for references that need it."""
    from components.lineage.tracker import Tracker

    return Tracker.open(os.environ.get("MLFLOW_TRACKING_URI"))


def local_model(reference: str) -> Path:
    """A directory to serve: a path as it is; a release from MLflow or the store as a verified local copy.

    Raises:
        BadInput: not a release, or nothing of that name.
    """
    path = Path(reference.removeprefix("file://")).expanduser()
    if "://" not in reference.removeprefix("file://") and not reference.startswith("models:/") and path.is_dir():
        return path
    from flows.cli import stack

    stack.ensure(start=False)
    store = Store.open()
    ref = find_artifact(reference, store)
    if ref.kind not in ("release", "checkpoint"):
        raise BadInput(f"a {ref.kind} cannot be served", where=reference, remedy="Name a release or a checkpoint")
    return store.fetch(ref)
