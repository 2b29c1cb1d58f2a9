"""Converts a model folder with pickled weights or a slow tokenizer to a format that students can read."""

import contextlib
import importlib.util
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jdistill.config import UserError
from jdistill.folders import read_json, refuse_what_no_student_reads
from jdistill.folders.modules import all_modules
from jdistill.folders.names import canonical, is_buffer
from jdistill.folders.pickles import pickle_files, read_torch
from jdistill.folders.refusals import refuse_without_vocabulary, transformers_in
from jdistill.folders.tensors import weight_files
from jdistill.student.hf_folder import locate, read_folder

COPIED = ("*.json", "*.txt", "*.model", "*.md", "LICENSE*")
"""Patterns of files that are copied unchanged, besides safetensors weights."""


def convert(model: str, out: str | Path) -> Path:
    """Convert a model folder for use as `student.init`, including on machines without torch.

    Pickled weights, including those of single modules, are converted to safetensors with current transformers names; a
    tokenizer.json is generated if there is only a vocabulary; other files are copied. No code of the folder is run:
    pickles are read with `torch.load(weights_only=True)`.

    Args:
      model: folder or hub id.
      out: new folder, written atomically.

    Returns:
      The new folder.

    Raises:
      UserError: if `out` exists, torch or transformers are missing but needed, or the result is not readable as a
        student.
    """
    out = Path(out).expanduser()
    if os.path.lexists(out):
        raise UserError(f"{out}: already exists. Choose a new folder.")
    source = locate(model)
    refuse_what_no_student_reads(source)
    with _fresh(out) as fresh:
        places = {source, *(module.folder for module in all_modules(source) if module.folder.is_dir())}
        for place in sorted(places):
            _convert_place(place, fresh / place.relative_to(source), alone=place == source and len(places) == 1)
        _write_tokenizer(source, fresh)
        try:
            read_folder(fresh)
        except UserError as error:
            # The user knows only the source, not the temporary folder.
            raise UserError(str(error).replace(str(fresh), str(source))) from error
    return out


@contextmanager
def _fresh(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that is renamed to `out` on success and deleted on failure."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    fresh.mkdir()
    try:
        yield fresh
        for file in [*fresh.rglob("*"), fresh]:
            _sync(file)
        if os.path.lexists(out):
            raise UserError(f"{out}: was created by another process meanwhile. Choose a new folder.")
        os.rename(fresh, out)
        _sync(out.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _sync(path: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system syncs folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _convert_place(place: Path, target: Path, *, alone: bool) -> None:
    """Convert one folder of the model. `alone`: it is the only one, so it must have weights."""
    target.mkdir(parents=True, exist_ok=True)
    copied = {file for pattern in COPIED for file in place.glob(pattern) if file.is_file()}
    safe = list(place.glob("*.safetensors*"))
    pickled = [] if safe else pickle_files(place)
    if safe or (alone and not pickled):
        copied |= {*weight_files(place), *place.glob("model.safetensors.index.json")}
    for file in copied:
        if not file.name.endswith(".bin.index.json"):  # it lists pickles
            shutil.copyfile(file, target / file.name)
    if pickled:
        _write_safetensors(place, target / "model.safetensors")


def _write_safetensors(place: Path, path: Path) -> None:
    from safetensors.torch import save_file

    named = {canonical(name): tensor for name, tensor in read_torch(place).items() if not is_buffer(name)}
    # Tied tensors share memory in a pickle, which safetensors does not allow.
    save_file({name: tensor.clone().contiguous() for name, tensor in named.items()}, path, metadata={"format": "pt"})


def _write_tokenizer(source: Path, fresh: Path) -> None:
    """Let transformers write a tokenizer.json for every transformer without one."""
    for place in transformers_in(source):
        if (place / "tokenizer.json").is_file():
            continue
        refuse_without_vocabulary(place, where=str(source))
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise UserError(
                f"{place}: has no tokenizer.json, and transformers, which can create one, is not installed: {error}. "
                "Install it: pip install 'jdistill[teacher]'."
            ) from error
        _refuse_without_sentencepiece(place)
        target = fresh / place.relative_to(source)
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(place), local_files_only=True, trust_remote_code=False)
            tokenizer.save_pretrained(str(target))
        except Exception as error:  # any error of the libraries
            reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
            raise UserError(
                f"{place}: has no tokenizer.json, and transformers cannot create one: {reason}. Copy or download the "
                "model's tokenizer files again."
            ) from error
        if not read_json(target / "tokenizer.json"):
            raise UserError(f"{place}: has only a slow (Python) tokenizer. Use a model with a fast tokenizer.")


def _refuse_without_sentencepiece(place: Path) -> None:
    """Ask for sentencepiece if it is missing; transformers would ask for the wrong package."""
    models = sorted(file.name for file in place.glob("*.model"))
    alone = models and not any(place.glob("vocab.*"))
    if alone and importlib.util.find_spec("sentencepiece") is None:
        raise UserError(
            f"{place}: its tokenizer needs sentencepiece ({models[0]}), which is not installed. Install it: "
            "pip install 'jdistill[teacher]'."
        )
