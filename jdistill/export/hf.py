"""A student as a folder in the layout that every release of sentence-transformers loads, written without torch.

The layout is the one of releases before 5.4: older releases know no other, newer ones still read it. A transformer's
weights and tokenizer lie in the root, so plain transformers loads the same folder. Modules, in order:

    Transformer, Pooling, then the student's head (as a rule Normalize)      of a transformer
    MLMTransformer, SpladePooling                                            of a masked language model pooled by splade
    StaticEmbedding, then the student's head                                 of a static embedding
    ..., then Dense, Normalize                                               with the projection to a teacher kept

The projection was trained on the student's finished (normalised) vectors, so Dense stands behind Normalize, and what it
gives is normalised again. A student whose vectors have a number for each token of the vocabulary is a SparseEncoder.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.config import UserError
from jdistill.export.config import Projection
from jdistill.export.files import replacing, write_json, write_tensors
from jdistill.export.tail import (
    MODULES_PATH,
    NORMALIZE,
    STOCK,
    STOCK_SPARSE,
    Module,
    dense_module,
    head_modules,
    pooling_modules,
)
from jdistill.student import Student, to_hf_tensors
from jdistill.student.encoders import StaticConfig
from jdistill.student.head import Dense
from jdistill.student.masked_lm import masked_lm
from jdistill.student.pooling import PoolingModule, Splade

_LAYOUT = "3.0.0"
"""The sentence-transformers release that we claim to have written; newer ones load it without a warning."""

COUNT_PADDING = ("bert", "distilbert")
"""Encoders whose positions count from the start of the row, padding on the left included."""


def export_model(
    student: Student,
    params: Mapping[str, Any],
    folder: str | Path,
    *,
    projection: Projection = "drop",
    teacher: str | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Write a student as a sentence-transformers folder, all at once: a killed export leaves the old folder or none.

    Args:
      student: the architecture, with tokenizer and prompts.
      params: its parameters, as trained.
      folder: where to; may hold an earlier export, which is replaced.
      projection: "drop" exports the student's own space; "dense" adds the projection to `teacher`'s space, so that the
        model's vectors can be compared with the teacher's.
      teacher: whose projection, with "dense"; may be left out where there is one.
      check: called with the complete folder, under another name, before it takes its place; what it raises leaves an
        earlier export as it was.

    Returns:
      The folder.

    Raises:
      UserError: if `folder` holds anything that an export did not write, or there is no such projection.
    """
    folder = Path(folder)
    modules = [*_encoder(student, params), *head_modules(student.config.head, params.get("head", {}))]
    if projection == "dense":
        name = projected_to(student, teacher)
        dense = Dense(out_features=student.config.projections[name])
        modules.append(dense_module(dense, params["projection"][name]))
        modules += [NORMALIZE] * student.normalizes
    with replacing(folder) as fresh:
        for i, module in enumerate(modules):
            path = fresh if module.in_root else fresh / f"{i}_{module.name}"
            path.mkdir(exist_ok=True)
            module.write(path)
        if needs_own_modules(student):
            shutil.copyfile(MODULES_PATH, fresh / MODULES_PATH.name)
        write_json(fresh / "modules.json", _modules(modules))
        write_json(fresh / "config_sentence_transformers.json", _settings(student))
        if check is not None:
            check(fresh)
    return folder


def needs_own_modules(student: Student) -> bool:
    """Whether sentence-transformers loads the export with `trust_remote_code=True` only."""
    return any(isinstance(pooling, PoolingModule) and pooling.weights() for pooling in student.config.pooling)


def _modules(modules: Sequence[Module]) -> list[dict[str, Any]]:
    return [
        {
            "idx": i,
            "name": str(i),
            "path": "" if module.in_root else f"{i}_{module.name}",
            "type": module.type,
        }
        for i, module in enumerate(modules)
    ]


def _settings(student: Student) -> dict[str, Any]:
    inherited = student.config.inherited
    return {
        "__version__": {"sentence_transformers": _LAYOUT},
        "prompts": student.all_prompts,
        "default_prompt_name": inherited.default_prompt_name,
        **({"model_type": "SparseEncoder"} if student.sparse else {}),
        "similarity_fn_name": inherited.similarity_fn_name or ("dot" if student.sparse else "cosine"),
    }


def projected_to(student: Student, teacher: str | None) -> str:
    """The teacher whose projection is meant; `teacher` may be None where there is only one.

    Raises:
      UserError: if there is none, or several, or not that one.
    """
    known = list(student.config.projections)
    if not known:
        raise UserError(
            "export.projection: is 'dense', but this student was trained without a projection, so its own vectors are "
            "the result. Set it to 'drop'."
        )
    if teacher is None and len(known) > 1:
        raise UserError(f"export.teacher: there are projections to {' and '.join(known)}. Name one of them.")
    if teacher is not None and teacher not in known:
        raise UserError(
            f"export.teacher: there is no projection to '{teacher}', only to {' and '.join(known)}. Name one of these, "
            "or set export.projection to 'drop'."
        )
    return teacher if teacher is not None else known[0]


def _encoder(student: Student, params: Mapping[str, Any]) -> list[Module]:
    """The encoder and, of a transformer, the pooling."""
    config, limit = student.config, student.config.max_length
    if isinstance(config.encoder, StaticConfig):

        def write_static(path: Path) -> None:
            student.tokenizer.save(path, max_length=limit)
            write_tensors(path / "model.safetensors", to_hf_tensors(student, params))

        return [Module("StaticEmbedding", write_static)]
    splade = any(isinstance(pooling, Splade) for pooling in config.pooling)
    tensors, hf = _masked_lm(student, params) if splade else (to_hf_tensors(student, params), config.encoder.to_hf())

    # A student never sees padding on the left, where it would move the positions of these.
    side = "right" if config.encoder.kind in COUNT_PADDING else None

    def write_transformer(path: Path) -> None:
        student.tokenizer.save(path, max_length=limit, padding_side=side)
        write_tensors(path / "model.safetensors", tensors)
        write_json(path / "config.json", {**hf, "torch_dtype": "float32"})
        # The tokenizer lower-cases by itself, where it does.
        write_json(path / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})

    name, package = ("MLMTransformer", STOCK_SPARSE) if splade else ("Transformer", STOCK)
    return [
        Module(name, write_transformer, in_root=True, package=package),
        *pooling_modules(
            config.pooling, config.encoder, params.get("pooling", {}), include_prompt=config.include_prompt
        ),
    ]


def _masked_lm(student: Student, params: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and `config.json` of the encoder with the head of a masked language model, which SPLADE pools."""
    encoder, own = student.config.encoder, params["pooling"]["0"]
    head = masked_lm(encoder, where="student.pooling: splade")
    tensors = {f"{encoder.hf_prefix}{name}": tensor for name, tensor in to_hf_tensors(student, params).items()}
    return {**tensors, **head.write(own)}, {**encoder.to_hf(), **head.config(own)}
