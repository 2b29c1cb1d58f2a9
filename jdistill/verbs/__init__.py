"""One function for each verb of the command line: a recipe in, files and a few lines of text out.

This is where the rooms meet. Whatever can be refused is refused here, before the first device computation.
"""

from jdistill.teacher.convert import convert
from jdistill.verbs.check import check
from jdistill.verbs.embed import embed
from jdistill.verbs.evaluate import evaluate
from jdistill.verbs.export import export
from jdistill.verbs.plan import plan
from jdistill.verbs.show import load_recipe, show
from jdistill.verbs.train import train

__all__ = ["check", "convert", "embed", "evaluate", "export", "load_recipe", "plan", "show", "train"]
