"""Rejects unsupported models early: those without one dense vector per text, or with incomplete files."""

from pathlib import Path
from typing import Any

from jdistill.config import UserError
from jdistill.folders.files import read_json
from jdistill.folders.modules import all_modules, modules_of

SPARSE = (
    "MLMTransformer",
    "SpladePooling",
    "SparseStaticEmbedding",
    "SparseAutoEncoder",
    "CSRSparsity",
    "SparseVocabulary",
)
"""Modules of models with sparse vectors."""

TOKENWISE = ("MultiVectorMask", "HierarchicalTokenPooling", "LambdaTokenPooling")
"""Modules of multi-vector models, with one vector per token."""

MODALITIES = ("vision_config", "audio_config", "image_config", "video_config")
"""Sections of `config.json` of multimodal models."""


VOCABULARIES = ("tokenizer.json", "*vocab*", "*.model", "*.tiktoken")
"""Vocabulary files; without any, transformers silently creates an empty tokenizer."""


def refuse_without_vocabulary(place: Path, *, where: str) -> None:
    """Reject a transformer's folder without any vocabulary file.

    Raises:
      UserError: if there is none.
    """
    if not any(file.is_file() for pattern in VOCABULARIES for file in place.glob(pattern)):
        raise UserError(
            f"{where}: {place} has no tokenizer.json and no other vocabulary. Expected the tokenizer next to the "
            "weights. Copy or download all of the model's files."
        )


def refuse_what_no_student_reads(folder: Path) -> None:
    """Reject a folder that no student can start from, whatever its architecture.

    Raises:
      UserError: if it is an adapter, quantized, or multi-vector.
    """
    where = str(folder)
    for place in transformers_in(folder):
        _refuse_adapter(place, where)
        _refuse_quantised(place, where)
    _refuse_multi_vector(folder, where)


def refuse_what_no_teacher_gives(folder: Path, *, where: str) -> None:
    """Reject a folder whose model does not give one dense vector per text.

    Args:
      folder: the model's folder.
      where: the config key, for error messages.

    Raises:
      UserError: if it is an adapter, quantized, sparse, multi-vector, a cross-encoder, or multimodal.
    """
    where = f"{where}: {folder}"
    for place in transformers_in(folder):
        _refuse_adapter(place, where)
        _refuse_quantised(place, where)
        _refuse_modalities(place, where)
    _refuse_clip(folder, where)
    _refuse_sparse(folder, where)
    _refuse_multi_vector(folder, where)
    _refuse_cross_encoder(folder, where)


def transformers_in(folder: Path) -> list[Path]:
    """The folders of Transformer modules, including those in routers; the folder itself if there are no modules."""
    modules = list(all_modules(folder))
    found = [module.folder for module in modules if module.cls in ("Transformer", "MLMTransformer")]
    return found if modules else [folder]


def _refuse_adapter(place: Path, where: str) -> None:
    if (place / "adapter_config.json").is_file():
        base = read_json(place / "adapter_config.json").get("base_model_name_or_path")
        raise UserError(
            f"{where}: is a PEFT adapter (adapter_config.json) for {base!r}, not a full model. Merge it with "
            "peft.AutoPeftModelForFeatureExtraction.from_pretrained(folder).merge_and_unload()"
            ".save_pretrained(new_folder), copy the tokenizer into new_folder, and use that folder."
        )


def _refuse_quantised(place: Path, where: str) -> None:
    config = read_json(place / "config.json")
    found = [key for key in ("quantization_config", "compression_config") if config.get(key)]
    if found:
        raise UserError(
            f"{where}: its config.json has a {found[0]}: the weights are quantized, which is not supported. Use the "
            "original model in float32, float16 or bfloat16."
        )


def _refuse_modalities(place: Path, where: str) -> None:
    config = read_json(place / "config.json")
    settings = read_json(place / "sentence_bert_config.json").get("modality_config") or {}
    found = [key for key in MODALITIES if config.get(key)]
    found += [f"modality {key}" for key in settings if not set(str(key).split("+")) <= {"text", "message"}]
    _refuse_more_than_text(found, where)


def _refuse_clip(folder: Path, where: str) -> None:
    _refuse_more_than_text([module.cls for module in all_modules(folder) if module.cls == "CLIPModel"], where)


def _refuse_more_than_text(found: list[str], where: str) -> None:
    if found:
        raise UserError(
            f"{where}: is multimodal ({', '.join(found)}), which is not supported yet. Choose a text-only model."
        )


def _refuse_sparse(folder: Path, where: str) -> None:
    found = [module.cls for module in all_modules(folder) if module.cls in SPARSE]
    if found or _model_type(folder) == "SparseEncoder":
        raise UserError(
            f"{where}: gives sparse vectors ({', '.join(found) or 'SparseEncoder'}); sparse teachers are not supported "
            "yet. Choose a model with dense vectors."
        )


def _refuse_multi_vector(folder: Path, where: str) -> None:
    listed = modules_of(folder)
    classes = [module.cls for module in listed]
    marks = [module.type for module in listed if module.package == "pylate" or module.cls in TOKENWISE]
    marks += [kind for kind in _architectures(folder) if kind == "HF_ColBERT" or kind.endswith("ForRetrieval")]
    marks += [kind for kind in (_model_type(folder),) if kind in ("MultiVectorEncoder", "ColBERT")]
    if not listed and (folder / "artifact.metadata").is_file():
        marks.append("artifact.metadata")
    if classes[:1] == ["Transformer"] and "Dense" in classes and not any("Pooling" in cls for cls in classes):
        marks.append("a Dense module and no Pooling")
    if marks:
        raise UserError(
            f"{where}: gives one vector per token, as ColBERT does ({', '.join(marks)}), which is not supported yet. "
            "Choose a model with one vector per text."
        )


def _refuse_cross_encoder(folder: Path, where: str) -> None:
    listed = [module.cls for module in modules_of(folder)]
    scores = [kind for kind in _architectures(folder) if kind.endswith("ForSequenceClassification")]
    if _model_type(folder) == "CrossEncoder" or "LogitScore" in listed or (scores and not listed):
        raise UserError(
            f"{where}: is a cross-encoder ({', '.join(scores) or 'CrossEncoder'}), which scores pairs of texts and has "
            "no vectors, so it cannot be a teacher. Choose an embedding model."
        )


def _architectures(folder: Path) -> list[str]:
    listed = read_json(folder / "config.json").get("architectures")
    return [str(name) for name in listed] if isinstance(listed, list) else []


def _model_type(folder: Path) -> Any:
    return read_json(folder / "config_sentence_transformers.json").get("model_type")
