"""Standard benchmarks, a small file per family; each module's BENCHMARKS is found by its registry."""
