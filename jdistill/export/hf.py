"""A student as a folder in the layout that every release of sentence-transformers loads, written without torch.

The layout is the one of releases before 5.4: older releases know no other, newer ones still read it. A transformer's
weights and tokenizer lie in the root, so plain transformers loads the same folder. Modules, in order:

    Transformer, Pooling, then the student's head (as a rule Normalize)      of a transformer
    StaticEmbedding, then the student's head                                 of a static embedding
    ..., then Dense, Normalize                                               with the projection to a teacher kept

The projection was trained on the student's finished (normalised) vectors, so Dense stands behind Normalize, and what it
gives is normalised again.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from safetensors.numpy import save_file

import jdistill
from jdistill.config import UserError
from jdistill.export.config import Projection
from jdistill.student import Student, to_hf_tensors
from jdistill.student.encoders import StaticConfig
from jdistill.student.head import Normalize
from jdistill.student.hf_folder import POOLING_KEYS
from jdistill.student.pooling import Mode

MARKER = "jdistill.json"
"""Lists the files of an export; a folder without it is not ours to replace."""

_LAYOUT = "3.0.0"
"""The sentence-transformers release that we claim to have written; newer ones load it without a warning."""


class Module(NamedTuple):
    """One entry of `modules.json`."""

    name: str
    """Class in `sentence_transformers.models`."""
    write: Callable[[Path], None]
    """Puts the module's files into the folder given."""
    in_root: bool = False


def export_model(
    student: Student,
    params: Mapping[str, Any],
    folder: str | Path,
    *,
    projection: Projection = "drop",
    teacher: str | None = None,
) -> Path:
    """Write a student as a sentence-transformers folder, all at once: a killed export leaves the old folder or none.

    Args:
      student: the architecture, with tokenizer and prompts.
      params: its parameters, as trained.
      folder: where to; may hold an earlier export, which is replaced.
      projection: "drop" exports the student's own space; "dense" adds the projection to `teacher`'s space, so that the
        model's vectors can be compared with the teacher's.
      teacher: whose projection, with "dense"; may be left out where there is one.

    Returns:
      The folder.

    Raises:
      UserError: if `folder` holds anything that an export did not write, or there is no such projection.
    """
    folder = Path(folder)
    modules = [*_encoder(student, params), *_head(student, params)]
    if projection == "dense":
        name = projected_to(student, teacher)
        modules.append(_dense(params["projection"][name], activation="identity"))
        modules += [_NORMALIZE] * student.normalizes
    with _replacing(folder) as fresh:
        for i, module in enumerate(modules):
            path = fresh if module.in_root else fresh / f"{i}_{module.name}"
            path.mkdir(exist_ok=True)
            module.write(path)
        _write_json(fresh / "modules.json", _modules(modules))
        _write_json(fresh / "config_sentence_transformers.json", _settings(student))
    return folder


def _modules(modules: Sequence[Module]) -> list[dict[str, Any]]:
    return [
        {
            "idx": i,
            "name": str(i),
            "path": "" if module.in_root else f"{i}_{module.name}",
            "type": f"sentence_transformers.models.{module.name}",
        }
        for i, module in enumerate(modules)
    ]


def _settings(student: Student) -> dict[str, Any]:
    return {
        "__version__": {"sentence_transformers": _LAYOUT},
        "prompts": {"query": student.prompts.query, "document": student.prompts.document},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
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
    tensors, limit = to_hf_tensors(student, params), student.config.max_length
    if isinstance(student.config.encoder, StaticConfig):

        def write_static(path: Path) -> None:
            student.tokenizer.save(path, max_length=limit)
            _write_tensors(path / "model.safetensors", tensors)

        return [Module("StaticEmbedding", write_static)]

    def write_transformer(path: Path) -> None:
        student.tokenizer.save(path, max_length=limit)
        _write_tensors(path / "model.safetensors", tensors)
        _write_json(path / "config.json", {**student.config.encoder.to_hf(), "torch_dtype": "float32"})
        # The tokenizer lower-cases by itself, where it does.
        _write_json(path / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})

    def write_pooling(path: Path) -> None:
        _write_json(path / "config.json", _pooling(student.config.encoder.width, student.config.pooling))

    return [Module("Transformer", write_transformer, in_root=True), Module("Pooling", write_pooling)]


def _pooling(width: int, modes: Sequence[Mode]) -> dict[str, Any]:
    """The module's configuration. Modes in another order than the old keys imply need the form that 5.4 brought."""
    if list(modes) == [mode for mode in POOLING_KEYS.values() if mode in modes]:
        chosen: dict[str, Any] = {key: mode in modes for key, mode in POOLING_KEYS.items()}
    else:
        chosen = {"pooling_mode": [{"mean_sqrt_len": "mean_sqrt_len_tokens"}.get(mode, mode) for mode in modes]}
    return {"word_embedding_dimension": width, **chosen, "include_prompt": True}


_NORMALIZE = Module("Normalize", lambda path: path.rmdir())  # has no files; a folder without any gets lost in git


def _head(student: Student, params: Mapping[str, Any]) -> list[Module]:
    return [
        _NORMALIZE if isinstance(module, Normalize) else _dense(params["head"][str(i)], activation=module.activation)
        for i, module in enumerate(student.config.head)
    ]


_ACTIVATIONS: dict[str, str] = {
    "identity": "torch.nn.modules.linear.Identity",  # left out, it would be Tanh
    "tanh": "torch.nn.modules.activation.Tanh",
}


def _dense(weights: Mapping[str, Any], *, activation: Literal["identity", "tanh"]) -> Module:
    def write(path: Path) -> None:
        kernel = np.asarray(weights["kernel"])
        config = {
            "in_features": kernel.shape[0],
            "out_features": kernel.shape[1],
            "bias": "bias" in weights,
            "activation_function": _ACTIVATIONS[activation],
        }
        _write_json(path / "config.json", config)
        bias = {"linear.bias": np.asarray(weights["bias"])} if "bias" in weights else {}
        _write_tensors(path / "model.safetensors", {"linear.weight": kernel.T, **bias})

    return Module("Dense", write)


def _write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Float32, each tensor contiguous: safetensors writes the memory as it lies."""
    plain = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its place when the block ends well, and vanishes when it does not."""
    _refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    fresh.mkdir()
    try:
        yield fresh
        files = sorted(str(path.relative_to(fresh)) for path in fresh.rglob("*") if path.is_file())
        _write_json(fresh / MARKER, {"jdistill": jdistill.__version__, "files": files})
        old = fresh.with_name(fresh.name + ".old")
        if folder.exists():
            os.rename(folder, old)
        os.rename(fresh, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, expected a folder to export to. Name another place.")
    present = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} if folder.exists() else set()
    if not present:
        return
    ours = set()
    if MARKER in present:
        ours = {MARKER, "README.md", *json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]}
    if foreign := sorted(present - ours):
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(
            f"{folder}: holds files that no export wrote ({foreign[0]}{more}); they would be lost. Expected a new "
            "folder or an earlier export: name another place, or move the files."
        )
