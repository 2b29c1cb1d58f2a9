"""Types shared by several packages.

Axis letters used everywhere: `b` rows of this shard, `n` rows of the whole batch, `c` documents of a row
(its positive, then its hard negatives), `k = c - 1` hard negatives, `l` tokens, `d` width.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int


class Tokens(NamedTuple):
    """Texts as token ids, padded to one static length."""

    ids: Int[Array, "... l"]
    mask: Bool[Array, "... l"]
    """True where a token is real, False where it is padding."""
    packed: Int[Array, "r p"] | None = None
    """Layout of several texts per encoder row: for each slot of the `r` packed rows, the flat index into the padded
    tokens (texts times `l`), -1 = empty. None: one text per row. A batch encoded in pieces (several devices or
    microbatches) has the same number of rows for each piece, and indices count within the piece, so that slicing `ids`
    and `packed` into pieces keeps them aligned."""
    hidden: Float[Array, "... l d"] | None = None
    """The encoder's last hidden states of these tokens, if cached: the encoder is then skipped. Zeros at padding;
    float32 or bfloat16, as the encoder returned them. Never set together with `packed`."""
    prompt: Int[Array, "..."] | None = None
    """Number of prompt tokens at the start of each text that pooling excludes; None: it excludes none."""


class PairEmbeddings(NamedTuple):
    """Vectors of a batch, in the order of its texts."""

    queries: Float[Array, "n d"] | None
    """None where the rows are plain texts."""
    documents: Float[Array, "n c d"]
    """For each row, its document, then its hard negatives. A plain text is a document."""


class Batch(NamedTuple):
    """One step's input. The first axis of every array is the rows, so one sharding fits all."""

    queries: Tokens | None
    """`[n, l]`; None where the rows are plain texts."""
    documents: Tokens
    """`[n, c, l]`."""
    targets: dict[str, PairEmbeddings]
    """Teacher name -> the teacher's vectors of the same texts."""
    scores: Float[Array, "n s"] | None
    """The scores of each row, if the data has them: one, or one per document or per hard negative."""
    query_ids: Int[Array, " n"] | None
    """Text ids of the store, int32: equal ids are equal texts."""
    document_ids: Int[Array, "n c"]
    labels: Int[Array, " n"] | None = None
    """The class of each row, numbered from 0 by the store; None where the data has no labels."""


class Side(NamedTuple):
    """Vectors of the student, or of one teacher, as a loss receives them."""

    queries: Float[Array, "b d"] | None
    documents: Float[Array, "b d"]
    negatives: Float[Array, "b k d"]
    """This shard's hard negatives; `k` may be 0."""
    all_queries: Float[Array, "n d"] | None
    all_documents: Float[Array, "m d"]
    """The whole batch: all positives, then all first negatives, ... (`m = n * c`, column-major)."""


class TextIds(NamedTuple):
    """Ids of the texts, laid out as in Side: equal ids are equal texts."""

    queries: Int[Array, " b"] | None
    documents: Int[Array, " b"]
    negatives: Int[Array, "b k"]
    all_queries: Int[Array, " n"] | None
    all_documents: Int[Array, " m"]


class Projection(NamedTuple):
    """A linear map from the student's space to a teacher's: `x kernel + bias`."""

    kernel: Float[Array, "d t"]
    bias: Float[Array, " t"]


class Vectors(NamedTuple):
    """The student's outputs for one batch, which training passes to the objective."""

    columns: PairEmbeddings
    at_layer: dict[int, PairEmbeddings]
    """Number of layers -> the vectors if the student ended there; only the layers that some term reads."""
    projections: dict[str, Projection]
    """Teacher -> the projection into its space; teachers without one are absent."""


Merge = Literal["sum", "logsumexp"]
"""How several devices' results for one candidate are combined: added, or merged as running log-sum-exps."""

ExchangeFn = Callable[[Any, Any], tuple[Any, Any]]
"""`(some candidates, carry) -> (carry, result for each of these candidates)`."""


@runtime_checkable
class CandidateExchange(Protocol):
    """Pairs each device's rows with the candidates of all devices; each device has its part of the candidates."""

    def __call__(self, fn: ExchangeFn, local: Any, carry: Any, init: Any, *, merge: Merge) -> tuple[Any, Any]:
        """Call `fn` on this device with every candidate of the batch, and on every device with this device's.

        Args:
          fn: called with the candidates of one or several devices at a time, in any order.
          local: arrays of this device's candidates, on the first axis.
          carry: initial carry, passed from one call to the next on this device, as in `lax.scan`.
          init: the result for `local` before any call, such as zeros.
          merge: how the results of several devices are combined.

        Returns:
          The final carry, and the combined results of all devices for `local`.
        """
        ...

    def mean(self, local: Float[Array, "p d"]) -> Float[Array, " d"]:
        """Mean over the candidates of all devices; every device has the same number of them."""
        ...


class LossInputs(NamedTuple):
    """All inputs available to a loss. Arrays only: no mesh, no model, no config."""

    student: Side
    teacher: Side | None
    """The term's teacher, or its teachers' vectors concatenated; None for a term without one."""
    projection: Projection | None
    """From the student's width to the teacher's, if there is one."""
    at_layer: dict[int, Side]
    """Number of layers -> the student's vectors if it ended there; only the layers that the term reads."""
    rows: Int[Array, " b"]
    """Index of each row in the whole batch, which is also the column of its document in `all_documents`."""
    ids: TextIds
    scores: Float[Array, "b s"] | None
    """The scores of each row, as in Batch."""
    all_scores: Float[Array, "n s"] | None
    """The scores of the whole batch."""
    parameters: dict[str, Array]
    """This term's own learnable values, such as a temperature; empty for most terms."""
    progress: Float[Array, ""]
    """Fraction of training done, in [0, 1); used by schedules."""
    key: Array
    """PRNG key of this step and term, the same on every device; for terms that sample."""
    sweep: CandidateExchange
    """Computes sums over the candidates of all devices, for terms that do not read `all_*`."""
    labels: Int[Array, " b"] | None = None
    """The class of each row, as in Batch."""
    all_labels: Int[Array, " n"] | None = None
    """The labels of the whole batch."""


class Metrics(NamedTuple):
    """Metrics of one step, as scalars on the device; fetched only when logged."""

    loss: Float[Array, ""]
    terms: dict[str, Float[Array, ""]]
    """Each term's mean, before its weight."""
    gradient_norm: Float[Array, ""]
    """Global L2 norm before clipping."""
    update_norm: Float[Array, ""]
