"""Measures how the code is built: its size, its comments, its rules, and how many files an addition touches.

    python scripts/structure.py            # a table
    python scripts/structure.py --json

Each addition is really made: a loss, a pooling with parameters, an evaluator, an encoder and an optimizer are written
into a copy of the package, and a fresh Python process uses them there. The files that this takes are counted.
"""

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Addition(NamedTuple):
    """A new member of a family, written in a copy of the package."""

    files: Mapping[str, str]
    """New file -> its content."""
    edits: tuple[tuple[str, str, str], ...]
    """File, regular expression, and what replaces its first match."""
    check: str
    """Python code that fails unless the addition works."""


LOSS = '''"""The mean absolute difference from the teacher's vector."""

__all__ = ["EmbedL1"]

from typing import Literal

from jaxtyping import Array, Float
from typing_extensions import override

from jdistill.losses.base import LossConfig, Needs
from jdistill.losses.embedding import over_columns
from jdistill.losses.maths import absolute, float32
from jdistill.types import LossInputs


class EmbedL1(LossConfig):
    """The mean absolute difference from the teacher's vector."""

    kind: Literal["embed_l1"] = "embed_l1"

    @override
    def needs(self) -> Needs:
        return Needs(teacher=True, projection=True, batch=False)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        return over_columns(inputs, lambda s, t: absolute(float32(s) - float32(t)).mean(axis=-1))
'''

EVALUATOR = '''"""The mean length of a text's vector."""

from typing import ClassVar, Literal

import numpy as np

from jdistill.evaluate.base import Encode, EvaluatorConfig


class Length(EvaluatorConfig):
    """The mean length of the vectors of given texts."""

    primary: ClassVar[str] = "length"
    task: ClassVar[str | None] = "Length"

    kind: Literal["length"] = "length"
    texts: list[str]

    def __call__(self, encode: Encode) -> dict[str, float]:
        return {"length": float(np.linalg.norm(encode(self.texts, side="document"), axis=-1).mean())}

    def metrics(self, width: int) -> list[str]:
        return ["length"]
'''

ENCODER = '''"""A BERT under another name."""

from typing import ClassVar, Literal

from jdistill.student.encoders.bert import BertConfig


class TwinConfig(BertConfig):
    """A BERT under another name."""

    model_types: ClassVar[tuple[str, ...]] = ("twin",)

    kind: Literal["twin"] = "twin"  # pyright: ignore[reportIncompatibleVariableOverride]
'''

OPTIMIZER = '''class Plain(OptimizerConfig):
    """Gradient descent without momentum."""

    kind: Literal["plain"] = "plain"

    def transformation(self, schedule: optax.Schedule, groups: Groups) -> optax.GradientTransformation:
        return _chain(self, schedule, groups, optax.identity())


'''


def additions() -> dict[str, Addition]:
    """One addition of each family."""
    package = ROOT / "jdistill"
    pooling = (package / "student/pooling/activation.py").read_text(encoding="utf-8")
    own = (package / "export/modules/jdistill_pooling.py").read_text(encoding="utf-8")
    torch_class = re.search(r"class ActivationPooling.*?(?=\n\n\n|\Z)", own, flags=re.DOTALL)
    assert torch_class is not None
    renamed = {"ActivationPooling": "TwinPooling", "Activation": "Twin", '"activation"': '"twin"'}
    twin = pooling
    for old, new in renamed.items():
        twin = twin.replace(old, new)
    line = "from jdistill.losses.l1_distance import *\n"
    return {
        "loss": Addition(
            {"losses/l1_distance.py": LOSS},
            (("losses/table.py", r"\Z", line),),
            "from pydantic import TypeAdapter\nfrom jdistill.losses import EmbedL1, Loss\n"
            "assert type(TypeAdapter(Loss).validate_python({'kind': 'embed_l1'})) is EmbedL1",
        ),
        "pooling with parameters": Addition(
            {"student/pooling/twin.py": twin},
            (
                (
                    "student/pooling/__init__.py",
                    r"\n\nOUTSIDE",
                    "\nfrom jdistill.student.pooling.twin import Twin\n\nOUTSIDE",
                ),
                ("student/pooling/__init__.py", r"OwnPooling = ", "OwnPooling = Twin | "),
                (
                    "export/modules/jdistill_pooling.py",
                    r"\Z",
                    "\n\n" + torch_class.group().replace("ActivationPooling", "TwinPooling") + "\n",
                ),
            ),
            "from pydantic import TypeAdapter\nfrom jdistill.student.pooling import Pooling\n"
            "from jdistill.student.hf_folder import module_files\n"
            "twin = TypeAdapter(Pooling).validate_python({'kind': 'twin'})\nassert module_files([twin])",
        ),
        "evaluator": Addition(
            {"evaluate/length.py": EVALUATOR},
            (
                (
                    "evaluate/__init__.py",
                    r"from jdistill.evaluate.retrieval",
                    "from jdistill.evaluate.length import Length\n\\g<0>",
                ),
                ("evaluate/__init__.py", r"Annotated\[STS \|", "Annotated[Length | STS |"),
            ),
            "import numpy as np\nfrom pydantic import TypeAdapter\nfrom jdistill.evaluate import Evaluator\n"
            "found = TypeAdapter(Evaluator).validate_python({'kind': 'length', 'texts': ['a']})\n"
            "assert found(lambda texts, side: np.ones((1, 4))) == {'length': 2.0} and found.task == 'Length'",
        ),
        "encoder": Addition(
            {"student/encoders/twin.py": ENCODER},
            (
                (
                    "student/encoders/__init__.py",
                    r"from jdistill.student.masked_lm",
                    "from jdistill.student.encoders.twin import TwinConfig\n\\g<0>",
                ),
                ("student/encoders/__init__.py", r"    StaticConfig,\n", "\\g<0>    TwinConfig,\n"),
            ),
            "import jax\nfrom jdistill.student.encoders import MASKED_LM_KINDS, MODEL_TYPES\n"
            "from jdistill.student.student import encoder_shapes\n"
            "twin = MODEL_TYPES['twin'](num_hidden_layers=1)\nassert 'twin' in MASKED_LM_KINDS\n"
            "assert jax.tree.leaves(encoder_shapes(twin))",
        ),
        "optimizer": Addition(
            {},
            (
                ("train/optimizer.py", r"def _adamw_by_default", OPTIMIZER + "def _adamw_by_default"),
                ("train/optimizer.py", r"AdamW \| Adafactor", "Plain | AdamW | Adafactor"),
            ),
            "from pydantic import TypeAdapter\nfrom jdistill.train.optimizer import Optimizer\n"
            "assert TypeAdapter(Optimizer).validate_python({'kind': 'plain'}).kind == 'plain'",
        ),
    }


