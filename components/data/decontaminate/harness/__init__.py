"""Known copies of benchmark items in a real corpus: how recall and precision of the detector are measured."""
