"""Prunes a trained encoder and its tokenizer: first the vocabulary, then heads, neurons and width."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jdistill.config import UserError
from jdistill.student.encoders import EncoderConfig
from jdistill.student.pruning.config import Cuts, Vocabulary
from jdistill.student.pruning.corpus import Corpus
from jdistill.student.pruning.narrow import narrow
from jdistill.student.pruning.observe import LONGEST, SAMPLE_TOKENS, Sample
from jdistill.student.pruning.pieces import pieces_of
from jdistill.student.pruning.rebuild import rebuilt, special_tokens
from jdistill.student.pruning.sizes import cut_encoder, sizes_of
from jdistill.student.pruning.vocabulary import count_tokens, kept_tokens
from jdistill.student.pruning.width import table_directions
from jdistill.student.tokenizer import Tokenizer

_TEXTS = SAMPLE_TOKENS // 4
"""Number of texts to draw: at 4 or more tokens per text they cover the sample."""


class Pruned(NamedTuple):
    """A pruned encoder."""

    encoder: EncoderConfig
    params: dict[str, Any]
    """Nested, float32."""
    tokenizer: Tokenizer
    tokens: Int[np.ndarray, " v"] | None
    """The old id of each token; None if the vocabulary is unchanged."""
    kept: list[str]
    """Phrases that say what was kept, for the report."""


def prune(
    cuts: Cuts,
    encoder: EncoderConfig,
    params: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    max_length: int | None,
    corpus: Corpus | None,
    where: str,
) -> Pruned:
    """Prune an encoder so that its vectors of the training texts change as little as possible.

    Deterministic for the same texts, seed and machine.

    Args:
      cuts: what to prune.
      encoder: the architecture.
      params: nested, float32; not modified.
      tokenizer: that of the encoder.
      max_length: texts are truncated to this many tokens.
      corpus: the training texts; may be None if no cut needs them.
      where: the model's folder, for error messages.

    Raises:
      UserError: if the cuts are incompatible with the encoder or with each other.
      ValueError: if a cut needs a corpus and there is none.
    """
    after = cut_encoder(encoder, cuts)
    needed = cuts.vocabulary is not None or (cuts.narrows and encoder.depth > 0)
    if needed and corpus is None:
        raise ValueError("width, heads, intermediate and vocabulary are fitted to texts; pass a corpus to make_student")
    made = Pruned(encoder, dict(params), tokenizer, None, [])
    if cuts.vocabulary is not None and corpus is not None:
        made = _fewer_tokens(made, cuts.vocabulary, corpus, max_length=max_length, where=where)
    if not cuts.narrows:
        return made
    after = after.model_copy(update={"vocab_size": made.encoder.vocab_size})
    if not encoder.depth:
        directions = table_directions(np.asarray(made.params["words"]), after.width)
        words = np.asarray(made.params["words"], np.float64) @ directions
        said = f"width {after.width} of {encoder.width} by pca"
        return made._replace(encoder=after, params={"words": words.astype(np.float32)}, kept=[*made.kept, said])
    assert corpus is not None
    by = "importance" if cuts.width is None else cuts.width.by or "importance"
    ids = made.tokenizer.encode(corpus.sample(_TEXTS), LONGEST if max_length is None else min(max_length, LONGEST))
    sample = Sample(made.encoder, made.params, ids, pad_id=made.tokenizer.pad_id)
    narrowed = narrow(made.encoder, after, made.params, sample, by=by)
    return made._replace(encoder=after, params=narrowed, kept=[*made.kept, *_kept_sizes(encoder, after, by)])


def _fewer_tokens(made: Pruned, wanted: Vocabulary, corpus: Corpus, *, max_length: int | None, where: str) -> Pruned:
    tokenizer, ids = made.tokenizer, made.tokenizer.ids
    pieces = pieces_of(tokenizer.definition, where=where)
    counts = count_tokens(tokenizer, corpus.chunks(), max_length=max_length, size=tokenizer.vocab_size)
    special = {token for token in special_tokens(tokenizer) if ids[token] < made.encoder.vocab_size}
    kept = kept_tokens(wanted, pieces, ids, special, counts)
    smaller = rebuilt(tokenizer, pieces, kept)
    padding = getattr(made.encoder, "pad_token_id", smaller.pad_id)
    if padding != smaller.pad_id:
        raise UserError(
            f"student.vocabulary: the padding token of {where} would lose its id {padding}, from which this "
            f"{made.encoder.kind} counts positions. Leave student.vocabulary out."
        )
    tokens = np.asarray([ids[token] for token in kept])
    path = ("words",) if made.encoder.depth == 0 else ("embeddings", "words")
    params = _with(made.params, path, np.asarray(_at(made.params, path))[tokens])
    share = counts[tokens].sum() / max(1, counts.sum())
    said = f"{len(kept):,} of {len(ids):,} tokens, covering {share:.2%} of the training texts' tokens"
    encoder = made.encoder.model_copy(update={"vocab_size": len(kept)})
    return Pruned(encoder, params, smaller, tokens, [*made.kept, said])


def _kept_sizes(before: EncoderConfig, after: EncoderConfig, by: str) -> list[str]:
    old, new = sizes_of(before), sizes_of(after)
    said = [f"width {new.width} of {old.width} by {by}"] if new.width < old.width else []
    for name, less, more in (
        ("heads", new.heads, old.heads),
        ("neurons", new.intermediate, old.intermediate),
    ):
        if less < more:
            said.append(f"{less:,} of {more:,} {name} in each layer")
    return said


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _with(tree: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    first, *rest = path
    return {**tree, first: _with(tree[first], tuple(rest), value) if rest else value}
