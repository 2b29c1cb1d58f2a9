"""Runs teachers: from texts to vectors. Uses torch, which is imported on first use."""

from jdistill.teacher.config import TeacherConfig, TeacherPrompts
from jdistill.teacher.describe import describe
from jdistill.teacher.embed import embed
from jdistill.teacher.loading import check_folder
from jdistill.teacher.model import Teacher

__all__ = ["Teacher", "TeacherConfig", "TeacherPrompts", "check_folder", "describe", "embed"]
