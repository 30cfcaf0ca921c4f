"""What is recorded of an index beside its file: how it was made, what it must hash to, how often it is right."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.artifact import Artifact
from edgeq.vector_index.kinds import IndexKind

__all__ = ["INDEX_FILE", "RECORD_FILE", "IndexRecord", "RecallPoint"]

INDEX_FILE: Final = "index.faiss"
RECORD_FILE: Final = "index.json"


class RecallPoint(BaseModel):
    """How often a search is right at one setting.

    Attributes:
        nprobe: lists looked at; of an HNSW its efSearch; 0 where every vector is compared.
        refine: candidates for each result that the float16 vectors decide between; 0 for none.
        recall: share of the nearest k that were found, mean over queries.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nprobe: int
    refine: int
    recall: float


class IndexRecord(Artifact):
    """An index, as `index.json` tells it.

    Attributes:
        kind: of the index.
        factory: the string faiss made it of.
        faiss: the release that wrote it.
        rows: of the catalog: row numbers are below.
        removed: rows of these that were left out.
        dimension: numbers of a vector.
        seed: of the sample, of the centres and of the queries that measured recall.
        training_points: vectors that it was trained on.
        bytes: of `index.faiss`.
        sha256: of `index.faiss`, in hexadecimal.
        nprobe, refine: what a search takes by default; see `RecallPoint`.
        recall: at these settings.
        recall_k: neighbours that were looked for.
        recall_queries: rows that were asked for; 0 where recall was not measured.
        recall_target: what was asked for; where `recall` is less, no setting up to the cap reached it.
        measured: every setting that was tried, in order.
    """

    otherwise: ClassVar[str] = "does not describe a search index"
    made_by: ClassVar[str] = "edgeq.vector_index.build"

    version: Literal["edgeq.index/1"] = "edgeq.index/1"
    kind: IndexKind
    factory: str
    faiss: str
    rows: int
    removed: int
    dimension: int
    seed: int
    training_points: int
    bytes: int
    sha256: str
    nprobe: int
    refine: int
    recall: float
    recall_k: int
    recall_queries: int
    recall_target: float
    measured: tuple[RecallPoint, ...]

    @property
    def indexed(self) -> int:
        """Vectors in the index."""
        return self.rows - self.removed
