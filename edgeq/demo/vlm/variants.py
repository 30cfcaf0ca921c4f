"""Four ways to store the small vision-language model, each ready to be asked about a photograph."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image

from edgeq.bundle.vision_report import VISION_FP32
from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.stage import calibrate
from edgeq.export.tracing import quiet
from edgeq.families.modules import read_vlm
from edgeq.files import read_json_object
from edgeq.model.graph.onnx_file import load_onnx, save_onnx
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.pipeline.vlm import PreparedVlm
from edgeq.pipeline.vlm_reference import load_reference, reference_prompt
from edgeq.plan.precision import Precision, Rule
from edgeq.plan.rules import plan_classifier
from edgeq.quality.answerer import Answer, Answerer
from edgeq.quality.hf_answerer import HfAnswerer
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.qdq import calibrated_tensors, lower
from edgeq.quantize.int8.registry import USUAL
from edgeq.runtime.vlm.model import VisionLanguageModel, load_vlm
from edgeq.runtime.vlm.prompt import Prompter
from edgeq.runtime.vlm.vision_encoder import VisionEncoder

__all__ = ["BundleVariant", "Clocked", "make_variants"]

_VISION_INT8: Final = "vision.int8.onnx"
_CONNECTOR: Final = Rule(
    name="fp32-connector",
    precision=Precision.FP32,
    reason="small, and every image token goes through it",
    layer="/connector/*",
)


@dataclass
class Clocked:
    """An `Answerer` that counts its tokens and seconds; asked the same again, it remembers.

    Attributes:
        answerer: that is asked.
        tokens, seconds: of all answers, from photograph to last token.
    """

    answerer: Answerer
    tokens: int = 0
    seconds: float = 0.0
    _known: dict[Hashable, Any] = field(default_factory=dict)

    def answer(self, image: Image.Image, question: str, max_new_tokens: int) -> Answer:
        """As `Answerer.answer`."""
        answer: Answer = self._once(lambda: self._timed(image, question, max_new_tokens), image, question)
        return answer

    def logits(self, image: Image.Image, question: str, answer_ids: Sequence[int]) -> NDArray[np.float32]:
        """As `Answerer.logits`."""
        answer_ids = tuple(answer_ids)
        logits: NDArray[np.float32] = self._once(
            lambda: self.answerer.logits(image, question, answer_ids), image, question, answer_ids
        )
        return logits

    def features(self, image: Image.Image) -> NDArray[np.float32]:
        """As `Answerer.features`."""
        features: NDArray[np.float32] = self._once(lambda: self.answerer.features(image), image)
        return features

    def _timed(self, image: Image.Image, question: str, max_new_tokens: int) -> Answer:
        before = time.perf_counter()
        said = self.answerer.answer(image, question, max_new_tokens)
        self.seconds += time.perf_counter() - before
        self.tokens += len(said.token_ids)
        return said

    def _once(self, make: Callable[[], Any], image: Image.Image, *asked: Hashable) -> Any:
        key = (image.tobytes(), *asked)
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


@dataclass(frozen=True)
class BundleVariant:
    """One way to store the model.

    Attributes:
        name: for people.
        vision, language: the precision of each half.
        bytes: of all weights as they are stored.
        answerer: ready to be asked.
    """

    name: str
    vision: str
    language: str
    bytes: int
    answerer: Clocked


def make_variants(
    model: Path, prepared: PreparedVlm, photographs: Path, threads: int | None
) -> tuple[BundleVariant, ...]:
    """FP32 first, which the others are compared with; then all in NF4, edgeq's bundle, and a vision encoder in INT8.

    Args:
        model: the Hugging Face directory.
        prepared: its bundle, with the FP32 vision graph in it.
        photographs: to calibrate INT8 on.
        threads: of one operator.
    """
    vlm = load_vlm(prepared.bundle, threads=threads)
    whole = load_reference(model, read_vlm(model), vlm.prompter)
    assert whole is not None, "22 MB fit everywhere"
    vision_encoder, int8_vision_bytes = _int8_vision(model, prepared.bundle, photographs, threads)
    narrow, narrow_bytes = _all_nf4(model, vlm.prompter)
    language = prepared.language_bytes
    return (
        BundleVariant("whole", "FP32", "FP32", 4 * prepared.parameters, Clocked(whole)),
        BundleVariant("all NF4", "NF4", "NF4", narrow_bytes, Clocked(narrow)),
        BundleVariant("edgeq", "FP16", "NF4", prepared.vision_bytes + language, Clocked(vlm)),
        BundleVariant(
            "INT8",
            "INT8",
            "NF4",
            int8_vision_bytes + language,
            Clocked(VisionLanguageModel(vlm.prompter, vision_encoder, vlm.language)),
        ),
    )


def _all_nf4(model: Path, prompter: Prompter) -> tuple[Answerer, int]:
    """Every linear layer but the head in NF4, as bitsandbytes does it when nobody says what to leave out."""
    four_bits = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float16,
    )
    with quiet(), tempfile.TemporaryDirectory() as directory:
        loaded = transformers.AutoModelForImageTextToText.from_pretrained(
            model, quantization_config=four_bits, dtype=torch.float16, local_files_only=True
        )
        loaded.save_pretrained(directory)
        size = sum(file.stat().st_size for file in Path(directory).glob("*.safetensors"))
    return HfAnswerer(loaded, prompter.tokenizer, reference_prompt(prompter)), size


def _int8_vision(model: Path, bundle: Path, photographs: Path, threads: int | None) -> tuple[VisionEncoder, int]:
    """The vision encoder in INT8 under edgeq's rules for transformers, the connector in FP32, and the file's bytes."""
    graph = bundle / VISION_FP32
    loaded = load_onnx(graph)
    plan = plan_classifier(loaded, rules=(_CONNECTOR,))
    preprocess = read_preprocess(read_json_object(model / "preprocessor_config.json"))
    tensors = calibrated_tensors(loaded, plan)
    scales, _ = calibrate(graph, tensors, ImageSamples(ImageSet.open(photographs), preprocess), threads=threads)
    made: onnx.ModelProto = lower(loaded, plan, scales, USUAL, pixels=PixelInput.of(preprocess))
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / _VISION_INT8
        save_onnx(made, file)
        return VisionEncoder.open(file, threads=threads), file.stat().st_size
