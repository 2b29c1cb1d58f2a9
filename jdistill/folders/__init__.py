"""The files of model folders, whoever made them: JSON, weights, modules and identity. Does not import jax."""

from jdistill.folders.files import read_json, read_list, write_json
from jdistill.folders.identity import config_hash, tokenizer_hash, weight_hash
from jdistill.folders.modules import Module, modules_of
from jdistill.folders.refusals import refuse_what_no_student_reads, refuse_what_no_teacher_gives
from jdistill.folders.tensors import check_tensors, read_tensors, write_tensors

__all__ = [
    "Module",
    "check_tensors",
    "config_hash",
    "modules_of",
    "read_json",
    "read_list",
    "read_tensors",
    "refuse_what_no_student_reads",
    "refuse_what_no_teacher_gives",
    "tokenizer_hash",
    "weight_hash",
    "write_json",
    "write_tensors",
]
