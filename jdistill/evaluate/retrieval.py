"""Retrieval: ranking a corpus for queries, scored by trec_eval's code (pytrec_eval).

Details:
- Documents are sorted by score in descending order; ties in float32 are sorted by ascending id, compared as strings, as
  in sentence-transformers. (trec_eval uses descending ids. It is given ranks instead of scores, so has no ties.)
- A document with the query's id is ranked like any other, as in sentence-transformers. If queries are taken from the
  corpus (ArguAna, Quora), set `exclude_self`, as BEIR and MTEB do.
- Queries without a relevant document are skipped. A relevant document missing in the corpus counts as not found.
- nDCG's gain is the judgment itself, so graded judgments count; judgments of 0 or less are not relevant.
- `map@k` divides by the number R of relevant documents, as trec_eval does; sentence-transformers by min(k, R).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import pytrec_eval
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt, model_validator
from typing_extensions import override

from jdistill.config import Config, PathText, UserError
from jdistill.data import WrongValueError, identifier, number, place_of, read_columns, text, title
from jdistill.evaluate.base import Encode, EvaluatorConfig, require_different, vectors
from jdistill.evaluate.ranking import best_columns

_LARGEST_JUDGMENT = 2**31 - 1  # trec_eval counts in 32 bits


class CorpusFile(Config):
    """The documents to search, each with a unique id."""

    path: PathText = Field(description="Parquet, CSV or JSON-lines file, one document per row.")
    id: str = Field(default="id", description="Column of unique ids: strings or integers.")
    text: str = Field(default="text", description="Column of the texts.")
    title: str | None = Field(
        default=None, description="Column of titles to prepend to the text, with a space, as BEIR does."
    )


class QueriesFile(Config):
    """The queries, each with a unique id; those without a relevant document are skipped."""

    path: PathText = Field(description="Parquet, CSV or JSON-lines file, one query per row.")
    id: str = Field(default="id", description="Column of unique ids: strings or integers.")
    text: str = Field(default="text", description="Column of the texts.")


class QrelsFile(Config):
    """Which documents answer which query, and how well."""

    path: PathText = Field(description="Parquet, CSV or JSON-lines file, one judged pair per row.")
    query: str = Field(default="qid", description="Column of the query ids.")
    document: str = Field(default="docid", description="Column of the document ids.")
    score: str | None = Field(
        default="score", description="Column of whole-number judgments; null counts every row as 1."
    )

    @model_validator(mode="after")
    def _one_column_each(self) -> Self:
        require_different(query=self.query, document=self.document, score=self.score)
        return self


class Task(NamedTuple):
    """A retrieval task in memory, documents sorted by id."""

    query_ids: list[str]
    queries: list[str]
    document_ids: list[str]
    documents: list[str]
    judgments: dict[str, dict[str, int]]
    """Query id -> document id -> judgment."""


class Retrieval(EvaluatorConfig):
    """Ranking quality on judged queries, over three files: corpus, queries and judgments (qrels).

    Metrics: `ndcg@k`, `mrr@k`, `map@k`, `recall@k` and `accuracy@k` (a relevant document among the first k), all means
    over queries, in [0, 1]. See the module docstring for ties, ids and missing documents.

    Source:
      van Gysel and de Rijke 2018, arXiv:1805.01597 (pytrec_eval); Thakur et al. 2021, arXiv:2104.08663 (BEIR).
      Parity: sentence-transformers InformationRetrievalEvaluator, for judgments of 0 and 1.
    """

    primary: ClassVar[str] = "ndcg@10"
    task: ClassVar[str | None] = "Information Retrieval"

    kind: Literal["retrieval"] = "retrieval"
    corpus: CorpusFile = Field(description="The documents.")
    queries: QueriesFile = Field(description="The queries.")
    qrels: QrelsFile = Field(description="The judgments.")
    similarity: Literal["cosine", "dot"] = Field(default="cosine", description="Scoring function.")
    ndcg: tuple[PositiveInt, ...] = Field(default=(10,), description="Cut-offs of nDCG; 10 is always measured.")
    mrr: tuple[PositiveInt, ...] = Field(default=(10,), description="Cut-offs of the mean reciprocal rank.")
    map: tuple[PositiveInt, ...] = Field(default=(100,), description="Cut-offs of the mean average precision.")
    recall: tuple[PositiveInt, ...] = Field(default=(10, 100), description="Cut-offs of recall.")
    accuracy: tuple[PositiveInt, ...] = Field(default=(1, 10), description="Cut-offs of accuracy.")
    exclude_self: bool = Field(default=False, description="Exclude the document with the query's id.")
    chunk_size: PositiveInt = Field(default=16384, description="Documents encoded and scored at a time; limits memory.")

    def __call__(self, encode: Encode) -> dict[str, float]:
        """`name@k` for every cut-off."""
        task = self._task
        cutoffs = self._cutoffs
        best = best_columns(
            vectors(encode, task.queries, side="query"),
            self._corpus_vectors(encode),
            top=max(k for ks in cutoffs.values() for k in ks),
            similarity=self.similarity,
            exclude=self._own_document() if self.exclude_self else None,
        )
        rankings = {
            query: [task.document_ids[column] for column in row if column >= 0]
            for query, row in zip(task.query_ids, best, strict=True)
        }
        return ranking_metrics(rankings, task.judgments, cutoffs=cutoffs)

    @property
    def _cutoffs(self) -> dict[str, tuple[int, ...]]:
        ndcg = tuple(sorted({10, *self.ndcg}))
        return {"ndcg": ndcg, "mrr": self.mrr, "map": self.map, "recall": self.recall, "accuracy": self.accuracy}

    def _corpus_vectors(self, encode: Encode) -> Iterator[Float[np.ndarray, "m d"]]:
        documents = self._task.documents
        for start in range(0, len(documents), self.chunk_size):
            yield vectors(encode, documents[start : start + self.chunk_size], side="document")

    def _own_document(self) -> Int[np.ndarray, " q"]:
        column = {document: i for i, document in enumerate(self._task.document_ids)}
        return np.asarray([column.get(query, -1) for query in self._task.query_ids])

    @override
    def prepare(self) -> None:
        _ = self._task

    @override
    def metrics(self, width: int) -> list[str]:
        return [f"{name}@{k}" for name, ks in self._cutoffs.items() for k in ks]

    @cached_property
    def _task(self) -> Task:
        return _read_task(self.corpus, self.queries, self.qrels)


def ranking_metrics(
    rankings: Mapping[str, Sequence[str]],
    judgments: Mapping[str, Mapping[str, int]],
    *,
    cutoffs: Mapping[str, Sequence[int]],
) -> dict[str, float]:
    """trec_eval's measures, averaged over queries.

    Args:
      rankings: query id -> document ids, best first.
      judgments: query id -> document id -> judgment; a query with an empty ranking counts 0.
      cutoffs: one of ndcg, mrr, map, recall, accuracy -> values of k.

    Returns:
      `name@k` -> value in [0, 1].
    """
    metrics = {}
    for name, ks in cutoffs.items():
        for k in dict.fromkeys(ks):
            # Ranks instead of scores leave trec_eval no ties to break, see the module's docstring.
            run = {query: {d: float(-rank) for rank, d in enumerate(ids[:k])} for query, ids in rankings.items()}
            run = {query: ids for query, ids in run.items() if ids}
            measure = MEASURES[name]
            results = pytrec_eval.RelevanceEvaluator(
                {query: dict(documents) for query, documents in judgments.items()},
                {measure if measure == "recip_rank" else f"{measure}.{k}"},
            ).evaluate(run)
            key = measure if measure == "recip_rank" else f"{measure}_{k}"
            values = [results[query][key] if query in results else 0.0 for query in rankings]
            metrics[f"{name}@{k}"] = float(np.mean(values))
    return metrics


MEASURES = {"ndcg": "ndcg_cut", "mrr": "recip_rank", "map": "map_cut", "recall": "recall", "accuracy": "success"}
"""Metric -> trec_eval's name. `recip_rank` has no cut-off, so the ranking itself is truncated."""


