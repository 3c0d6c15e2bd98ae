"""Verifiable problems with worked solutions in math, code, logic and science, and preference data, from a seed."""

from components.data.generator.corpus import GeneratedCorpus, generate

__all__ = ["GeneratedCorpus", "generate"]