def touched(addition: Addition) -> list[str]:
    """Make an addition in a copy of the package, and use it there.

    Returns:
      The files that changed, new ones first.

    Raises:
      RuntimeError: if it does not work.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "jdistill"
        shutil.copytree(ROOT / "jdistill", copy, ignore=shutil.ignore_patterns("__pycache__"))
        for name, content in addition.files.items():
            (copy / name).write_text(content, encoding="utf-8")
        for name, pattern, new in addition.edits:
            text, count = re.subn(pattern, new, (copy / name).read_text(encoding="utf-8"), count=1)
            if not count:
                raise RuntimeError(f"{name}: {pattern} is not there any more; correct this script")
            (copy / name).write_text(text, encoding="utf-8")
        code = f"import jdistill\nassert jdistill.__file__.startswith({folder!r})\n{addition.check}"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": folder}
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the addition of {[*addition.files]} does not work:\n{done.stderr}")
    return [*addition.files, *dict.fromkeys(name for name, _, _ in addition.edits)]


def comment_lines(source: str) -> int:
    """Lines that hold nothing but a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(token.type == tokenize.COMMENT and token.line.strip().startswith("#") for token in tokens)


def code_lines(source: str) -> int:
    """Lines with code: no blank lines, comments or docstrings."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines, statement = set[int](), list[tokenize.TokenInfo]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            if any(each.type != tokenize.STRING for each in statement):
                lines |= {n for each in statement for n in range(each.start[0], each.end[0] + 1)}
            statement = []
        elif token.type not in skipped:
            statement.append(token)
    return len(lines)


def measured() -> dict[str, object]:
    """All figures by name."""
    sources = {
        str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in sorted((ROOT / "jdistill").rglob("*.py"))
    }
    lengths = {name: len(source.splitlines()) for name, source in sources.items()}
    folders = Counter(str(Path(name).parent) for name in sources)
    comments, code = (sum(map(count, sources.values())) for count in (comment_lines, code_lines))
    longest, (fullest, most) = max(lengths, key=lengths.__getitem__), folders.most_common(1)[0]
    return {
        "lines": sum(lengths.values()),
        "lines of code": code,
        "lines of comments": comments,
        "comments per line of code": round(comments / code, 4),
        "files": len(sources),
        "longest file": f"{longest}, {lengths[longest]} lines",
        "most files in a folder": f"{fullest}, {most}",
        "files that call shard_map": [n for n, source in sources.items() if re.search(r"\bshard_map\(", source)],
        **{f"files touched by adding: {name}": touched(addition) for name, addition in additions().items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the size and the structure of the code.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    figures = measured()
    if parser.parse_args().json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:<48}{f'{len(value)}: ' + ', '.join(value) if isinstance(value, list) else value}")


if __name__ == "__main__":
    main()
