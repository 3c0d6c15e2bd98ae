"""Put and get of large objects, and the latency of a commit marker, on the configured store."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from pathlib import Path

from components.artifacts.digest import file_sha256
from components.artifacts.store import Store
from flows.bench import Bench, Figure

BYTES = 64 << 20
REPETITIONS = 3
MARKERS = 30


def run() -> Bench:
    store = Store.open()
    store.check()
    place = f"bench/{uuid.uuid4().hex}"
    put, get, create = [], [], []
    try:
        with tempfile.TemporaryDirectory() as name:
            source, target = Path(name) / "source", Path(name) / "target"
            source.write_bytes(os.urandom(BYTES))
            digest = file_sha256(source)
            for repetition in range(REPETITIONS):
                key = f"{place}/object-{repetition}"
                began = time.perf_counter()
                store.objects.put(source, key, digest)
                put.append(BYTES / 1e6 / (time.perf_counter() - began))
                began = time.perf_counter()
                store.objects.get(key, target)
                get.append(BYTES / 1e6 / (time.perf_counter() - began))
            for number in range(MARKERS):
                began = time.perf_counter()
                store.objects.create(f"{place}/marker-{number}", uuid.uuid4().bytes)
                create.append((time.perf_counter() - began) * 1e3)
    finally:
        store.objects.remove(place)
    figures = {
        "put": Figure.of(put, "MB/s"),
        "get": Figure.of(get, "MB/s"),
        "create-only marker": Figure.of(create, "ms"),
    }
    return Bench(figures, {"store": store.url.partition("://")[0], "object_bytes": BYTES})
