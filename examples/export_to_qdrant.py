"""Bring a catalog of `edgeq index` into Qdrant, and again after it has grown or lost images.

    python examples/export_to_qdrant.py CATALOG --url http://localhost:6333
    python examples/export_to_qdrant.py CATALOG --path DIRECTORY

`pip install "edgeq[retrieval]" qdrant-client`. The id is the row's number.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edgeq.catalog.read import open_catalog


def main() -> None:
    """Send what is new, delete what is gone; stopped anywhere, the same command goes on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="of a server")
    where.add_argument("--path", help="of the client's own storage, without a server")
    parser.add_argument("--batch", type=int, default=1000, help="rows sent at once")
    given = parser.parse_args()
    from qdrant_client import QdrantClient, models

    reader = open_catalog(given.catalog)
    client: Any = QdrantClient(url=given.url) if given.url else QdrantClient(path=given.path)
    name = f"edgeq-{reader.catalog.bundle_digest[:12]}"
    if not client.collection_exists(name):  # of length 1: the inner product is the cosine
        vectors = models.VectorParams(size=reader.dimension, distance=models.Distance.DOT, datatype="float16")
        client.create_collection(name, vectors_config=vectors)
        if given.url:  # a server orders by indexed fields alone
            client.create_payload_index(name, "row", models.PayloadSchemaType.INTEGER)
    newest = models.OrderBy(key="row", direction=models.Direction.DESC)
    last = [point.payload for point in client.scroll(name, limit=1, order_by=newest)[0]]
    after = (last[0]["row"], last[0]["image_path"]) if last else None
    for rows, vectors, columns in reader.live_batches(given.batch, ("image_path", "caption"), after=after):
        payloads = [{"row": row, **each} for row, each in zip(rows.tolist(), columns, strict=True)]
        client.upsert(name, models.Batch(ids=rows.tolist(), vectors=vectors.tolist(), payloads=payloads))
    for start in range(0, len(reader.removed), given.batch):
        client.delete(name, models.PointIdsList(points=reader.removed[start : start + given.batch].tolist()))
    print(f"{name}: {client.count(name).count:,} points")


if __name__ == "__main__":
    main()
