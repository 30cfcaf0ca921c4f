"""`python -m benchmarks.architectures`: every network through `inspect` and `prepare`, and a table of what happened."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from benchmarks.architectures.attempt import Case, attempt, cases, draw_images

_SECONDS = 300


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of names, such as 'swin*'")
    parser.add_argument("--json", type=Path, help="every figure, one network a line")
    parser.add_argument("--refusals", action="store_true", help="print each refusal whole")
    given = parser.parse_args()
    chosen = [case for case in cases() if any(fnmatch(case.title.lower(), only.lower()) for only in given.only)]
    with tempfile.TemporaryDirectory() as scratch:
        images = draw_images(Path(scratch) / "images")
        _import_all()
        rows = []
        for row in _attempts(chosen, images):
            rows.append(row)
            print(_line(row), flush=True)
            if given.refusals and (said := _said(row)):
                print("    " + said.replace("\n", "\n    "), flush=True)
            if given.json:
                given.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _summary(rows)


def _import_all() -> None:
    """Once, before processes are made of this one: what is timed is the work."""
    import onnxscript  # noqa: F401
    import torch
    import transformers
    from transformers import AutoModelForImageClassification  # noqa: F401

    import edgeq.pipeline.classifier  # noqa: F401

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()


def _attempts(chosen: Sequence[Case], images: Path) -> Iterator[dict[str, Any]]:
    context = multiprocessing.get_context("fork")
    for case in chosen:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(case, images, theirs))
        process.start()
        theirs.close()
        if ours.poll(_SECONDS):
            try:
                yield json.loads(ours.recv())
            except EOFError:
                yield {"title": case.title, "skipped": "its process died"}
        else:
            process.kill()
            yield {"title": case.title, "skipped": f"stopped after {_SECONDS} s"}
        process.join()


def _child(case: Case, images: Path, answer: Connection) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    answer.send(attempt(case, images).to_json())
    answer.close()


def _line(row: dict[str, Any]) -> str:
    title = f"{row['title']:34}"
    if row["skipped"]:
        return f"{title} skipped: {row['skipped'].strip().splitlines()[-1]}"
    inspected, prepared = row["inspect"], row["prepare"]
    looked = inspected["outcome"]
    if looked == "done":
        found, right = inspected["found"], row["expected"]
        looked = f"{found['parameters']:,}/{right['parameters']:,} BN {found['batchnorm']}/{right['batchnorm']}"
    own = "flags; " if row["processor"] else ""
    return f"{title} {looked:32} {inspected['seconds']:5.1f} s  {own}{_prepared(prepared)}"


def _prepared(verb: dict[str, Any]) -> str:
    if verb["outcome"] != "done":
        return f"{verb['outcome']} at {verb['stage']!r} after {verb['seconds']:.1f} s: {verb['said'].splitlines()[0]}"
    found = verb["found"]
    if "layers" not in found:
        return f"done as {found['kind']}"
    layers = "/".join(map(str, found["layers"]))
    error = "" if found["error"] is None else f"error {found['error']:.4f}"
    error += "" if found["agreement"] is None else f", same {found['agreement']:.0f} %"
    kept = f", kept {found['gate']}" if found["gate"] else ""
    return f"{layers} {error}{kept}, parity {found['parity']:.1e}, {verb['seconds']:.1f} s"


def _said(row: dict[str, Any]) -> str:
    if row["skipped"]:
        return str(row["skipped"])
    parts = [row["processor"], *(row[verb]["said"] for verb in ("inspect", "prepare"))]
    parts += row["prepare"]["found"].get("warnings", [])
    return "\n".join(part for part in parts if part)


def _summary(rows: Sequence[dict[str, Any]]) -> None:
    tried = [row for row in rows if not row["skipped"]]
    counts = {
        name: sum(row["prepare"]["outcome"] == name for row in tried)
        for name in ("done", "refused", "guard", "traceback")
    }
    print(
        f"{len(tried)} tried, {len(rows) - len(tried)} skipped; "
        + ", ".join(f"{n} {name}" for name, n in counts.items())
    )
    sys.exit(1 if counts["traceback"] else 0)


if __name__ == "__main__":
    main()
