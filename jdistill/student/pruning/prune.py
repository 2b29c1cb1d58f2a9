"""A trained encoder and its tokenizer, made smaller: first the vocabulary, then heads, neurons and width."""

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
"""Texts that surely hold as many tokens as are looked at."""


class Pruned(NamedTuple):
    """A smaller encoder."""

    encoder: EncoderConfig
    params: dict[str, Any]
    """Nested, float32."""
    tokenizer: Tokenizer
    tokens: Int[np.ndarray, " v"] | None
    """The old id of each token; None where the vocabulary is whole."""
    kept: list[str]
    """What was kept, in words."""


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
    """Make an encoder smaller, so that its vectors of the training texts change least.

    The same texts, seed and machine give the same student.

    Args:
      cuts: what gets smaller.
      encoder: the architecture.
      params: nested, float32; not changed.
      tokenizer: that of the encoder.
      max_length: tokens after which texts are cut.
      corpus: the training texts; may be None where no cut needs any.
      where: the model's folder, for messages.
    Raises:
      UserError: if the cuts do not fit the encoder or each other.
      ValueError: if there is no corpus, but a cut needs it.
    """
    after = cut_encoder(encoder, cuts)
    needed = cuts.vocabulary is not None or (cuts.narrows and encoder.depth > 0)
    if needed and corpus is None:
        raise ValueError(
            "width, heads, intermediate and vocabulary are fitted to texts, so make_student needs a corpus"
        )
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
            f"student.vocabulary: the padding token of {where} would get another id than {padding}, from which this "
            f"{made.encoder.kind} counts positions. Leave it out."
        )
    tokens = np.asarray([ids[token] for token in kept])
    path = ("words",) if made.encoder.depth == 0 else ("embeddings", "words")
    params = _with(made.params, path, np.asarray(_at(made.params, path))[tokens])
    share = counts[tokens].sum() / max(1, counts.sum())
    said = f"{len(kept):,} of {len(ids):,} tokens, which are {share:.2%} of those in the training texts"
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
