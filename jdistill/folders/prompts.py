"""Prompts of a sentence-transformers folder: which one stands in front of a query, and which of a document."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jdistill.config import UserError

NAMES: Mapping[str, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Side -> names of its prompt, the first that is there counting."""


def prompts_of(settings: Mapping[str, Any], *, where: Path) -> dict[str, str]:
    """All prompts, by name; null is none, and so empty.

    Args:
      settings: of config_sentence_transformers.json.
      where: that file, for messages.

    Raises:
      UserError: if they are no names and texts, or there is none of the default's name.
    """
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise UserError(f"{where}: prompts is {prompts!r}; expected names and texts, such as {{'query': 'query: '}}.")
    default = settings.get("default_prompt_name")
    if default is not None and default not in (*prompts, "query", "document"):
        raise UserError(
            f"{where}: default_prompt_name is {default!r}, but prompts are called {', '.join(prompts) or 'nothing'}. "
            "Correct either."
        )
    return {name: text or "" for name, text in prompts.items()}


def prompt_name(prompts: Mapping[str, str | None], side: Literal["query", "document"]) -> str | None:
    """Name of the prompt of a side, the first that is not empty; None if texts of this side have none.

    The default prompt is none of either side's. It stands before texts of which no side is known.

    Parity: `encode_query` and `encode_document` of sentence-transformers, as documented; release 6.2 itself puts an
    empty `document` into every model, which then keeps it from looking for others.
    """
    return next((name for name in NAMES[side] if prompts.get(name)), None)
