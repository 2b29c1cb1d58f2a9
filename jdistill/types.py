"""The few shapes that rooms share.

Axis letters, everywhere: `b` rows of this shard, `n` rows of the whole batch, `c` documents of a row
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
    """How several texts share a row of the encoder: which of all padded places (texts times `l`, counted through) each
    place of its `r` rows holds, -1 where it is empty. None: one text per row. A batch that is encoded in pieces, on
    several devices or in microbatches, has as many rows for each piece, and counts through the texts of a piece, so
    that the pieces of `ids` and of `packed` belong together."""
    hidden: Float[Array, "... l d"] | None = None
    """The encoder's last hidden states of these tokens where they are known, so that it need not run; zeros at padding.
    float32 or bfloat16, as the encoder gave them. Never with `packed`."""
    prompt: Int[Array, "..."] | None = None
    """How many of each text's first tokens are those of its prompt, where pooling is to pass over them; None: it passes
    over none."""


class Columns(NamedTuple):
    """Vectors of a batch, in the order of its texts."""

    queries: Float[Array, "n d"] | None
    """None where the rows are plain texts."""
    documents: Float[Array, "n c d"]
    """Of each row: its document, then its hard negatives. A plain text is a document."""


class Batch(NamedTuple):
    """One step's input. Rows lie on the first axis of every array, so one sharding fits all."""

    queries: Tokens | None
    """`[n, l]`; None where the rows are plain texts."""
    documents: Tokens
    """`[n, c, l]`."""
    targets: dict[str, Columns]
    """Teacher name -> the teacher's vectors of the same texts."""
    scores: Float[Array, "n s"] | None
    """The scores of each row, where the data has them: one, or as many as it has documents or hard negatives."""
    query_ids: Int[Array, " n"] | None
    """Equal numbers are equal texts (numbers of the store, int32)."""
    document_ids: Int[Array, "n c"]
    labels: Int[Array, " n"] | None = None
    """The class of each row, where the data has labels: a number of the store, from 0."""


class Side(NamedTuple):
    """What a loss sees of the student, or of one teacher."""

    queries: Float[Array, "b d"] | None
    documents: Float[Array, "b d"]
    negatives: Float[Array, "b k d"]
    """This shard's hard negatives; `k` may be 0."""
    all_queries: Float[Array, "n d"] | None
    all_documents: Float[Array, "m d"]
    """The whole batch: all positives, then all first negatives, ... (`m = n * c`, column-major)."""


class TextIds(NamedTuple):
    """Numbers of the texts that a loss sees: equal numbers are equal texts. Laid out as in Side."""

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
    """The student's side of one batch, as training hands it to the objective."""

    columns: Columns
    hidden: dict[int, Columns]
    """Layers done -> what the vectors would be if the student ended there; only the layers that some term reads."""
    projections: dict[str, Projection]
    """Teacher -> the map into its space; teachers without one are left out."""


class LogSum(NamedTuple):
    """The logarithm of a sum of exponentials that is not complete yet: `largest + log(total)`."""

    largest: Float[Array, "..."]
    """The largest score so far, -inf at the start."""
    total: Float[Array, "..."]
    """Sum of the exponentials relative to it."""


Merge = Literal["sum", "logsumexp"]
"""How what several devices found for a candidate becomes one: added up, or, for a LogSum, merged."""

Visit = Callable[[Any, Any], tuple[Any, Any]]
"""`(some candidates, what stays) -> (what stays, what was found for each of them)`."""


@runtime_checkable
class Sweep(Protocol):
    """How a device's rows meet the candidates of all devices, each of which holds a share of them."""

    def __call__(self, visit: Visit, share: Any, staying: Any, nothing: Any, *, merge: Merge) -> tuple[Any, Any]:
        """Have every candidate of the batch visited by this device, and this device's share by every device.

        Args:
          visit: called with one or several devices' shares at a time, in any order.
          share: arrays of this device's candidates, which lie on the first axis.
          staying: what the visits hand on, from one to the next.
          nothing: what is found for `share` where nobody visits.
          merge: how the finds of several devices become one.

        Returns:
          What the last visit handed on, and what all devices found for `share`.
        """
        ...

    def mean(self, share: Float[Array, "p d"]) -> Float[Array, " d"]:
        """Mean over the candidates of all devices, of which each holds as many."""
        ...


class View(NamedTuple):
    """Everything a loss may look at. Arrays only: no mesh, no model, no configuration."""

    student: Side
    teacher: Side | None
    """The teacher this term learns from, or its teachers' vectors side by side; None for a term without one."""
    projection: Projection | None
    """From the student's width to the teacher's; None where there is none."""
    hidden: dict[int, Side]
    """Layers done -> the student's vectors if it ended there; only the layers that the term reads."""
    rows: Int[Array, " b"]
    """Index of each row in the whole batch, which is also the column of its document in `all_documents`."""
    ids: TextIds
    scores: Float[Array, "b s"] | None
    """The scores of each row, as in Batch."""
    all_scores: Float[Array, "n s"] | None
    """Those of the whole batch."""
    parameters: dict[str, Array]
    """This term's own learnable values, such as a temperature; empty for most terms."""
    progress: Float[Array, ""]
    """Share of the training that is done, in [0, 1); schedules read it."""
    key: Array
    """Of this step and term, the same on every device; for terms that draw."""
    sweep: Sweep
    """How sums over candidates go over all devices, for terms that do without `all_*`."""
    labels: Int[Array, " b"] | None = None
    """The class of each row, as in Batch."""
    all_labels: Int[Array, " n"] | None = None
    """Those of the whole batch."""


class Metrics(NamedTuple):
    """What one step reports, as scalars on the device; the loop fetches them when it logs."""

    loss: Float[Array, ""]
    terms: dict[str, Float[Array, ""]]
    """Each term's mean, before its weight."""
    gradient_norm: Float[Array, ""]
    """Global L2 norm before clipping."""
    update_norm: Float[Array, ""]
