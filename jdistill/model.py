"""Inference: `load` reads a model from a folder or the hub, `Model.encode` turns texts into vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Shaped

from jdistill.config import UserError
from jdistill.progress import Progress
from jdistill.quantization import Precision, quantize
from jdistill.student import Student, load_architecture
from jdistill.student.build import from_pretrained
from jdistill.student.config import Dtype
from jdistill.student.hf_folder import locate, read_folder
from jdistill.student.lora import merge_lora
from jdistill.student.pooling import PoolingModule
from jdistill.types import Tokens
from jdistill.unit_length import unit_length

_CHUNK = 8192
"""Number of texts tokenized at once."""

_MANY = 512
"""Above this many texts, compiling more padded lengths pays off, since they waste less padding."""


_TOKENS = 512
"""A batch has at most `batch_size` times this many tokens."""

_PAIRS = 2**17
"""A batch has at most `batch_size` times this many attention scores per head."""


@dataclass(frozen=True)
class Model:
    """A student with its weights."""

    student: Student
    params: PyTree[Array]
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Name -> text prepended to every input. Default: the student's prompts."""
    default_prompt_name: str | None = None
    """Prompt used when `encode` is called without one."""
    truncate_dim: int | None = None
    """Vectors are truncated to this width unless `encode` is called with another; None: not truncated."""

    def __post_init__(self) -> None:
        if not self.prompts:
            object.__setattr__(self, "prompts", self.student.all_prompts)

    @property
    def width(self) -> int:
        """Width of the vectors that `encode` returns by default, truncation included."""
        return self.student.width if self.truncate_dim is None else min(self.truncate_dim, self.student.width)

    def encode(
        self,
        texts: list[str],
        *,
        batch_size: int = 32,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        precision: Precision = "float32",
        ranges: Float[np.ndarray, "2 d"] | None = None,
        progress: bool = False,
    ) -> Shaped[np.ndarray, "n d"]:
        """Encode texts as vectors, in input order; they have unit length if the model normalizes.

        Texts are sorted by length and padded to a few fixed lengths, so that only a few programs are compiled. The
        first batch of each padded length takes seconds longer, for compilation. Duplicate texts are encoded once and
        get bit-identical vectors.

        Args:
          texts: `n` strings; may be empty.
          batch_size: texts per batch, >= 1; smaller for texts over 362 tokens, to bound memory (`static_rows`).
          prompt_name: which of `prompts` to prepend to each text.
          prompt: text to prepend instead of a named prompt.
          truncate_dim: keep this many leading dimensions, normalized again if the model normalizes.
          precision: number format of the result: float32, bytes or bits, see `jdistill.quantize`.
          ranges: lowest and highest value of each dimension, `[2, d]`, for bytes. Default: those of these vectors.
          progress: show a progress bar.

        Returns:
          `[n, d]`, or `[n, ceil(d / 8)]` for bits.

        Raises:
          UserError: if the prompt name is unknown, `texts` is a single string, a number is out of range, or bytes are
            requested for a single text without `ranges`.
        """
        if isinstance(texts, str):
            raise UserError("encode: texts is a single string; pass a list of strings, such as ['some text'].")
        if batch_size < 1 or (truncate_dim is not None and truncate_dim < 1):
            raise UserError(f"encode: batch_size {batch_size} and truncate_dim {truncate_dim} must be at least 1.")
        before = self._prompt(prompt_name, prompt)
        width = self.width if truncate_dim is None else min(truncate_dim, self.student.width)
        places: dict[str, int] = {}
        of_texts = [places.setdefault(text, len(places)) for text in texts]
        vectors = np.empty((len(places), self.student.width), np.float32)
        ids = self._tokenize([before + text for text in places])
        prompt_tokens = self.student.prompt_token_count(before)
        params = {name: part for name, part in self.params.items() if name != "projection"}
        order = np.argsort([-len(row) for row in ids], kind="stable")
        with Progress("encode", len(places), quiet=not progress) as bar:
            waiting: tuple[np.ndarray, Array] | None = None
            start, fine = 0, len(places) > _MANY
            while start < len(order):
                length = static_length(len(ids[order[start]]), fine=fine)
                most = static_rows(length, batch_size, attends=self.student.layers > 0)
                rows = order[start : start + most]
                start += most
                pad_id = self.student.tokenizer.pad_id
                tokens = _pad([ids[i] for i in rows], most, length, pad_id, prompt=prompt_tokens)
                result = _encode(self.student, params, tokens)
                _keep(vectors, waiting, bar)  # copies the previous batch while the device computes `result`
                waiting = (rows, result)
            _keep(vectors, waiting, bar)
        if len(places) < len(texts):
            vectors = vectors[of_texts]
        return quantize(_truncate(vectors, width, self.student.normalizes), precision, ranges)

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        if prompt is not None:
            return prompt
        if name is None:
            return self.prompts.get(self.default_prompt_name or "", "")
        if name not in self.prompts:
            raise UserError(f"encode: unknown prompt_name {name!r}. Known: {', '.join(self.prompts) or 'none'}.")
        return self.prompts[name]

    def _tokenize(self, texts: list[str]) -> list[np.ndarray]:
        tokenizer, length = self.student.tokenizer, self.student.max_length
        chunks = (texts[i : i + _CHUNK] for i in range(0, len(texts), _CHUNK))
        return [np.asarray(row, np.int32) for chunk in chunks for row in tokenizer.encode(chunk, length)]


