"""The student's tokenizer: a `tokenizer.json` run by the `tokenizers` library, without torch.

Padding and truncation that the file may carry are switched off; lengths are the caller's business.
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
"""Small files that transformers reads beside tokenizer.json; carried along unread, but for the first."""


class Tokenizer:
    """Texts -> token ids, as transformers' fast tokenizers give them."""

    def __init__(self, definition: dict[str, Any], companions: dict[str, str], *, special_tokens: bool) -> None:
        """Use `from_folder`."""
        self._definition = {**definition, "padding": None, "truncation": None}
        self._companions = companions
        self._special_tokens = special_tokens
        self._config: dict[str, Any] = json.loads(companions.get("tokenizer_config.json", "{}"))
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(self._definition))
        # A table of token vectors is read without transformers, whose option that is.
        self._splits_special = special_tokens and bool(self._config.get("split_special_tokens"))
        self._tokenizer.encode_special_tokens = self._splits_special
        self._truncated_to: int | None = None
        self._rows: int | None = None

    @classmethod
    def from_folder(cls, folder: str | Path, *, special_tokens: bool = True) -> "Tokenizer":
        """The tokenizer that a folder's tokenizer.json describes, whatever class the folder names.

        That is how StaticEmbedding reads it, and what `save` wrote. Of a transformer's folder, see `read_tokenizer`.

        Args:
          folder: holds tokenizer.json and, as a rule, tokenizer_config.json.
          special_tokens: whether `encode` adds the special tokens, such as [CLS] and [SEP].
        Raises:
          UserError: if there is no tokenizer.json, or it cannot be read.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                f"{folder}: has no tokenizer.json. Write one with transformers: "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
            )
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            read_json(folder / name)
        names = [name for name in COMPANIONS if (folder / name).is_file()]
        companions = {name: (folder / name).read_text(encoding="utf-8") for name in names}
        return cls.made(read_json(path), companions, special_tokens=special_tokens, where=path)

    @classmethod
    def made(
        cls, definition: dict[str, Any], companions: dict[str, str], *, special_tokens: bool, where: Path
    ) -> "Tokenizer":
        """The tokenizer of a tokenizer.json's content and the files beside it.

        Args:
          definition: what tokenizer.json holds.
          companions: name -> content of the files beside it.
          special_tokens: whether `encode` adds the special tokens.
          where: tokenizer.json's place, for messages.
        Raises:
          UserError: if the `tokenizers` library does not read it.
        """
        try:
            tokenizer = cls(definition, companions, special_tokens=special_tokens)
            tokenizer.encode(["a text"], None)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises bare Exception, and its Rust panics are not even that
            raise UserError(
                f"{where}: not a tokenizer that this release of `tokenizers` reads: {error}. Copy or download it "
                "again, or save it again: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
            ) from error
        if tokenizer._truncation_side not in ("left", "right"):
            raise UserError(
                f"{where.with_name('tokenizer_config.json')}: truncation_side is {tokenizer._truncation_side!r}; "
                "expected 'left' or 'right'. Correct it."
            )
        return tokenizer

    def with_special_tokens(self, special_tokens: bool) -> "Tokenizer":
        """The same, adding special tokens or not."""
        return Tokenizer(self._definition, self._companions, special_tokens=special_tokens)

    def within(self, rows: int) -> "Tokenizer":
        """The same for an encoder whose table has this many rows: `encode` refuses texts with tokens beyond it.

        Such tokens may be in a vocabulary, as those of images are in EmbeddingGemma's, as long as no text has them.
        """
        if self.vocab_size <= rows:
            return self
        limited = Tokenizer(self._definition, self._companions, special_tokens=self._special_tokens)
        limited._rows = rows
        return limited

    def with_files(self, definition: dict[str, Any], companions: dict[str, str]) -> "Tokenizer":
        """The tokenizer of another tokenizer.json and its companions, adding special tokens or not as this one."""
        return Tokenizer(definition, companions, special_tokens=self._special_tokens)

    @property
    def definition(self) -> dict[str, Any]:
        """What tokenizer.json holds; not to be changed."""
        return self._definition

    @property
    def companions(self) -> dict[str, str]:
        """Name -> content of the files beside it; not to be changed."""
        return self._companions

    @property
    def settings(self) -> dict[str, Any]:
        """What tokenizer_config.json holds; not to be changed."""
        return self._config

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        """What special_tokens_map.json holds."""
        return json.loads(self._companions.get("special_tokens_map.json", "{}"))

    @property
    def ids(self) -> dict[str, int]:
        """Token -> id, of all tokens, added ones too."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @property
    def fingerprint(self) -> str:
        """sha256 of what decides the tokens: the definition in canonical form, special tokens, side of truncation.

        And of the rows of the encoder's table, where there are fewer than tokens, and whether what is written like a
        special token is cut into words.
        """
        content = [self._definition, self._special_tokens, self._truncation_side]
        content += [] if self._rows is None else [self._rows]
        content += ["split_special_tokens"] * self._splits_special
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Rows that a table of tokens must have: the largest id plus one."""
        return max(self.ids.values()) + 1

    @property
    def plain_size(self) -> int:
        """Rows for the tokens that texts are cut into: the same without tokens added to the vocabulary."""
        return max(self._tokenizer.get_vocab(with_added_tokens=False).values(), default=-1) + 1

    @property
    def pad_id(self) -> int:
        """Id of the padding token, 0 where there is none. Masks hide padding, so no vector depends on it."""
        token = self._config.get("pad_token") or self.special_tokens_map.get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        found = (self._tokenizer.token_to_id(token) if isinstance(token, str) else None) or 0
        return found if self._rows is None or found < self._rows else 0

    @property
    def special_ids(self) -> list[int]:
        """Ids of the tokens that stand for no text, such as [CLS], padding and the unknown word, ascending."""
        return [token["id"] for token in self._special]

    @property
    def special_names(self) -> list[str]:
        """The special tokens as they are written, by their ids."""
        return [token["content"] for token in self._special]

    @property
    def _special(self) -> list[dict[str, Any]]:
        """Those that have a row in the encoder's table."""
        tokens = [token for token in self._definition.get("added_tokens") or [] if token.get("special")]
        within = [token for token in tokens if self._rows is None or token["id"] < self._rows]
        return sorted(within, key=lambda token: token["id"])

    @property
    def model_max_length(self) -> int | None:
        """Longest input according to tokenizer_config.json; None where it names none (or transformers' 1e30)."""
        length = self._config.get("model_max_length")
        return int(length) if length is not None and length < 1_000_000_000 else None

    def encode(self, texts: list[str], max_length: int | None) -> list[list[int]]:
        """Token ids of each text, special tokens included where there are any, at most `max_length` of them.

        Raises:
          ValueError: if `max_length` leaves no room for a token between the special ones.
          UserError: if a text has a token that the encoder's table lacks.
        """
        self._truncate(max_length)
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=self._special_tokens)
        rows = [encoding.ids for encoding in encodings]
        if self._rows is not None:
            self._refuse_beyond(self._rows, texts, rows)
        return rows

    def _refuse_beyond(self, rows: int, texts: list[str], ids: list[list[int]]) -> None:
        for text, row in zip(texts, ids, strict=True):
            if row and max(row) >= rows:
                token = self._tokenizer.id_to_token(max(row))
                raise UserError(
                    f"the text {text[:80]!r} has the token {token!r}, whose id is {max(row)}, but the model's table "
                    f"has {rows} rows, so it has no vector. Remove {token!r} from the texts, or give a model whose "
                    "tokenizer and weights belong together."
                )

    def prompt_length(self, prompt: str) -> int:
        """Tokens of a prompt with the special ones in front of it, but without one behind it.

        Parity: sentence-transformers, which so decides how many first tokens are the prompt's. A tokenizer that joins
        the prompt's last word with the text's first gives others there.
        """
        ids = self.encode([prompt], None)[0]
        return len(ids) - bool(ids and ids[-1] in self.special_ids)

    def save(
        self,
        folder: str | Path,
        *,
        max_length: int | None = None,
        padding_side: Literal["left", "right"] | None = None,
    ) -> None:
        """Write tokenizer.json and its companions; `from_folder` and transformers from 4.46 on read them.

        With `max_length`, tokenizer_config.json names it as `model_max_length`, and a tokenizer without special tokens
        also has it as truncation in tokenizer.json, which is where StaticEmbedding obeys it. `padding_side` is written
        in place of the one that the tokenizer came with.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
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
            reserved = self._tokenizer.num_special_tokens_to_add(is_pair=False) if self._special_tokens else 0
            if max_length <= reserved:
                raise ValueError(f"max_length {max_length} leaves no room beside {reserved} special tokens")
            self._tokenizer.enable_truncation(max_length, direction=self._truncation_side)
        self._truncated_to = max_length


_GENERIC = "PreTrainedTokenizerFast"
"""The class that takes tokenizer.json as it is; transformers 5 calls it TokenizersBackend, and knows both names."""


def _portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json or special_tokens_map.json in a form that transformers reads from 4.46 on.

    transformers 5 lists further special tokens as `extra_special_tokens`; 4 expects names and tokens there, and fails.
    Both read a list of strings under `additional_special_tokens`, and names and tokens under the other. A class that
    reads images too, as Gemma 3's tokenizers name it, is left out: it would look for files that no student has.
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
    """A token, which some releases write as an object with options; those that count stand in tokenizer.json."""
    return str(token["content"]) if isinstance(token, Mapping) else str(token)


def truncation_in(folder: str | Path) -> int | None:
    """The truncation that a tokenizer.json itself carries; None without."""
    definition = json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf-8"))
    return (definition.get("truncation") or {}).get("max_length")
