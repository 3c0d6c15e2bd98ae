"""The Kubernetes of a test: each runs against the stand-in, and against a real one where that is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.components.cluster import kube_world


@pytest.fixture(params=kube_world.BACKENDS)
def kube(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[kube_world.World]:
    with (kube_world.real if request.param == "real" else kube_world.stand_in)(tmp_path) as world:
        yield world
