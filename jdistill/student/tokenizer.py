"""The student's tokenizer: a `tokenizer.json` run by the `tokenizers` library, without torch.

Padding and truncation in the file are disabled; the caller decides lengths.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tokenizers

from jdistill.config import UserError
from jdistill.folders import read_json

COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")
"""Other tokenizer files of transformers; kept unchanged, and except for the first not interpreted."""


class Tokenizer:
    """Texts -> token ids, equal to those of transformers' fast tokenizers."""

    def __init__(self, definition: dict[str, Any], companions: dict[str, str], *, special_tokens: bool) -> None:
        """Use `from_folder`."""
        self._definition = {**definition, "padding": None, "truncation": None}
        self._companions = companions
        self._special_tokens = special_tokens
        self._config: dict[str, Any] = json.loads(companions.get("tokenizer_config.json", "{}"))
        # Through JSON, since the library has no constructor from a dict.
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(self._definition))
        # An option of transformers, which does not apply to static embeddings.
        self._splits_special = special_tokens and bool(self._config.get("split_special_tokens"))
        self._tokenizer.encode_special_tokens = self._splits_special
        self._truncated_to: int | None = None
        self._rows: int | None = None

    @classmethod
    def from_folder(cls, folder: str | Path, *, special_tokens: bool = True) -> "Tokenizer":
        """The tokenizer in a folder's tokenizer.json, ignoring the tokenizer class that the folder names.

        This is how StaticEmbedding reads it, and how to read what `save` wrote. For a transformer's folder, use
        `read_tokenizer`.

        Args:
          folder: contains tokenizer.json and usually tokenizer_config.json.
          special_tokens: whether `encode` adds special tokens, such as [CLS] and [SEP].

        Raises:
          UserError: if there is no tokenizer.json, or it cannot be read.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                f"{folder}: has no tokenizer.json. Create one with transformers: "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
            )
        companions = read_companions(folder)
        return cls.made(read_json(path), companions, special_tokens=special_tokens, where=path)

    @classmethod
    def made(
        cls, definition: dict[str, Any], companions: dict[str, str], *, special_tokens: bool, where: Path
    ) -> "Tokenizer":
        """The tokenizer from the content of tokenizer.json and the files next to it.

        Args:
          definition: content of tokenizer.json.
          companions: name -> content of the files next to it.
          special_tokens: whether `encode` adds special tokens.
          where: path of tokenizer.json, for error messages.

        Raises:
          UserError: if the `tokenizers` library cannot read it.
        """
        try:
            tokenizer = cls(definition, companions, special_tokens=special_tokens)
            # Some faults of a file appear only when a text is encoded.
            tokenizer.encode(["a text"], None)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises bare Exception, and Rust panics derive from BaseException
            raise UserError(
                f"{where}: this release of `tokenizers` cannot read it: {error}. Copy or download it again, or save it "
                "again: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
            ) from error
        if tokenizer._truncation_side not in ("left", "right"):
            raise UserError(
                f"{where.with_name('tokenizer_config.json')}: truncation_side is {tokenizer._truncation_side!r}; "
                "expected 'left' or 'right'. Correct it."
            )
        return tokenizer

    def with_special_tokens(self, special_tokens: bool) -> "Tokenizer":
        """The same tokenizer, with or without added special tokens."""
        return Tokenizer(self._definition, self._companions, special_tokens=special_tokens)

    def within(self, rows: int) -> "Tokenizer":
        """The same tokenizer for an embedding table with this many rows; `encode` rejects texts with larger ids.

        A vocabulary may contain such tokens, like EmbeddingGemma's image tokens, as long as no text has them.
        """
        if self.vocab_size <= rows:
            return self
        limited = Tokenizer(self._definition, self._companions, special_tokens=self._special_tokens)
        limited._rows = rows
        return limited

    def with_files(self, definition: dict[str, Any], companions: dict[str, str]) -> "Tokenizer":
        """A tokenizer from another tokenizer.json and companions, with this one's setting for special tokens."""
        return Tokenizer(definition, companions, special_tokens=self._special_tokens)

    @property
    def definition(self) -> dict[str, Any]:
        """Content of tokenizer.json; do not modify."""
        return self._definition

    @property
    def companions(self) -> dict[str, str]:
        """Name -> content of the files next to it; do not modify."""
        return self._companions

    @property
    def settings(self) -> dict[str, Any]:
        """Content of tokenizer_config.json; do not modify."""
        return self._config

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        """Content of special_tokens_map.json; `{}` without that file."""
        return json.loads(self._companions.get("special_tokens_map.json", "{}"))

    @property
    def ids(self) -> dict[str, int]:
        """Token -> id for all tokens, including added ones."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that determines the tokens.

        The definition in canonical form, whether special tokens are added, the side of truncation, the limit set by
        `within`, and `split_special_tokens`.
        """
        content = [self._definition, self._special_tokens, self._truncation_side]
        # Appended only where set, so that all other tokenizers keep the fingerprints that stores hold.
        content += [] if self._rows is None else [self._rows]
        content += ["split_special_tokens"] * self._splits_special
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding table needs: the largest id plus one."""
        return max(self.ids.values()) + 1

    @property
    def plain_size(self) -> int:
        """The same without added tokens."""
        return max(self._tokenizer.get_vocab(with_added_tokens=False).values(), default=-1) + 1

    @property
    def pad_id(self) -> int:
        """Id of the padding token; 0 if there is none. Padding is masked, so vectors do not depend on it."""
        token = self._config.get("pad_token") or self.special_tokens_map.get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        found = (self._tokenizer.token_to_id(token) if isinstance(token, str) else None) or 0
        return found if self._rows is None or found < self._rows else 0

    @property
    def special_ids(self) -> list[int]:
        """Ids of the special tokens, such as [CLS], [PAD] and [UNK], ascending."""
        return [token["id"] for token in self._special]

    @property
    def special_names(self) -> list[str]:
        """The special tokens as strings, ordered by id."""
        return [token["content"] for token in self._special]

    @property
    def _special(self) -> list[dict[str, Any]]:
        """The special tokens that have a row in the embedding table."""
        tokens = [token for token in self._definition.get("added_tokens") or [] if token.get("special")]
        within = [token for token in tokens if self._rows is None or token["id"] < self._rows]
        return sorted(within, key=lambda token: token["id"])

    @property
    def model_max_length(self) -> int | None:
        """Maximum length from tokenizer_config.json; None if absent or transformers' placeholder 1e30."""
        length = self._config.get("model_max_length")
        return int(length) if length is not None and length < 1_000_000_000 else None

    def encode(self, texts: list[str], max_length: int | None) -> list[list[int]]:
        """Token ids of each text, at most `max_length` of them, special tokens included.

        Raises:
          ValueError: if `max_length` leaves no room for tokens besides the special ones.
          UserError: if a text has a token without a row in the embedding table.
        """
        self._truncate(max_length)
        # `fast` leaves out character offsets.
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=self._special_tokens)
        rows = [encoding.ids for encoding in encodings]
        if self._rows is not None:
            self._refuse_beyond(self._rows, texts, rows)
        return rows

    def _refuse_beyond(self, rows: int, texts: list[str], ids: list[list[int]]) -> None:
        for text, row in zip(texts, ids, strict=True):
            # Refused here, since the lookup would silently give NaN for such an id.
            if row and max(row) >= rows:
                token = self._tokenizer.id_to_token(max(row))
                raise UserError(
                    f"the text {text[:80]!r} has the token {token!r} with id {max(row)}, but the model's embedding "
                    f"table has {rows} rows. Remove {token!r} from the texts, or use a model whose tokenizer and "
                    "weights belong together."
                )

    def prompt_length(self, prompt: str) -> int:
        """Number of tokens of a prompt, with special tokens before it, but without one after it.

        Parity: sentence-transformers, which determines the prompt's tokens in the same way. Tokenizers that merge the
        prompt's last word with the text's first one make this approximate.
        """
        # In a text with this prompt, a special token at the end, such as [SEP], would come after the text.
        ids = self.encode([prompt], None)[0]
        return len(ids) - bool(ids and ids[-1] in self.special_ids)

    def save(
        self,
        folder: str | Path,
        *,
        max_length: int | None = None,
        padding_side: Literal["left", "right"] | None = None,
    ) -> None:
        """Write tokenizer.json and its companions, readable by `from_folder` and by transformers 4.46 or later.

        `max_length` is written as `model_max_length` to tokenizer_config.json, and for a tokenizer without special
        tokens also as truncation to tokenizer.json, where StaticEmbedding reads it. `padding_side` overrides the
        tokenizer's own.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Truncation is a state of the library's tokenizer, and part of what `to_str` writes.
        self._truncate(None if self._special_tokens else max_length)
        (folder / "tokenizer.json").write_text(self._tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
        self._truncate(None)
        for name, text in self._companions.items():
            (folder / name).write_text(text, encoding="utf-8")
        named = self.special_tokens_map
        if named != _portable(named):
            text = json.dumps(_portable(named), indent=2, ensure_ascii=False) + "\n"
            (folder / "special_tokens_map.json").write_text(text, encoding="utf-8")
        config = _portable(self._config) or {"tokenizer_class": _GENERIC}
        if max_length is not None:
            config = {**config, "model_max_length": max_length}
        if padding_side is not None:
            config = {**config, "padding_side": padding_side}
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    @property
    def _truncation_side(self) -> Literal["left", "right"]:
        return self._config.get("truncation_side") or "right"

    def _truncate(self, max_length: int | None) -> None:
        if max_length == self._truncated_to:
            return
        if max_length is None:
            self._tokenizer.no_truncation()
        else:
            # The library truncates to `max_length` minus these.
            reserved = self._tokenizer.num_special_tokens_to_add(is_pair=False) if self._special_tokens else 0
            if max_length <= reserved:
                raise ValueError(f"max_length {max_length} leaves no room besides {reserved} special tokens")
            self._tokenizer.enable_truncation(max_length, direction=self._truncation_side)
        self._truncated_to = max_length


_GENERIC = "PreTrainedTokenizerFast"
"""The class that uses tokenizer.json unchanged; transformers 5 calls it TokenizersBackend and accepts both names."""


def _portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json or special_tokens_map.json in a format that transformers 4.46 or later reads.

    transformers 5 writes further special tokens as a list `extra_special_tokens`, for which 4 expects a mapping and
    fails. Both accept a list of strings as `additional_special_tokens`, and a mapping as `extra_special_tokens`.
    `processor_class`, as in Gemma 3, is removed: an image processor would require files that a student does not have.
    """
    extra = settings.get("extra_special_tokens")
    lists = [value for value in (settings.get("additional_special_tokens"), extra) if isinstance(value, list)]
    listed = [_content(token) for tokens in lists for token in tokens]
    portable = {key: value for key, value in settings.items() if key not in (*_FURTHER, "processor_class")}
    if listed:
        portable["additional_special_tokens"] = list(dict.fromkeys(listed))
    if isinstance(extra, Mapping) and extra:
        portable["extra_special_tokens"] = {name: _content(token) for name, token in extra.items()}
    if portable.get("tokenizer_class") == "TokenizersBackend":
        portable["tokenizer_class"] = _GENERIC
    return portable


_FURTHER = ("additional_special_tokens", "extra_special_tokens")


def _content(token: Any) -> str:
    """A token as a string; some releases write an object with options, which are also in tokenizer.json."""
    return str(token["content"]) if isinstance(token, Mapping) else str(token)


def read_companions(folder: Path) -> dict[str, str]:
    """The text of each companion file in the folder.

    Raises:
      UserError: if one is not UTF-8, or its name ends in .json and it is not valid JSON.
    """
    found: dict[str, str] = {}
    for path in (folder / name for name in COMPANIONS):
        if path.is_file():
            try:
                found[path.name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: is not UTF-8: {error}. Copy or download the file again.") from error
            if path.suffix == ".json":
                read_json(path)
    return found


def truncation_in(folder: str | Path) -> int | None:
    """The maximum length set by `truncation` in a tokenizer.json; None if not set."""
    definition = json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf-8"))
    return (definition.get("truncation") or {}).get("max_length")
