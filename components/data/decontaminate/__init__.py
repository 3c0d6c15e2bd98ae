"""Decontamination of training data against benchmarks: string levels, code and semantic level, with evidence."""

from components.data.decontaminate.clean import clean_files
from components.data.decontaminate.engine import DecontaminationResult, Run, decontaminate, index_fingerprint
from components.data.decontaminate.evidence import Evidence, EvidenceFile, flagged_items, write_evidence
from components.data.decontaminate.report import Examples, write_report

__all__ = [
    "DecontaminationResult",
    "Evidence",
    "EvidenceFile",
    "Examples",
    "Run",
    "clean_files",
    "decontaminate",
    "flagged_items",
    "index_fingerprint",
    "write_evidence",
    "write_report",
]