def load(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: Dtype = "float32",
    poolings: Sequence[type[PoolingModule]] = (),
) -> Model:
    """Load a model from a run folder, an exported folder, any supported Hugging Face folder, or a hub id.

    Args:
      path: folder or hub id.
      revision: branch, tag or commit on the hub.
      dtype: dtype of the encoder's computation; vectors are always float32.
      poolings: classes of other packages that the folder may use. No folder can have anything imported, except a run
        folder, which is the user's own: what its recipe names is imported again.
    Raises:
      UserError: if there is no such model, or its architecture is not supported.
    """
    if (Path(path) / "architecture").is_dir():
        return _load_run(Path(path), dtype)
    found = read_folder(locate(str(path), revision=revision), poolings)
    student, params = from_pretrained(found, dtype=dtype)
    return Model(student, params, found.prompts, found.default_prompt_name, found.truncate_dim)


def _load_run(folder: Path, dtype: Dtype) -> Model:
    from jdistill.checkpoint import load_student_params

    saved = load_architecture(folder / "architecture")
    student = Student(saved.config.model_copy(update={"dtype": dtype, "lora": None}), saved.tokenizer)
    params = jax.tree.map(jnp.asarray, merge_lora(saved.config.lora, load_student_params(folder)))
    return Model(student, params, default_prompt_name=student.config.inherited.default_prompt_name)


@partial(jax.jit, static_argnums=0)
def _encode(student: Student, params: PyTree[Array], tokens: Tokens) -> Float[Array, "n d"]:
    return student.encode(params, tokens)


def _pad(rows: list[np.ndarray], most: int, length: int, pad_id: int, *, prompt: int) -> Tokens:
    """Pad to a static shape: `length` tokens per row, and the next power of two rows, at most `most`."""
    count = min(most, 1 << (len(rows) - 1).bit_length())
    ids = np.full((count, length), pad_id, np.int32)
    lengths = np.ones(count, np.int64)  # empty rows get one token, so that pooling does not give NaN
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        lengths[i] = len(row)
    prompts = jnp.full(count, prompt, jnp.int32) if prompt else None
    return Tokens(jnp.asarray(ids), jnp.asarray(np.arange(length)[None, :] < lengths[:, None]), prompt=prompts)


def static_length(length: int, *, fine: bool) -> int:
    """The padded length of a text: steps of 16 up to 64, then larger steps; `fine` halves the steps.

    Up to 512 tokens there are 10 lengths, or 20 with `fine`, which bounds the number of compiled programs.
    """
    step = max(16, (1 << max(length - 1, 1).bit_length()) // 4) // (2 if fine else 1)
    return max(-(-length // step), 1) * step


def static_rows(length: int, batch_size: int, *, attends: bool) -> int:
    """The batch size for a padded length: smaller for long texts, so that memory is bounded.

    A batch has at most as many tokens as `batch_size` texts of 512 tokens. If the encoder has attention, it also has
    at most as many attention scores as `batch_size` texts of 362 tokens: 256 MiB with 16 heads and a batch size of 32.
    Still longer texts are encoded one at a time, possibly with blockwise attention.

    Args:
      length: padded length, in tokens.
      batch_size: batch size for short texts.
      attends: whether the encoder has attention, whose memory is quadratic in the length.
    """
    fitting = batch_size * _TOKENS // length
    if attends:
        fitting = min(fitting, batch_size * _PAIRS // length**2)
    # A power of two, so that each length compiles to one program.
    return batch_size if fitting >= batch_size else 1 << (max(fitting, 1).bit_length() - 1)


def _keep(vectors: Float[np.ndarray, "n d"], waiting: tuple[np.ndarray, Array] | None, bar: Progress) -> None:
    if waiting is not None:
        rows, result = waiting
        vectors[rows] = np.asarray(result)[: len(rows)]
        bar.advance(len(rows))


def _truncate(vectors: Float[np.ndarray, "n d"], width: int, normalizes: bool) -> Float[np.ndarray, "n e"]:
    if width == vectors.shape[1]:
        return vectors
    vectors = vectors[:, :width]
    return unit_length(vectors) if normalizes else vectors.copy()
