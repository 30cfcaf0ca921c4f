"""Col2Im whose blocks do not overlap, as Reshape and Transpose: TensorRT has no Col2Im, and eight bits may pass."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

__all__ = ["write_out_folds"]

_STANDARD: Final = (None, "", "ai.onnx")
_TO_PLACES: Final = [0, 1, 4, 2, 5, 3]  # [n, c, block h, block w, rows, columns] -> [n, c, rows, block h, columns, ...]


def write_out_folds(graph: gs.Graph) -> None:
    """Put Reshape, Transpose, Reshape in the place of each Col2Im over blocks side by side, in place.

    Such blocks are what `torch.nn.functional.fold` puts together where the stride is the kernel: MobileViT's patches.
    Overlapping blocks are added up, and stay.
    """
    for node in list(graph.nodes):
        sizes = _sizes(node) if node.op == "Col2Im" and node.domain in _STANDARD else None
        if sizes is None:
            continue
        channels, (height, width), (high, wide) = sizes
        result, stem = node.outputs[0], node.outputs[0].name
        node.outputs.clear()
        cut = _constant(f"{stem}/cut", [0, channels, high, wide, height // high, width // wide])
        joined = _constant(f"{stem}/joined", [0, channels, height, width])
        blocks, places = gs.Variable(f"{stem}/blocks", np.float32), gs.Variable(f"{stem}/places", np.float32)
        made = (
            gs.Node("Reshape", f"{stem}/cut", inputs=[node.inputs[0], cut], outputs=[blocks]),
            gs.Node("Transpose", f"{stem}/transpose", {"perm": _TO_PLACES}, [blocks], [places]),
            gs.Node("Reshape", f"{stem}/join", inputs=[places, joined], outputs=[result]),
        )
        place = graph.nodes.index(node)
        graph.nodes[place : place + 1] = made


def _constant(name: str, values: list[int]) -> gs.Constant:
    return gs.Constant(name, np.array(values, np.int64))


def _sizes(node: gs.Node) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """Channels, the image's height and width, and a block's; None where blocks overlap or sizes are not known."""
    given = [value.values.tolist() if isinstance(value, gs.Constant) else None for value in node.inputs[1:3]]
    image, block = (tuple(value or ()) for value in given)
    rows = (node.inputs[0].shape or [None, None])[1]
    if len(image) != 2 or len(block) != 2 or not isinstance(rows, int):
        return None
    alone = all(step == 1 for step in node.attrs.get("dilations", ())) and not any(node.attrs.get("pads", ()))
    beside = tuple(node.attrs.get("strides", (1, 1))) == block
    whole = not any(size % part for size, part in zip(image, block, strict=True))
    channels, left = divmod(rows, block[0] * block[1])
    return (channels, image, block) if alone and beside and whole and not left else None
