"""Prompts of a sentence-transformers folder: which one applies to queries and which to documents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jdistill.config import UserError

NAMES: Mapping[str, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Side -> names of its prompt; the first that exists is used."""


def prompts_of(settings: Mapping[str, Any], *, where: Path) -> dict[str, str]:
    """All prompts by name; null becomes an empty string.

    Args:
      settings: content of config_sentence_transformers.json.
      where: that file, for error messages.

    Raises:
      UserError: if `prompts` is not a mapping of strings, or has no prompt of the default name.
    """
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise UserError(f"{where}: prompts is {prompts!r}; expected a mapping such as {{'query': 'query: '}}.")
    default = settings.get("default_prompt_name")
    if default is not None and default not in (*prompts, "query", "document"):
        raise UserError(
            f"{where}: default_prompt_name is {default!r}, which is not in prompts ({', '.join(prompts) or 'none'}). "
            "Correct one of them."
        )
    return {name: text or "" for name, text in prompts.items()}


def prompt_name(prompts: Mapping[str, str | None], side: Literal["query", "document"]) -> str | None:
    """Name of the prompt of a side, the first that is not empty; None if it has none.

    The default prompt is used for neither side, only for texts of unknown side.

    Parity: `encode_query` and `encode_document` of sentence-transformers, as documented. Release 6.2 itself adds an
    empty `document` prompt to every model, so that it never finds `passage` or `corpus`.
    """
    return next((name for name in NAMES[side] if prompts.get(name)), None)
