"""Verifies an export: loads the folder as users will, and compares its vectors with the student's.

Only this file may import torch in this package, and only inside functions. Loading is offline and runs no code in the
folder, except a module file that is, byte for byte, one that the export itself has written.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jdistill.student.pooling.base import OWN_FILE

PROBES = (
    "A short sentence.",
    "word",
    "",
    "  Space   around,\tand\nlines between.  ",
    "x",
    "  outer space\n",
    "\tThe same text, with and without. ",
    "Punctuation?! (all of it): \"quotes\", 'single' - 50% #tags @names & 3.14",
    "Grüße aus Köln, où les élèves étudient à l'école; mañana será otro día.",
    "Здравствуй, мир. 你好,世界。こんにちは世界。 안녕하세요. مرحبا بالعالم. नमस्ते दुनिया",
    "Emoji 🙂🚀 and e\u0301 in two code points, zero\u200bwidth, ﬁ ligature, \uff21 full width",
    "internationalisation antidisestablishmentarianism Donaudampfschifffahrtsgesellschaft " + "x" * 200,
    "The quick brown fox jumps over the lazy dog while seven wizards quietly box. " * 12,
    "A text that is longer than any model here reads, so that it must be cut at the same token. " * 120,
)
"""Texts on which implementations tend to differ: empty, long, odd whitespace, many scripts, unknown words."""

BATCH_CHARACTERS = 8192
"""Characters per batch, padding included, for the other libraries; bounds their memory."""

Encode = Callable[[list[str], str], Float[np.ndarray, "n d"]]
"""Encodes texts, with a prompt by name ("" for none)."""


@dataclass(frozen=True)
class Check:
    """Result of comparing one loader, with one prompt, with the student."""

    loader: str
    """`sentence-transformers` or `transformers`."""
    prompt: str
    """Name of the prompt; "" for none."""
    max_difference: float
    """Largest difference of any number, divided by the largest norm of a vector if that is above 1."""
    min_cosine: float


@dataclass(frozen=True)
class Verification:
    """Result of the comparison; `str()` gives a readable report."""

    folder: str
    texts: int
    tolerance: float
    checks: tuple[Check, ...]
    versions: Mapping[str, str]
    """Package -> version used for loading."""

    @property
    def max_difference(self) -> float:
        """Maximum over all checks; infinite if any is NaN."""
        # `max` would pass over a NaN, depending on its place.
        return max(float(np.nan_to_num(check.max_difference, nan=np.inf)) for check in self.checks)

    @property
    def min_cosine(self) -> float:
        """Minimum over all checks; minus infinity if any is NaN."""
        return min(float(np.nan_to_num(check.min_cosine, nan=-np.inf)) for check in self.checks)

    @property
    def passed(self) -> bool:
        """Whether every difference is within the tolerance."""
        return self.max_difference <= self.tolerance

    def __str__(self) -> str:
        verdict = "equals the student" if self.passed else "DIFFERS from the student"
        lines = [
            f"{self.folder} {verdict}: largest difference {self.max_difference:.1e} (tolerance {self.tolerance:.0e}), "
            f"smallest cosine {self.min_cosine:.6f}, on {self.texts} texts"
        ]
        for check in self.checks:
            prompt = f", prompt '{check.prompt}'" if check.prompt else ""
            how = f"{check.loader} {self.versions[check.loader]}{prompt}"
            lines.append(f"  {how:<45} {check.max_difference:.1e}  cosine >= {check.min_cosine:.6f}")
        return "\n".join(lines)


def verify(
    folder: str | Path,
    texts: Sequence[str],
    vectors: Mapping[str, Float[np.ndarray, "n d"]],
    *,
    tolerance: float = 1e-5,
    module_files: Sequence[Path] = (OWN_FILE,),
) -> Verification:
    """Encode `texts` with the exported folder and compare with the student's `vectors`.

    The folder is loaded with sentence-transformers, as a SentenceTransformer or SparseEncoder. If it contains a
    transformer, it is also loaded with transformers' AutoTokenizer and AutoModel or AutoModelForMaskedLM, whose token
    vectors then pass the other modules as sentence-transformers has loaded them.

    Args:
      folder: a folder written by `export_model`.
      texts: texts to encode, such as `PROBES` and some of the user's own.
      vectors: prompt name ("" for none, "query", "document") -> the student's vectors `[n, d]` of all texts.
      tolerance: largest accepted difference; 1e-5 is suitable for float32.
      module_files: the module files that the export may contain; no other is run.

    Returns:
      The result, passed or not.

    Raises:
      ValueError: if there is nothing to compare, or the widths differ.
    """
    if not texts or not vectors:
        raise ValueError("verify needs at least one text and one set of vectors")
    folder = Path(folder)
    checks = []
    with _offline():
        model = _sentence_transformer(folder, module_files)
        encoders = {"sentence-transformers": _encode(model)}
        if (folder / "config.json").is_file():
            encoders["transformers"] = _encode_by_transformers(model, folder)
        for loader, encode in encoders.items():
            for name, ours in vectors.items():
                theirs = _in_batches(encode, texts, name)
                checks.append(Check(loader, name, *_compare(np.asarray(ours, np.float32), theirs)))
    return Verification(str(folder), len(texts), tolerance, tuple(checks), _versions())


def _in_batches(encode: Encode, texts: Sequence[str], prompt: str) -> Float[np.ndarray, "n d"]:
    """Encode texts in batches of similar length, so that a long text does not pad all others."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    rows: list[tuple[int, Float[np.ndarray, " d"]]] = []
    while order:
        count = min(max(BATCH_CHARACTERS // max(len(texts[order[0]]), 1), 1), 32)
        batch, order = order[:count], order[count:]
        rows += zip(batch, encode([texts[i] for i in batch], prompt), strict=True)
    return np.stack([vector for _, vector in sorted(rows, key=lambda row: row[0])])


def _compare(ours: Float[np.ndarray, "n d"], theirs: Float[np.ndarray, "n d"]) -> tuple[float, float]:
    if ours.shape != theirs.shape:
        raise ValueError(f"the student's vectors have shape {ours.shape}, those of the exported folder {theirs.shape}")
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
    # Long vectors, such as sparse ones, have proportionally larger rounding errors.
    difference = np.abs(ours - theirs).max() / max(1.0, lengths[0].max())
    # A text without tokens may have a zero vector, which has no cosine.
    both_zero = (lengths[0] == 0) & (lengths[1] == 0)
    cosine = np.where(both_zero, 1.0, (ours * theirs).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-300))
    return float(difference), float(cosine.min())


def _sentence_transformer(folder: Path, module_files: Sequence[Path]) -> Any:
    from sentence_transformers import SentenceTransformer, SparseEncoder

    sparse = _read(folder / "config_sentence_transformers.json").get("model_type") == "SparseEncoder"
    trusted = _is_known(folder, module_files)
    cls = SparseEncoder if sparse else SentenceTransformer
    return cls(str(folder), device="cpu", local_files_only=True, trust_remote_code=trusted).eval()


def _encode(model: Any) -> Encode:
    def encode(texts: list[str], prompt: str) -> Float[np.ndarray, "n d"]:
        # `prompt=""`, since None would use the model's default prompt.
        vectors = model.encode(
            texts, prompt_name=prompt or None, prompt=None if prompt else "", show_progress_bar=False
        )
        return np.asarray(vectors if isinstance(vectors, np.ndarray) else vectors.to_dense(), np.float32)

    return encode


def _is_known(folder: Path, module_files: Sequence[Path]) -> bool:
    """Whether the folder brings Python files, and all of them are among these, byte for byte."""
    # With `trust_remote_code`, sentence-transformers may run any Python file of the folder, so all must be known.
    known = {file.name: file.read_bytes() for file in module_files}
    brought = [*folder.rglob("*.py")]
    return brought != [] and all(path.read_bytes() == known.get(path.name) for path in brought)


def _encode_by_transformers(model: Any, folder: Path) -> Encode:
    """Tokens and token vectors of transformers, and all but the first module of `model`."""
    import torch
    from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

    scores = _read(folder / "modules.json")[0]["type"].endswith(".MLMTransformer")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    cls = AutoModelForMaskedLM if scores else AutoModel
    encoder = cls.from_pretrained(folder, local_files_only=True, trust_remote_code=False).eval().float()
    max_length = _read(folder / "sentence_bert_config.json")["max_seq_length"]
    prompts = _read(folder / "config_sentence_transformers.json")["prompts"]
    _, *modules = model

    def encode(texts: list[str], prompt: str) -> Float[np.ndarray, "n d"]:
        before = prompts.get(prompt, "")
        prompted = [before + text for text in texts]
        inputs = tokenizer(prompted, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.inference_mode():
            output = encoder(**inputs)
            features = {**inputs, "token_embeddings": output.logits if scores else output.last_hidden_state}
            # Pooling reads it if `include_prompt` is false.
            if before:
                features["prompt_length"] = _prompt_tokens(tokenizer, before)
            for module in modules:
                features = module(features)
        return features["sentence_embedding"].numpy()

    return encode


def _prompt_tokens(tokenizer: Any, prompt: str) -> int:
    """Number of prompt tokens, counted as in sentence-transformers: with [CLS], without [SEP]."""
    ids = tokenizer(prompt)["input_ids"]
    return len(ids) - (ids[-1:] != [] and ids[-1] in tokenizer.all_special_ids)


@contextmanager
def _offline() -> Iterator[None]:
    """Disable the libraries' network access, progress bars and warnings, such as that of a missing, unused pooler."""
    from huggingface_hub import constants
    from transformers.utils import logging

    offline, bars, verbosity = constants.HF_HUB_OFFLINE, logging.is_progress_bar_enabled(), logging.get_verbosity()
    # The environment variable is read only when the library is imported.
    constants.HF_HUB_OFFLINE = True
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("sentence-transformers", "transformers", "torch")}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
