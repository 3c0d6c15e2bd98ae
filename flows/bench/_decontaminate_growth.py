"""One size of the growth of `ringflow data clean`: `python -m flows.bench._decontaminate_growth DOCUMENTS`.

Prints {"seconds": processor seconds, "megabytes": of text, "peak_mib": memory of this process}. The corpus is drawn
from GSM8K train and MATH train, line by line, so that what is measured beside the search is reading and writing.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
import time
from pathlib import Path

from components.data.decontaminate.clean import clean_files
from components.data.decontaminate.rows import lines, parse, texts
from components.recipe.data import DecontaminateConfig
from flows.bench.decontaminate import SHARED, SPEED_BENCHMARK, SPEED_CORPORA


def main(documents: int) -> None:
    base = [line for name in SPEED_CORPORA for _, line in lines(str(SHARED / "corpora" / name))]
    sizes = [sum(len(text.encode()) for _, text in texts(parse(line)[0])) for line in base]
    config, benchmark = DecontaminateConfig(semantic=False), [str(SHARED / "benchmarks" / f"{SPEED_BENCHMARK}.jsonl")]
    with tempfile.TemporaryDirectory() as folder:
        corpus, draw, total = Path(folder) / "corpus.jsonl", random.Random(documents), 0
        with corpus.open("wb") as stream:
            for _ in range(documents):
                place = draw.randrange(len(base))
                stream.write(base[place] + b"\n")
                total += sizes[place]
        first = Path(folder) / "first.jsonl"
        first.write_bytes(b"\n".join(base[:100]))
        clean_files([str(first)], benchmark, Path(folder) / "out", config)  # compiles the kernels
        began = time.process_time()
        counts = clean_files([str(corpus)], benchmark, Path(folder) / "out", config)
        seconds = time.process_time() - began
    assert counts["records"] == documents
    print(json.dumps({"seconds": seconds, "megabytes": total / 1e6, "peak_mib": _peak_mib()}))


def _peak_mib() -> float:
    """Largest resident memory of this program; getrusage would begin with that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


if __name__ == "__main__":
    main(int(sys.argv[1]))
