"""Tokens as transformers itself makes them of a folder, asked of a process of its own, so that torch stays out of ours.

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
"""How long the other process may take; as a rule it takes three."""


class Question(NamedTuple):
    """Whose tokens of which texts."""

    folder: str
    """Of the tokenizer."""
    options: Mapping[str, Any]
    """Win over tokenizer_config.json, as sentence-transformers' `processor_kwargs` do."""
    lowercase: bool
    """Whether texts are lower-cased first, where the tokenizer does not by itself."""
    texts: Sequence[str]
    lengths: Sequence[int | None]
    """Tokens after which the texts are cut, one after the other; None: not at all."""


class Answer(NamedTuple):
    """What transformers says."""

    name: str
    """The class that it takes."""
    ids: Sequence[Sequence[Sequence[int]]]
    """For each length, the tokens of each text, special ones included."""
    failure: str = ""
    """Why there are no tokens, in a few words; empty where there are."""


def transformers_version() -> str | None:
    """The installed release; None where there is none."""
    if importlib.util.find_spec("transformers") is None:
        return None
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("transformers")
    return None


def ask(question: Question) -> Answer:
    """The tokens that transformers makes, out of the user's cache folder where the same was asked before.

    Nothing is downloaded, and no code of the folder is run.
    """
    kept = cache_home(os.environ) / "tokens" / f"{_key(question)}.json"
    with suppress(OSError, ValueError, TypeError):
        return Answer(**json.loads(kept.read_text(encoding="utf-8")))
    answer = _asked(question)
    if not answer.failure:
        _keep(kept, answer)
    return answer


def _key(question: Question) -> str:
    """Follows from all that decides the answer, wherever the folder lies."""
    folder = Path(question.folder)
    config = folder / "config.json"
    files = [tokenizer_hash(folder), config.read_text(encoding="utf-8") if config.is_file() else None]
    releases = [importlib.metadata.version(name) for name in ("transformers", "tokenizers")]
    content = [files, releases, question._replace(folder="")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _keep(path: Path, answer: Answer) -> None:
    fresh = path.with_name(f".{uuid.uuid4().hex[:8]}")
    with suppress(OSError):  # a full or read-only disk costs no training
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(answer._asdict()), encoding="utf-8")
        os.replace(fresh, path)


def _asked(question: Question) -> Answer:
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
        return Answer("", (), f"its process ended without an answer ({type(error).__name__})")


def answered(question: Question) -> Answer:
    """The same in this process: imports transformers."""
    from transformers import AutoTokenizer

    options = {**question.options, "trust_remote_code": False, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(question.folder, **options)
        if question.lowercase:
            _lowercase(tokenizer)
        ids = [[_ids(tokenizer, text, length) for text in question.texts] for length in question.lengths]
    except Exception as error:  # whatever a folder makes the libraries raise
        reason = " ".join(str(error).split())[:200]
        return Answer("", (), f"{type(error).__name__} {reason}".strip())
    return Answer(type(tokenizer).__name__, ids)


def _ids(tokenizer: Any, text: str, length: int | None) -> list[int]:
    cut = {} if length is None else {"truncation": True, "max_length": length}
    return list(tokenizer(text, **cut)["input_ids"])


def _lowercase(tokenizer: Any) -> None:
    """Lower-case before all else, as sentence-transformers does where no step of the tokenizer does."""
    from tokenizers import normalizers

    backend = tokenizer.backend_tokenizer
    found = json.loads(backend.to_str())["normalizer"] or {}
    steps = [found, *found.get("normalizers", [])]
    if any(step.get("type") == "Lowercase" or step.get("lowercase") for step in steps):
        return
    before = backend.normalizer
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase()] + [before] * (before is not None))


def main() -> None:
    """Answer the question on standard input; what libraries print goes elsewhere."""
    out, sys.stdout = sys.stdout, sys.stderr
    answer = answered(Question(**json.loads(sys.stdin.buffer.read())))
    print(json.dumps(answer._asdict()), file=out)


if __name__ == "__main__":
    main()
