"""Tokenizes with transformers, in a separate process to keep torch out of this one.

`python -m jdistill.teacher.tokens` is that process: it reads a question as JSON and writes the answer.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from jdistill.backend import cache_home
from jdistill.folders import tokenizer_hash

SECONDS = 120
"""Timeout of the separate process; it usually takes three seconds."""


class Question(NamedTuple):
    """A tokenizer and the texts to tokenize."""

    folder: str
    """The tokenizer's folder."""
    options: Mapping[str, Any]
    """Override tokenizer_config.json, as sentence-transformers' `processor_kwargs` do."""
    lowercase: bool
    """Whether to lower-case texts first, if the tokenizer does not."""
    texts: Sequence[str]
    lengths: Sequence[int | None]
    """Maximum lengths to truncate the texts to, each in turn; None: no truncation."""


class Answer(NamedTuple):
    """The result from transformers."""

    name: str
    """The tokenizer class."""
    ids: Sequence[Sequence[Sequence[int]]]
    """For each length, the tokens of each text, special tokens included."""
    failure: str = ""
    """Short reason if tokenization failed; otherwise empty."""


def transformers_version() -> str | None:
    """The installed version; None if not installed."""
    if importlib.util.find_spec("transformers") is None:
        return None
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("transformers")
    return None


def ask(question: Question) -> Answer:
    """Tokenize with transformers, using the answer cached in the user's cache folder if there is one.

    Downloads nothing, and runs no code of the folder.
    """
    kept = cache_home(os.environ) / "tokens" / f"{_key(question)}.json"
    with suppress(OSError, ValueError, TypeError):
        return Answer(**json.loads(kept.read_text(encoding="utf-8")))
    answer = _asked(question)
    if not answer.failure:
        _keep(kept, answer)
    return answer


def _key(question: Question) -> str:
    """Hash of everything that determines the answer, independent of the folder's path."""
    folder = Path(question.folder)
    config = folder / "config.json"
    files = [tokenizer_hash(folder), config.read_text(encoding="utf-8") if config.is_file() else None]
    releases = [importlib.metadata.version(name) for name in ("transformers", "tokenizers")]
    content = [files, releases, question._replace(folder="")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _keep(path: Path, answer: Answer) -> None:
    fresh = path.with_name(f".{uuid.uuid4().hex[:8]}")
    with suppress(OSError):  # a full or read-only disk must not stop training
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(answer._asdict()), encoding="utf-8")
        os.replace(fresh, path)


def _asked(question: Question) -> Answer:
    # No CUDA device either: a GPU's memory belongs to JAX.
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "jdistill.teacher.tokens"],
            input=json.dumps(question._asdict()),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=SECONDS,
            env={**os.environ, **offline, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            check=False,
        )
        return Answer(**json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return Answer("", (), f"no answer within {SECONDS} s")
    except (OSError, ValueError, TypeError) as error:
        return Answer("", (), f"its process exited without an answer ({type(error).__name__})")


def answered(question: Question) -> Answer:
    """Tokenize in this process; imports transformers."""
    from transformers import AutoTokenizer

    options = {**question.options, "trust_remote_code": False, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(question.folder, **options)
        if question.lowercase:
            _lowercase(tokenizer)
        ids = [[_ids(tokenizer, text, length) for text in question.texts] for length in question.lengths]
    except Exception as error:  # any error of the libraries
        reason = " ".join(str(error).split())[:200]
        return Answer("", (), f"{type(error).__name__} {reason}".strip())
    return Answer(type(tokenizer).__name__, ids)


def _ids(tokenizer: Any, text: str, length: int | None) -> list[int]:
    cut = {} if length is None else {"truncation": True, "max_length": length}
    return list(tokenizer(text, **cut)["input_ids"])


def _lowercase(tokenizer: Any) -> None:
    """Lower-case texts first unless the tokenizer does so itself, as sentence-transformers does."""
    from tokenizers import normalizers

    backend = tokenizer.backend_tokenizer
    found = json.loads(backend.to_str())["normalizer"] or {}
    steps = [found, *found.get("normalizers", [])]
    if any(step.get("type") == "Lowercase" or step.get("lowercase") for step in steps):
        return
    before = backend.normalizer
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase()] + [before] * (before is not None))


def main() -> None:
    """Answer the question on standard input; output of libraries is redirected to standard error."""
    out, sys.stdout = sys.stdout, sys.stderr
    answer = answered(Question(**json.loads(sys.stdin.buffer.read())))
    print(json.dumps(answer._asdict()), file=out)


if __name__ == "__main__":
    main()
