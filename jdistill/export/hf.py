"""Writes a student as a sentence-transformers folder, without torch.

The layout is that of releases before 5.4, which all releases can read. A transformer's weights and tokenizer are in the
root, so plain transformers loads the same folder. Modules, in order:

    Transformer, Pooling, then the student's head (usually Normalize)        for a transformer
    MLMTransformer, SpladePooling                                            for a masked language model with splade
    StaticEmbedding, then the student's head                                 for a static embedding
    ..., then Dense, Normalize                                               with the projection to a teacher

The projection was trained on the student's final (normalized) vectors, so Dense follows Normalize, and its output is
normalized again. A student with vocabulary-sized sparse vectors is exported as a SparseEncoder.
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
    NORMALIZE,
    STOCK,
    STOCK_SPARSE,
    Module,
    check_modules,
    dense_module,
    head_modules,
    module_files,
    pooling_modules,
)
from jdistill.student import Student, to_hf_tensors
from jdistill.student.encoders import StaticConfig
from jdistill.student.head import Dense
from jdistill.student.masked_lm import masked_lm
from jdistill.student.pooling import Splade

_LAYOUT = "3.0.0"
"""The sentence-transformers release named in the export; newer releases load it without a warning."""

COUNT_PADDING = ("bert", "distilbert")
"""Encoders whose positions include padding on the left."""


def export_model(
    student: Student,
    params: Mapping[str, Any],
    folder: str | Path,
    *,
    projection: Projection = "drop",
    teacher: str | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Write a student as a sentence-transformers folder. Atomic: a killed export leaves the old folder or none.

    Args:
      student: the architecture, with tokenizer and prompts.
      params: its parameters, as trained.
      folder: target folder; an earlier export in it is replaced.
      projection: "drop" exports the student's own vectors; "dense" appends the projection to `teacher`'s space, so that
        the vectors can be compared with the teacher's.
      teacher: teacher whose projection "dense" exports; optional if there is only one.
      check: called with the complete temporary folder before it replaces `folder`; if it raises, an earlier export
        remains unchanged.

    Returns:
      The folder.

    Raises:
      UserError: if `folder` contains files that no export wrote, there is no such projection, or a pooling cannot be
        exported.
    """
    folder = Path(folder)
    check_modules(student.config.pooling)
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
        for file in module_files(student.config.pooling):
            shutil.copyfile(file, fresh / file.name)
        write_json(fresh / "modules.json", _modules(modules))
        write_json(fresh / "config_sentence_transformers.json", _settings(student))
        if check is not None:
            check(fresh)
    return folder


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
    """The teacher whose projection to export; `teacher` may be None if there is only one.

    Raises:
      UserError: if there is no projection, no projection to `teacher`, or `teacher` is None and there are several.
    """
    known = list(student.config.projections)
    if not known:
        raise UserError(
            "export.projection: is 'dense', but this student has no projection. Set it to 'drop' to export its own "
            "vectors."
        )
    if teacher is None and len(known) > 1:
        raise UserError(f"export.teacher: there are projections to {' and '.join(known)}. Choose one of them.")
    if teacher is not None and teacher not in known:
        raise UserError(
            f"export.teacher: there is no projection to '{teacher}', only to {' and '.join(known)}. Choose one of "
            "these, or set export.projection to 'drop'."
        )
    return teacher if teacher is not None else known[0]


def _encoder(student: Student, params: Mapping[str, Any]) -> list[Module]:
    """The encoder and, for a transformer, the pooling."""
    config, limit = student.config, student.config.max_length
    if isinstance(config.encoder, StaticConfig):

        def write_static(path: Path) -> None:
            student.tokenizer.save(path, max_length=limit)
            write_tensors(path / "model.safetensors", to_hf_tensors(student, params))

        return [Module("StaticEmbedding", write_static)]
    splade = any(isinstance(pooling, Splade) for pooling in config.pooling)
    tensors, hf = _masked_lm(student, params) if splade else (to_hf_tensors(student, params), config.encoder.to_hf())

    # Padding on the left would shift the positions of these encoders; students are trained with padding on the right.
    side = "right" if config.encoder.kind in COUNT_PADDING else None

    def write_transformer(path: Path) -> None:
        student.tokenizer.save(path, max_length=limit, padding_side=side)
        write_tensors(path / "model.safetensors", tensors)
        write_json(path / "config.json", {**hf, "torch_dtype": "float32"})
        # If the model is uncased, the tokenizer itself lower-cases.
        write_json(path / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})

    name, package = ("MLMTransformer", STOCK_SPARSE) if splade else ("Transformer", STOCK)
    return [
        Module(name, write_transformer, in_root=True, package=package),
        *pooling_modules(
            config.pooling, config.encoder, params.get("pooling", {}), include_prompt=config.include_prompt
        ),
    ]


def _masked_lm(student: Student, params: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and `config.json` of the encoder with its masked language model head, for SPLADE."""
    encoder, own = student.config.encoder, params["pooling"]["0"]
    head = masked_lm(encoder, where="student.pooling: splade")
    tensors = {f"{encoder.hf_prefix}{name}": tensor for name, tensor in to_hf_tensors(student, params).items()}
    return {**tensors, **head.write(own)}, {**encoder.to_hf(), **head.config(own)}
