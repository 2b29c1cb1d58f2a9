"""Loads a teacher: checks its files, loads it with sentence-transformers, and checks the result."""

from pathlib import Path
from typing import Any

from jdistill.config import UserError
from jdistill.folders import check_tensors, read_json, refuse_what_no_teacher_gives
from jdistill.folders.code import refuse_foreign_code
from jdistill.folders.modules import all_modules
from jdistill.folders.pickles import import_torch, pickle_files
from jdistill.folders.refusals import refuse_without_vocabulary, transformers_in
from jdistill.teacher.check_weights import check_complete, check_finite, recorded_loading
from jdistill.teacher.config import TeacherConfig
from jdistill.teacher.describe import find_folder, is_local, require_model

SMALL = ["*.json", "artifact.metadata"]
"""Patterns of the small files that describe a hub model."""


def check_folder(config: TeacherConfig, *, where: str) -> None:
    """Check that a teacher's folder, if it is on this machine, is usable, without loading the model.

    Needs no torch, except for pickled weights.

    Args:
      config: the teacher.
      where: its key in the config, for messages.

    Raises:
      UserError: if there is no such folder, its model does not produce dense text vectors, it would run code that the
        config does not allow, or weights are missing, damaged or of an unsupported dtype.
    """
    require_model(config, where=where)
    folder = find_folder(config)
    if folder is None:
        return
    _check_kind(config, folder, where)
    if not is_local(config):
        return
    _check_weights(folder, where)
    for place in transformers_in(folder):
        if not config.trust_remote_code:  # custom code may store its vocabulary anywhere
            refuse_without_vocabulary(place, where=where)


def load(config: TeacherConfig, *, where: str) -> Any:
    """Load the SentenceTransformer of a teacher in the configured precision, with complete and finite weights.

    Runs no code of the model's folder unless the config allows it, whatever the version of sentence-transformers.

    Raises:
      UserError: as `check_folder`; if PyTorch is missing, the model cannot be loaded, or its vectors depend on weights
        that are not in its files.
    """
    require_model(config, where=where)
    try:
        import torch
        import transformers
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(f"{where}: needs PyTorch: {error}. Install it: pip install 'jdistill[teacher]'.") from error
    check_folder(config, where=where)
    local = is_local(config)
    folder = Path(config.model).expanduser() if local else _from_hub(config, where)
    precision = getattr(torch, config.precision)
    recent = tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (4, 56)
    where = f"{where}: model '{config.model}'"
    shows_bars = transformers.utils.logging.is_progress_bar_enabled()
    if local:  # no download, no progress bar
        transformers.utils.logging.disable_progress_bar()
    try:
        with recorded_loading() as loaded:
            model = SentenceTransformer(
                str(folder) if local else config.model,
                revision=config.revision,
                device=_device(torch) if config.device == "auto" else config.device,
                trust_remote_code=config.trust_remote_code,
                model_kwargs={
                    "dtype" if recent else "torch_dtype": precision,
                    # None lets transformers fall back to pickles, read with torch's weights_only.
                    "use_safetensors": None if _is_pickled(folder) else True,
                },
            ).to(precision)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # any error of the libraries; Rust panics are not Exceptions
        reason = " ".join(str(error).split())[:400].rstrip(".") or type(error).__name__
        raise UserError(
            f"{where} cannot be loaded: {reason}. Expected a folder with a model's weights, tokenizer and config, "
            "or an accessible hub id; check model, revision, device and trust_remote_code."
        ) from error
    finally:
        if shows_bars:
            transformers.utils.logging.enable_progress_bar()
    check_finite(model, where=where)
    check_complete(model.eval(), loaded, where=where, hint=_hint(config, folder))
    return model


def _from_hub(config: TeacherConfig, where: str) -> Path:
    """Fetch and check the model's small files first; returns their folder in the hub cache."""
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(config.model, revision=config.revision, allow_patterns=SMALL))
    except Exception as error:  # network, cache, permissions or unknown id, as the library's message says
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"{where}: model '{config.model}' cannot be loaded: there is no such folder, and downloading it from the "
            f"Hugging Face hub failed ({reason}). Check the spelling, revision, connection and, for a gated model, "
            "your login."
        ) from error
    _check_kind(config, folder, where)
    return folder


def _check_kind(config: TeacherConfig, folder: Path, where: str) -> None:
    refuse_what_no_teacher_gives(folder, where=where)
    if not config.trust_remote_code:
        refuse_foreign_code(folder, where=where)


def _check_weights(folder: Path, where: str) -> None:
    for place in _weighted(folder):
        try:
            check_tensors(place)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error


def _weighted(folder: Path) -> list[Path]:
    """Folders with weights: the model's own if it is a plain transformers model, otherwise those of its modules."""
    modules = [module.folder for module in all_modules(folder)]
    holds = [place for place in [folder, *modules] if any(place.glob("*.safetensors*")) or any(place.glob("*.bin*"))]
    needs = [m.folder for m in all_modules(folder) if m.cls in ("Transformer", "Dense", "StaticEmbedding")]
    return list(dict.fromkeys([*(needs if modules else [folder]), *holds]))


def _is_pickled(folder: Path) -> bool:
    """Whether some weights are, or on the hub may be, available as pickles only."""
    places = _weighted(folder)
    pickled = [place for place in places if pickle_files(place) and not any(place.glob("*.safetensors"))]
    if pickled:
        import_torch(pickled[0])
    return bool(pickled)


def _hint(config: TeacherConfig, folder: Path) -> str:
    """Advice on mismatching weights if the model has custom code that was not run."""
    own = any("auto_map" in read_json(place / "config.json") for place in _weighted(folder))
    if config.trust_remote_code or not own:
        return ""
    return " Its config.json refers to custom code (auto_map): set trust_remote_code: true if you trust its authors."


def _device(torch: Any) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
