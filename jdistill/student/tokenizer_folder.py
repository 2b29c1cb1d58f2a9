"""Reads a folder's tokenizer as transformers does, from tokenizer.json or from a vocabulary alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers.models import BPE, WordPiece

from jdistill.config import UserError
from jdistill.folders import read_json
from jdistill.student.tokenizer import Tokenizer, read_companions
from jdistill.student.tokenizer_classes import CLASSES, NAMED, Definition, as_transformers, class_of


def read_tokenizer(
    folder: str | Path,
    *,
    special_tokens: bool = True,
    options: Mapping[str, Any] | None = None,
    lowercase: bool = False,
) -> Tokenizer:
    """The tokenizer that transformers would load from a folder.

    Args:
      folder: contains tokenizer.json, or vocab.txt, or vocab.json with merges.txt; also tokenizer_config.json and
        config.json, which name the tokenizer class.
      special_tokens: whether `encode` adds special tokens, such as [CLS] and [SEP].
      options: overrides of tokenizer_config.json, like sentence-transformers' `processor_kwargs`.
      lowercase: lower-case texts first, unless the tokenizer does it.

    Raises:
      UserError: if there is no tokenizer, or it cannot be read.
    """
    folder = Path(folder)
    hf = read_json(folder / "config.json")
    special = read_json(folder / "special_tokens_map.json")
    added = read_json(folder / "added_tokens.json")
    settings = {**read_json(folder / "tokenizer_config.json"), **(options or {})}
    kind = class_of(settings, hf)
    definition = _definition(folder, kind)
    # `Tokenizer` drops the file's truncation, but the side on which it cuts still applies.
    cut = definition.get("truncation")
    if cut and not settings.get("truncation_side"):
        settings["truncation_side"] = str(cut.get("direction", "right")).lower()
    settings["tokenizer_class"] = settings.get("tokenizer_class") or kind or "PreTrainedTokenizerFast"
    where = folder / "tokenizer.json"
    try:
        definition = as_transformers(definition, settings, special, hf, added)
    # The files are anybody's, and may have any type at any key.
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: does not fit the tokenizer_class {settings['tokenizer_class']!r} in "
            f"{folder / 'tokenizer_config.json'}: {type(error).__name__} {error}. Copy or download both again."
        ) from error
    companions = read_companions(folder)
    if kind is not None:
        # The settings then name the padding token, which `Tokenizer.pad_id` reads there.
        defaults = {key: token for key, token in CLASSES[kind].tokens.items() if key not in special}
        settings = {**defaults, **settings}
    if lowercase and not _lowercases(definition.get("normalizer")):
        definition, settings = _lowercased(definition, settings)
    companions["tokenizer_config.json"] = json.dumps(settings, ensure_ascii=False)
    return Tokenizer.made(definition, companions, special_tokens=special_tokens, where=where)


def _definition(folder: Path, kind: str | None) -> Definition:
    """Content of tokenizer.json, or its equivalent built from the vocabulary alone."""
    if (folder / "tokenizer.json").is_file():
        return read_json(folder / "tokenizer.json")
    model = CLASSES[kind].model if kind is not None else None
    try:
        if model == "WordPiece" and (folder / "vocab.txt").is_file():
            return _bare({"vocab": WordPiece.read_file(str(folder / "vocab.txt"))})
        if model == "BPE" and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocab, merges = BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
            return _bare({"vocab": vocab, "merges": [list(pair) for pair in merges]})
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{folder}: its vocabulary cannot be read: {error}. Copy or download it again.") from error
    others = sorted(file.name for pattern in ("*.model", "vocab*", "*.txt") for file in folder.glob(pattern))
    found = f", only {', '.join(others)}" if others else ""
    raise UserError(
        f"{folder}: has no tokenizer.json{found}. Expected one, or a vocabulary with a tokenizer class in config.json "
        "or tokenizer_config.json. With transformers installed (pip install 'jdistill[teacher]'), run "
        f"`jdistill convert {folder} NEW_FOLDER` and use that folder."
    )


def _bare(model: dict[str, Any]) -> Definition:
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "model": model}


def _lowercases(normalizer: Mapping[str, Any] | None) -> bool:
    if not normalizer:
        return False
    steps = [normalizer, *(normalizer.get("normalizers") or [])]
    return any(step.get("type") == "Lowercase" or step.get("lowercase") is True for step in steps)


def _lowercased(definition: Definition, settings: dict[str, Any]) -> tuple[Definition, dict[str, Any]]:
    """Lower-case before all other steps, as sentence-transformers does.

    Tokenizer classes have no option for this, so the generic class is named, which uses tokenizer.json unchanged.
    """
    before = definition.get("normalizer")
    steps = before["normalizers"] if before and before.get("type") == "Sequence" else [before] if before else []
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}
    kept = {key: value for key, value in settings.items() if key in (*NAMED, *_KEPT)}
    return {**definition, "normalizer": normalizer}, {**kept, "tokenizer_class": "PreTrainedTokenizerFast"}


_KEPT = ("model_max_length", "padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces")
"""Options that the generic class supports."""
