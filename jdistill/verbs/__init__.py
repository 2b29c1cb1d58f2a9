"""One function per command of the command line, from recipe to files and printed text.

The commands connect the other packages, and check everything that can be checked before the first device computation.
"""

from jdistill.teacher.convert import convert
from jdistill.verbs.check import check
from jdistill.verbs.embed import embed
from jdistill.verbs.evaluate import evaluate
from jdistill.verbs.export import export
from jdistill.verbs.plan import plan
from jdistill.verbs.prune import prune
from jdistill.verbs.show import load_recipe, show
from jdistill.verbs.train import train

__all__ = ["check", "convert", "embed", "evaluate", "export", "load_recipe", "plan", "prune", "show", "train"]
