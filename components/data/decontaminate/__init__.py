"""Decontamination of training data against benchmarks: string level and semantic level, with evidence."""

from components.data.decontaminate.clean import clean_files
from components.data.decontaminate.engine import DecontaminationResult, decontaminate, index_fingerprint
from components.data.decontaminate.evidence import Evidence, write_evidence
from components.data.decontaminate.report import write_report

__all__ = [
    "DecontaminationResult",
    "Evidence",
    "clean_files",
    "decontaminate",
    "index_fingerprint",
    "write_evidence",
    "write_report",
]