def _read_task(corpus: CorpusFile, queries: QueriesFile, qrels: QrelsFile) -> Task:
    readers = {corpus.id: identifier, corpus.text: title if corpus.title else text}
    columns = read_columns(corpus.path, {**readers, **({corpus.title: title} if corpus.title else {})})
    document_ids = _unique_ids(columns[corpus.id], path=corpus.path, column=corpus.id)
    documents = columns[corpus.text]
    if corpus.title:
        documents = [f"{title} {text}".strip() for title, text in zip(columns[corpus.title], documents, strict=True)]
        if "" in documents:
            where = place_of(corpus.path, corpus.text, documents.index(""))
            raise UserError(f"{where}: both title and text are empty, expected a text. Repair the row.")
    # Sorted by id, so that ties, which go to the lower column, go to the lower id.
    order = sorted(range(len(documents)), key=document_ids.__getitem__)

    columns = read_columns(queries.path, {queries.id: identifier, queries.text: text})
    query_ids = _unique_ids(columns[queries.id], path=queries.path, column=queries.id)
    texts = columns[queries.text]

    judgments = _read_judgments(qrels)
    judged = {query for query, documents in judgments.items() if any(score > 0 for score in documents.values())}
    kept = [row for row, query in enumerate(query_ids) if query in judged]
    if not kept:
        raise UserError(
            f"{qrels.path}: column {qrels.query!r} has no query of {queries.path} with a judgment above 0. Expected "
            f"ids such as {query_ids[0]!r}; check the columns of qrels and queries."
        )
    known = set(document_ids)
    if not any(document in known for row in kept for document in judgments[query_ids[row]]):
        raise UserError(
            f"{qrels.path}: column {qrels.document!r} has no document of {corpus.path}. Expected ids such as "
            f"{document_ids[0]!r}; check the columns of qrels and corpus."
        )
    return Task(
        query_ids=[query_ids[row] for row in kept],
        queries=[texts[row] for row in kept],
        document_ids=[document_ids[i] for i in order],
        documents=[documents[i] for i in order],
        judgments={query_ids[row]: judgments[query_ids[row]] for row in kept},
    )


