"""A plain server of text search, as one would write it in an afternoon: transformers, faiss, Starlette.

    python -m benchmarks.peers.plain_search MODEL CATALOG PORT

Each request is tokenized and padded to the context, embedded alone in a worker thread, and compared with all vectors.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

__all__ = ["make_app"]


def make_app(model: Path, catalog: Path) -> Starlette:
    """`POST /v1/search` with `query` and `k`, over a catalog's vectors.

    Args:
        model: a Hugging Face directory of CLIP.
        catalog: of `edgeq index`.
    """
    import faiss
    import torch
    from transformers import AutoTokenizer, CLIPModel

    from edgeq.catalog.read import open_catalog

    clip: Any = CLIPModel.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    context = clip.config.text_config.max_position_embeddings
    index = faiss.IndexFlatIP(clip.config.projection_dim)
    for _, vectors in open_catalog(catalog).vectors():
        index.add(np.ascontiguousarray(vectors, np.float32))
    limiter = CapacityLimiter(1)

    def find(query: str, k: int) -> list[dict[str, Any]]:
        given = tokenizer(query, padding="max_length", truncation=True, max_length=context, return_tensors="pt")
        with torch.inference_mode():
            found = clip.get_text_features(**given).pooler_output
        vector = torch.nn.functional.normalize(found).numpy()
        scores, rows = index.search(vector, k)
        return [{"row": int(row), "score": float(score)} for row, score in zip(rows[0], scores[0], strict=True)]

    async def search(request: Request) -> JSONResponse:
        asked = await request.json()
        return JSONResponse({"results": await to_thread.run_sync(find, asked["query"], asked["k"], limiter=limiter)})

    return Starlette(routes=[Route("/v1/search", search, methods=["POST"])])


def main() -> None:
    """Serve until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    uvicorn.run(make_app(given.model, given.catalog), port=given.port, log_level="error")


if __name__ == "__main__":
    main()
