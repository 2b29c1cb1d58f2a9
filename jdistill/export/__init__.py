"""The student as a folder that sentence-transformers and transformers load, proven equal, with a model card.

`jdistill.export.verify` is imported by its own name: it may import torch.
"""

from jdistill.export.card import CardInfo, TeacherInfo, make_card, write_card
from jdistill.export.config import ExportConfig, Projection

__all__ = ["CardInfo", "ExportConfig", "Projection", "TeacherInfo", "make_card", "write_card"]