def _read_judgments(qrels: QrelsFile) -> dict[str, dict[str, int]]:
    scored = {qrels.score: _judgment} if qrels.score else {}
    columns = read_columns(qrels.path, {qrels.query: identifier, qrels.document: identifier, **scored})
    scores = columns[qrels.score] if qrels.score else [1] * len(columns[qrels.query])
    judgments: dict[str, dict[str, int]] = {}
    rows = zip(columns[qrels.query], columns[qrels.document], scores, strict=True)
    for i, (query, document, score) in enumerate(rows):
        if judgments.setdefault(query, {}).setdefault(document, score) != score:
            raise UserError(
                f"{place_of(qrels.path, qrels.query, i)}: judges document {document!r} for query {query!r} as {score}, "
                f"an earlier row as {judgments[query][document]}. Keep one."
            )
    return judgments


def _judgment(value: Any) -> int:
    score = number(value)
    if score != round(score) or abs(score) > _LARGEST_JUDGMENT:
        raise WrongValueError(f"is {score:g}, expected a whole number such as 0, 1 or 2")
    return int(score)


def _unique_ids(ids: Sequence[str], *, path: str, column: str) -> list[str]:
    seen: set[str] = set()
    for i, name in enumerate(ids):
        if name in seen:
            where = f"{place_of(path, column, i)}, column '{column}'"
            raise UserError(f"{where}: repeats {name!r}, expected unique ids.")
        seen.add(name)
    return list(ids)
