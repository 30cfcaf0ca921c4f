"""transformers with compressed-tensors on a handed-over checkpoint: what it answers about a photograph.

Arguments: checkpoint, photograph, question. Prints one JSON object. edgeq need not be installed there.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version


def main() -> None:
    """Load the whole checkpoint as anyone would, and ask."""
    import torch
    import transformers
    from PIL import Image

    checkpoint, photograph, question = sys.argv[1:4]
    model = transformers.AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float16).eval()
    packed = sum(hasattr(module, "quantization_scheme") for module in model.modules())
    processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    with Image.open(photograph) as image:
        inputs = processor(images=image.convert("RGB"), text=text, return_tensors="pt").to(torch.float16)
    said = model.generate(**inputs, max_new_tokens=48, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    answer = {
        "release": f"{transformers.__version__}, compressed-tensors {version('compressed-tensors')}",
        "code": "AutoModelForImageTextToText.from_pretrained, generate",
        "said": f"{packed} packed layers",
        "answer": processor.decode(said, skip_special_tokens=True).strip(),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
