"""Text as comparable tokens: folding, the tokeniser's kernels, MinHash."""
