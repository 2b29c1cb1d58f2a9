"""Loading a teacher: check its files, let sentence-transformers read them, and check what it has read."""

from pathlib import Path
from typing import Any

from jdistill.config import UserError
from jdistill.folders import check_tensors, read_json, refuse_what_no_teacher_gives
from jdistill.folders.code import refuse_foreign_code
from jdistill.folders.modules import all_modules
from jdistill.folders.pickles import import_torch, pickle_files
from jdistill.folders.refusals import refuse_without_vocabulary, transformers_in
from jdistill.teacher.complete import check_complete, check_finite, recorded_loading
from jdistill.teacher.config import TeacherConfig
from jdistill.teacher.describe import find_folder, is_local, require_model

SMALL = ["*.json", "artifact.metadata"]
"""Files of a model on the hub that say what it is."""


def check_folder(config: TeacherConfig, *, where: str) -> None:
    """Refuse a teacher whose folder, where it is on this machine, cannot be used; loads nothing and needs no torch, but
    for pickled weights.

    Args:
      config: of the teacher.
      where: its key in the configuration, for messages.

    Raises:
      UserError: if there is no such folder, its model gives no dense vectors of texts, it would run code that the
        configuration does not allow, or weights are missing, damaged or of a type that weights do not have.
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
        if not config.trust_remote_code:  # code of a model's own may keep words where it likes
            refuse_without_vocabulary(place, where=where)


def load(config: TeacherConfig, *, where: str) -> Any:
    """The SentenceTransformer of a teacher, complete and finite, for computing in the precision that is configured.

    No code of its folder is run unless the configuration says so, whatever the release of sentence-transformers.

    Raises:
      UserError: as `check_folder`; if PyTorch is missing, the model cannot be loaded, or its vectors depend on weights
        that its files do not hold.
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
    if local:  # a bar is for a download; reading a folder takes a moment
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
                    # None lets transformers read pickles where there is nothing else, by torch's weights_only.
                    "use_safetensors": None if _is_pickled(folder) else True,
                },
            ).to(precision)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # whatever a damaged file makes a library raise; a panic of Rust is no Exception
        reason = " ".join(str(error).split())[:400].rstrip(".") or type(error).__name__
        raise UserError(
            f"{where} cannot be loaded: {reason}. Expected a folder with a model's weights, tokenizer and "
            "configuration, or an id of the hub that can be reached; check model, revision, device and "
            "trust_remote_code."
        ) from error
    finally:
        if shows_bars:
            transformers.utils.logging.enable_progress_bar()
    check_finite(model, where=where)
    check_complete(model.eval(), loaded, where=where, hint=_hint(config, folder))
    return model


def _from_hub(config: TeacherConfig, where: str) -> Path:
    """Where the hub's cache keeps the model's small files, which are fetched and checked before all others."""
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(config.model, revision=config.revision, allow_patterns=SMALL))
    except Exception as error:  # network, cache, permissions, unknown id: the library's message says which
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"{where}: model '{config.model}' cannot be loaded: there is no such folder, and the Hugging Face hub did "
            f"not give it ({reason}). Check the spelling, revision, connection and, for a gated model, your login."
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
    """Where weights lie: with the model if it is one of transformers alone, else with those modules that have some."""
    modules = [module.folder for module in all_modules(folder)]
    holds = [place for place in [folder, *modules] if any(place.glob("*.safetensors*")) or any(place.glob("*.bin*"))]
    needs = [m.folder for m in all_modules(folder) if m.cls in ("Transformer", "Dense", "StaticEmbedding")]
    return list(dict.fromkeys([*(needs if modules else [folder]), *holds]))


def _is_pickled(folder: Path) -> bool:
    """Whether some of the weights are kept as pickles only, or, on the hub, may be."""
    places = _weighted(folder)
    pickled = [place for place in places if pickle_files(place) and not any(place.glob("*.safetensors"))]
    if pickled:
        import_torch(pickled[0])
    return bool(pickled)


def _hint(config: TeacherConfig, folder: Path) -> str:
    """What may be done about weights that do not fit, where the model brings code of its own that was not run."""
    own = any("auto_map" in read_json(place / "config.json") for place in _weighted(folder))
    if config.trust_remote_code or not own:
        return ""
    return " Its config.json names code of its own (auto_map): set trust_remote_code: true if you trust its authors."


def _device(torch: Any) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
