"""Bring a catalog of `edgeq index` into PostgreSQL with pgvector, and again after it has grown or lost images.

    python examples/export_to_postgres.py CATALOG "dbname=images"

`pip install "edgeq[retrieval]" "psycopg[binary]" pgvector`, and pgvector 0.7 or later on the server.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeq.catalog.read import open_catalog


def main() -> None:
    """Copy what is new, delete what is gone; stopped anywhere, the same command goes on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("database", help="as psql takes it: dbname=images, or postgresql://USER@HOST/images")
    parser.add_argument("--batch", type=int, default=1000, help="rows of a transaction")
    given = parser.parse_args()
    import psycopg
    from pgvector import HalfVector
    from pgvector.psycopg import register_vector

    reader = open_catalog(given.catalog)
    table = f"edgeq_{reader.catalog.bundle_digest[:12]}"
    with psycopg.connect(given.database, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(connection)
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {table} (id bigint PRIMARY KEY, image_path text NOT NULL, caption text,"
            f" embedding halfvec({reader.dimension}) NOT NULL)"
        )
        after = connection.execute(f"SELECT id, image_path FROM {table} ORDER BY id DESC LIMIT 1").fetchone()
        for rows, vectors, columns in reader.live_batches(given.batch, ("image_path", "caption"), after=after):
            copy = connection.cursor().copy(f"COPY {table} FROM STDIN WITH (FORMAT BINARY)")
            with connection.transaction(), copy as copying:
                copying.set_types(["int8", "text", "text", "halfvec"])
                for row, vector, each in zip(rows.tolist(), vectors, columns, strict=True):
                    copying.write_row((row, *each.values(), HalfVector(vector)))
        connection.execute(f"DELETE FROM {table} WHERE id = ANY(%s)", (reader.removed.tolist(),))
        count = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    print(f"{table}: {count[0]:,} rows" if count else table)


if __name__ == "__main__":
    main()
