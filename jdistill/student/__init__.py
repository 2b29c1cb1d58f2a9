"""The student model: tokenizer, encoder, pooling and head. `make_student` builds one and its dict of parameters."""

from jdistill.student.build import make_student
from jdistill.student.config import Architecture, GivenPrompts, Inherited, Prompts, StudentConfig
from jdistill.student.pruning.config import PruneConfig
from jdistill.student.student import Student, load_architecture, save_architecture, to_hf_tensors
from jdistill.student.tokenizer import Tokenizer

__all__ = [
    "Architecture",
    "GivenPrompts",
    "Inherited",
    "Prompts",
    "PruneConfig",
    "Student",
    "StudentConfig",
    "Tokenizer",
    "load_architecture",
    "make_student",
    "save_architecture",
    "to_hf_tensors",
]
