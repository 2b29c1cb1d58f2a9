"""Poolings and heads exported, loaded again by each library, and compared with the student: the rows of a table.

`python -m tests.student.parity` prints it.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jdistill
from jdistill.export.hf import export_model
from jdistill.export.reference import reference_vectors
from jdistill.export.verify import PROBES, verify
from jdistill.model import Model
from jdistill.student import StudentConfig, make_student
from jdistill.student.encoders import MASKED_LM_KINDS
from jdistill.student.hf_folder import module_files
from tests.student.encoders.cases import CASES as ENCODERS
from tests.student.encoders.cases import TYPES
from tests.student.encoders.measure import torch_model
from tests.tiny import tiny_bert_folder

DENSE = {"kind": "dense", "out_features": 24}
LATENT = {"kind": "latent_attention", "latents": 6, "heads": 4}

CASES: Mapping[str, dict[str, Any]] = {
    **{mode: {"pooling": mode} for mode in ("mean", "cls", "max", "mean_sqrt_len", "weightedmean", "lasttoken")},
    "lasttoken + cls": {"pooling": ["lasttoken", "cls"]},
    "activation": {"pooling": {"kind": "activation"}},
    "activation without bias": {"pooling": {"kind": "activation", "bias": False}},
    "latent attention": {"pooling": LATENT},
    "latent attention, narrow": {"pooling": {**LATENT, "attention_width": 8, "inner": 2}},
    "mean + activation + latent attention": {"pooling": ["mean", {"kind": "activation"}, LATENT], "normalize": False},
    "sparse vocabulary": {"pooling": {"kind": "sparse_vocabulary"}},
    "sparse vocabulary, all tokens": {"pooling": {"kind": "sparse_vocabulary", "bias": False, "excluded": []}},
    "splade": {"pooling": {"kind": "splade"}},
    "splade, unit length": {"pooling": {"kind": "splade"}, "normalize": True},
    "splade sum, log1p_relu": {"pooling": {"kind": "splade", "strategy": "sum", "activation": "log1p_relu"}},
    "dense chain": {"head": [DENSE, {**DENSE, "out_features": 16}, {"kind": "normalize"}]},
    "layer norm": {"head": [{"kind": "layer_norm"}, DENSE], "normalize": False},
    "dense residual": {
        "head": [{**DENSE, "activation": "tanh", "residual": True}, {**DENSE, "activation": "gelu", "residual": True}]
    },
    **{
        f"dense {name}": {"head": [{**DENSE, "bias": False, "activation": name}]}
        for name in ("relu", "silu", "sigmoid")
    },
}
"""Name -> options of the student."""

MASKED_LMS = {f"splade of {kind}": label for kind, label in TYPES.items() if kind.replace("_", "") in MASKED_LM_KINDS}
"""Name -> encoder, for every `model_type` that has masked language models."""


TOLERANCE = 1e-5
"""Largest difference of any number, in units of the longest vector (of 1 where vectors are shorter)."""

COLUMNS = ("sentence-transformers", "transformers", "jdistill")


class Row(NamedTuple):
    """One student, and the largest difference of any number where each library loads its export."""

    head: str
    loaded_as: str
    sentence_transformers: float
    transformers: float
    jdistill: float

    @property
    def numbers(self) -> tuple[float, float, float]:
        return self.sentence_transformers, self.transformers, self.jdistill

    @property
    def good(self) -> bool:
        """False for NaN too."""
        return all(number <= TOLERANCE for number in self.numbers)


def student(source: Path, name: str) -> Model:
    """The student of a case, its new parameters no longer as they start: many start at 0, which would hide mistakes."""
    config = StudentConfig.model_validate({"init": str(source), **CASES.get(name, {"pooling": {"kind": "splade"}})})
    made, params = make_student(config, teacher_widths={}, key=jax.random.key(0))
    for part in ("pooling", "head"):
        leaves, tree = jax.tree.flatten(params.get(part, {}))
        keys = jax.random.split(jax.random.key(1), len(leaves) + 1)
        moved = [x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=False)]
        params |= {part: jax.tree.unflatten(tree, moved)} if leaves else {}
    return Model(made, jax.tree.map(jnp.asarray, params))


def row(model: Model, out: Path, name: str) -> Row:
    """Export a student to `out` and compare."""
    texts = list(PROBES)
    export_model(model.student, model.params, out)
    vectors = reference_vectors(model, texts)
    found = {check.loader: check.max_difference for check in verify(out, texts, vectors).checks}
    kind = json.loads((out / "config_sentence_transformers.json").read_text()).get("model_type", "SentenceTransformer")
    again = np.abs(jdistill.load(out).encode(texts) - vectors[""]).max()
    trust = ", trust_remote_code=True" if module_files(model.student.config.pooling) else ""
    return Row(name, f"{kind}{trust}", found["sentence-transformers"], found["transformers"], float(again))


def source_folder(folder: Path) -> Path:
    """The model that every student starts from: a masked language model, so that it has that head, too."""
    return tiny_bert_folder(folder, layers=1, hidden=16, max_length=32, masked_lm=True)


def masked_lm_folder(folder: Path, label: str) -> Path:
    """A masked language model of another architecture, with its tokenizer."""
    import torch
    from transformers import AutoModelForMaskedLM

    folder.mkdir(exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(torch_model(label).config)
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    case = ENCODERS[label]
    case.vocabulary().write(folder, max_length=case.max_length)
    return folder


def rows(only: str = "") -> Iterator[Row]:
    """All rows of the table whose name contains `only`."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = source_folder(root / "source")
        for i, name in enumerate(CASES):
            if only in name:
                yield row(student(source, name), root / f"out{i}", name)
        for i, (name, label) in enumerate(MASKED_LMS.items()):
            if only in name:
                other = masked_lm_folder(root / f"source{i}", label)
                yield row(student(other, name), root / f"splade{i}", name)


def plain(found: Row) -> str:
    """A line for the terminal."""
    numbers = "".join(f"{x:24.1e}" for x in found.numbers)
    return f"{found.head:40}{found.loaded_as:44}{numbers}{'' if found.good else '  above tolerance'}"


def markdown(found: Iterable[Row]) -> Iterator[str]:
    """The table."""
    yield f"| pooling or head | loaded as | {' | '.join(COLUMNS)} |"
    yield "|---" * (2 + len(COLUMNS)) + "|"
    for one in found:
        yield f"| {one.head} | {one.loaded_as} | " + " | ".join(f"{x:.1e}" for x in one.numbers) + " |"
