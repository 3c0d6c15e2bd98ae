"""Answers that a judge model decides, each benchmark's rule in a file of its own.

A judge that fails, stalls or answers nonsense after its retries leaves the answer without a value: it is counted as a
judge failure and never as a bad answer.
"""
