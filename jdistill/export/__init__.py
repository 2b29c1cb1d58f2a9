"""Exports the student as a folder for sentence-transformers and transformers, with a verification and a model card.

Import `jdistill.export.verify` explicitly: it may import torch.
"""

from jdistill.export.card import CardInfo, TeacherInfo, make_card, write_card
from jdistill.export.config import ExportConfig, ExportedProjection

__all__ = ["CardInfo", "ExportConfig", "ExportedProjection", "TeacherInfo", "make_card", "write_card"]
