"""Writes a student as a folder of sentence-transformers, without torch.

A transformer's weights and tokenizer are in the root, so plain transformers loads the same folder. Modules, in order:

    Transformer, Pooling, then the student's head (usually Normalize)        for a transformer
    MLMTransformer, SpladePooling                                            for a masked language model with splade
    StaticEmbedding, then the student's head                                 for a static embedding
    ..., then Dense, Normalize                                               with the projection to a teacher

The projection was trained on the student's final (normalized) vectors, so Dense follows Normalize, and its output is
normalized again. A student with vocabulary-sized sparse vectors is written as a SparseEncoder.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jdistill.folders import write_json
from jdistill.student.head import Dense, Normalize
from jdistill.student.hf_folder.modules import dense, layer_norm, normalize, static_embedding, transformer
from jdistill.student.hf_folder.modules import parametric_pooling as parametric
from jdistill.student.hf_folder.modules import pooling as by_mode
from jdistill.student.pooling import Mode, PoolingModule, Splade, pooled_width
from jdistill.student.student import Student

_RELEASE = "3.0.0"
"""The sentence-transformers release named in the folder; newer releases load it without a warning."""

_HEAD: Mapping[str, Any] = {"dense": dense, "layer_norm": layer_norm, "normalize": normalize}
"""Kind of a head module -> its file."""


def write_folder(student: Student, params: Mapping[str, Any], folder: Path, *, projection: str | None = None) -> None:
    """Write a student's folder, which must be empty.

    Args:
      student: the architecture, with tokenizer and prompts; `check_exportable` accepts its poolings.
      params: its parameters, as trained.
      folder: where to write.
      projection: teacher whose projection to append, so that vectors are in the teacher's space; None: the student's
        own vectors.
    """
    config, listed = student.config, list[dict[str, Any]]()

    def place(cls: str, *, in_root: bool = False) -> Path:
        """List a module in modules.json, and return the folder for its files."""
        # The names that sentence-transformers' `save` gives: index and class.
        path = "" if in_root else f"{len(listed)}_{cls.rpartition('.')[2]}"
        listed.append({"idx": len(listed), "name": str(len(listed)), "path": path, "type": cls})
        return folder / path

    if config.encoder.kind == "static":
        static_embedding.write(student, params, place(static_embedding.CLASS))
    else:
        if any(isinstance(pooling, Splade) for pooling in config.pooling):
            transformer.write_masked_lm(student, params, place(transformer.MASKED_LM_CLASS, in_root=True))
        else:
            transformer.write(student, params, place(transformer.CLASS, in_root=True))
        # One module for all modes; `chosen_pooling` makes sure that they come first.
        modes: list[Mode] = [pooling for pooling in config.pooling if not isinstance(pooling, PoolingModule)]
        if modes:
            by_mode.write(modes, config.encoder.width, place(by_mode.CLASS), include_prompt=config.include_prompt)
        for i, pooling in enumerate(config.pooling):
            if isinstance(pooling, PoolingModule):
                before = pooled_width(config.pooling[:i], config.encoder)
                path = place(pooling.module_type())
                parametric.write(pooling, config.encoder, params["pooling"][str(i)], path, before=before)
    for i, module in enumerate(config.head):
        file = _HEAD[module.kind]
        file.write(module, params.get("head", {}).get(str(i), {}), place(file.CLASS))
    if projection is not None:
        width = config.projections[projection]
        dense.write(Dense(out_features=width), params["projection"][projection], place(dense.CLASS))
        if student.normalizes:
            normalize.write(Normalize(), {}, place(normalize.CLASS))

    # modules.json names these classes as `file.Class`, which sentence-transformers finds in the root of the folder.
    for file in parametric.module_files(config.pooling):
        shutil.copyfile(file, folder / file.name)
    write_json(folder / "modules.json", listed)
    write_json(folder / "config_sentence_transformers.json", _settings(student))


def _settings(student: Student) -> dict[str, Any]:
    inherited = student.config.inherited
    return {
        "__version__": {"sentence_transformers": _RELEASE},
        "prompts": student.all_prompts,
        "default_prompt_name": inherited.default_prompt_name,
        **({"model_type": "SparseEncoder"} if student.sparse else {}),
        "similarity_fn_name": inherited.similarity_fn_name or ("dot" if student.sparse else "cosine"),
    }
