"""The commands that run what was handed over to llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["recipe"]

_RECIPE: Final = """\
llama.cpp, from this directory

1. Build llama.cpp where it will run; on a Jetson Orin with CUDA:

   git clone https://github.com/ggml-org/llama.cpp
   cd llama.cpp
   cmake -B build -DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=87
   cmake --build build --config Release --target llama-server llama-mtmd-cli

   On a CPU, leave the two CUDA flags out. What llama.cpp computes with these files was compared with edgeq on a CPU. No
   GPU and no Jetson has run them.

2. Serve it, with the context that the bundle was made for:

   llama-server \\
       --model "{language}" \\
       --mmproj "{vision}" \\
       --ctx-size {context} \\
       --n-gpu-layers 99 \\
{flags}       --host 127.0.0.1 \\
       --port 8080

   or ask once:

   llama-mtmd-cli \\
       --model "{language}" \\
       --mmproj "{vision}" \\
       --ctx-size {context} \\
       --n-gpu-layers 99 \\
{flags}       --temp 0 \\
       --image photograph.jpg \\
       --prompt "What do you see?"

3. Judge what it sees: `edgeq judge http://127.0.0.1:8080 --against BUNDLE --eval questions.jsonl`.
"""


def recipe(language: str, vision: str, context: int, flags: Sequence[str]) -> str:
    """The commands as a text.

    Args:
        language: name of the language model's file.
        vision: name of the encoder's file.
        context: tokens of image, question and answer.
        flags: further ones, names and values in turn.
    """
    pairs = zip(flags[::2], flags[1::2], strict=True)
    lines = "".join(f"       {name} {value} \\\n" for name, value in pairs)
    return _RECIPE.format(language=language, vision=vision, context=context, flags=lines)
