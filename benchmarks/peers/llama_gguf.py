"""A LLaVA's language half as GGUF files of llama.cpp; runs where llama-cpp-python and gguf are installed.

    python -m benchmarks.peers.llama_gguf MODEL OUTPUT f16 q4_0 q4_k_m

writes `OUTPUT/KIND.gguf` for each kind, which llama.cpp's own quantizer makes of the first. There is no tokenizer in
them: tokens go in and out as numbers. `llava_gguf.py` writes one, and the vision encoder.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

KINDS: Final = ("f16", "q4_0", "q4_k_m", "q4_0-f16-head")


def interleaved(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of queries or keys in the order in which llama.cpp turns them.

    transformers turns a head's first half with its second, llama.cpp neighbours; the rows change places so that both
    are the same function.

    Args:
        weight: [heads * width, in].
        heads: there are.
    """
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def main() -> None:
    """Write what is not there yet."""
    model, output, kinds = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    output.mkdir(parents=True, exist_ok=True)
    whole = output / "f16.gguf"
    if not whole.exists():
        write_language(model, whole)
    for kind in kinds:
        if not (output / f"{kind}.gguf").exists():
            _quantize(whole, output / f"{kind}.gguf", kind)


def write_language(model: Path, output: Path, add_tokenizer: Callable[[Any], None] | None = None) -> None:
    """Matrices in FP16 and norms in FP32, as llama.cpp wants them.

    Args:
        model: a directory with a LLaVA.
        output: the file to write.
        add_tokenizer: is given gguf's writer; None writes none.
    """
    import gguf

    text = json.loads((model / "config.json").read_text(encoding="utf-8"))["text_config"]
    partial = output.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_rope_dimension_count(text["hidden_size"] // text["num_attention_heads"])
    writer.add_rope_freq_base(text["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_vocab_size(text["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if add_tokenizer is None:
        writer.add_tokenizer_model("none")
    else:
        add_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, text["num_hidden_layers"])
    for name, values in tensors(model, "language_model."):
        known = names.get_name(name, try_suffixes=(".weight",))
        if known is None:
            raise SystemExit(f"{name} has no name in GGUF")
        if ".q_proj." in name:
            values = interleaved(values, text["num_attention_heads"])
        elif ".k_proj." in name:
            values = interleaved(values, text["num_key_value_heads"])
        writer.add_tensor(known, values if values.ndim > 1 else values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(output)


def tensors(model: Path, prefix: str) -> Iterator[tuple[str, NDArray[np.float16]]]:
    """Names without a prefix that they have, and weights that stay in their files until they are read.

    Args:
        model: a directory with weights in FP16.
        prefix: of the names; others are left out.
    """
    from gguf.utility import SafetensorsLocal

    for file in sorted(model.glob("*.safetensors")):
        for name, found in SafetensorsLocal(file).tensors.items():
            if name.startswith(prefix):
                yield name.removeprefix(prefix), found.mmap_bytes().view(np.float16).reshape(found.shape)


def _quantize(whole: Path, output: Path, kind: str) -> None:
    """By llama.cpp; a head in FP16 is what edgeq has."""
    import gguf
    import llama_cpp

    types = {"q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M}
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = types[kind.removesuffix("-f16-head")]
    if kind.endswith("-f16-head"):
        settings.output_tensor_type = int(gguf.GGMLQuantizationType.F16)
    partial = output.with_suffix(".partial")
    if llama_cpp.llama_model_quantize(bytes(whole), bytes(partial), ctypes.byref(settings)):
        raise SystemExit(f"llama.cpp cannot make {kind} of {whole}")
    partial.rename(output)


if __name__ == "__main__":
    main()
