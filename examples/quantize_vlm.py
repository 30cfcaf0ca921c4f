"""Quantize a vision-language model, vision in FP16 and language in NF4, and ask it a question.

    python examples/quantize_vlm.py MODEL PHOTOGRAPHS BUNDLE "What do you see?"

MODEL is a Hugging Face directory or id of the LLaVA, Idefics3, SmolVLM, InternVL or PaliGemma family. PHOTOGRAPHS is a
folder or zip of images like those that it will see. `edgeq demo --output demo` makes demo/vlm-model and
demo/photographs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import edgeq


def main() -> None:
    """Make the bundle, and ask about the first photograph in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("photographs", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("question")
    parser.add_argument("--device", help="stop if it does not fit, for example orin-nx-16gb")
    parser.add_argument("--context", type=int, default=2048, help="tokens of image, question and answer")
    given = parser.parse_args()

    options = edgeq.VlmOptions(device=given.device, context=given.context, question=given.question)
    made = edgeq.prepare(given.model, given.photographs, given.bundle, options=options)
    share = 100 * made.quantized_parameters / made.parameters
    size = made.vision_bytes + made.language_bytes
    print(f"{share:.1f} % of {made.parameters:,} parameters are in 4 bits; {size / 1e6:,.1f} MB")

    with edgeq.open_bundle(made.bundle, kind="vision-language") as bundle:
        reply = bundle.ask(made.bundle / "canaries" / made.canaries.canaries[0].image, given.question)
    print(reply.text)
    print(f"{reply.first_token_seconds:.2f} s to the first token, {reply.image_tokens} image tokens")


if __name__ == "__main__":
    main()
