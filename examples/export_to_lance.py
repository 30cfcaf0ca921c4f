"""Bring a catalog of `edgeq index` into a Lance dataset, and again after it has grown or lost images.

    python examples/export_to_lance.py CATALOG DIRECTORY

`pip install "edgeq[retrieval]" pylance`
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeq.catalog.read import open_catalog


def main() -> None:
    """Append what is new in one version of the dataset, then delete what is gone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("directory", type=Path, help="of datasets, one for each bundle")
    parser.add_argument("--batch", type=int, default=1000, help="rows in memory at once")
    given = parser.parse_args()
    import lance
    import pyarrow as pa

    reader = open_catalog(given.catalog)
    text = {"image_path": pa.string(), "caption": pa.string()}
    schema = pa.schema({"id": pa.int64(), **text, "vector": pa.list_(pa.float16(), reader.dimension)})
    place = given.directory / f"edgeq_{reader.catalog.bundle_digest[:12]}.lance"
    there = lance.dataset(str(place)) if place.exists() else None
    ids = [batch["id"].to_numpy().max() for batch in there.to_batches(columns=["id"])] if there else []
    last = there.to_table(columns=["id", "image_path"], filter=f"id = {max(ids)}").to_pylist() if there and ids else []
    after = (last[0]["id"], last[0]["image_path"]) if last else None

    def batches() -> Iterator[Any]:
        for rows, vectors, columns in reader.live_batches(given.batch, tuple(text), after=after):
            flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=schema.field("vector").type)
            yield pa.record_batch([rows, *([each[name] for each in columns] for name in text), flat], schema=schema)

    new = pa.RecordBatchReader.from_batches(schema, batches())
    written = lance.write_dataset(new, str(place), mode="append" if there else "create")
    for start in range(0, len(reader.removed), given.batch):
        written.delete(f"id IN ({', '.join(map(str, reader.removed[start : start + given.batch].tolist()))})")
    print(f"{place}: {written.count_rows():,} rows")


if __name__ == "__main__":
    main()
