"""A vision-language model with random weights as the runtime serves it: its own slots, decode step and vision encoder.

The weights are `random_nf4`'s. Its tokenizer is the demo's, and it never says what that has no text for. Its vision
half is computed by torch on the device, in the place of an engine, and stays there as an engine's does.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image

from benchmarks.random_vlms import RANDOM_VLMS, build_tokenizer
from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.demo.export import IMAGE_MEAN, IMAGE_STD
from edgeq.families.modules import load_config
from edgeq.families.registry import exportable
from edgeq.model.images.image_processor import load_image_processor
from edgeq.runtime.vlm.api import GREEDY, SamplingParams
from edgeq.runtime.vlm.batch_decoder import BatchDecoder
from edgeq.runtime.vlm.language import LanguageModel
from edgeq.runtime.vlm.prompt import Prompt, Prompter
from edgeq.runtime.vlm.tokenize import RequestImage, TokenizedRequest
from edgeq.runtime.vlm.vision_encoder import VisionEncoder
from edgeq.tensorrt.tensors import DeviceTensor

__all__ = ["Served", "TorchEyes", "language_half", "serve", "without_graphs", "write_small_config"]

_IMAGE = "<image>"
_WORDS = 64
_PROCESSOR = "preprocessor_config.json"


class TorchEyes:
    """A vision half in torch, as a `DeviceEngine`.

    Args:
        module: pixels to features.
        device: of its weights.

    Attributes:
        inputs, outputs: one each.
        on_torch: what it gives is torch's memory.
        runs: how often it ran.
    """

    inputs: tuple[str, ...] = ("pixel_values",)
    outputs: tuple[str, ...] = ("image_features",)
    on_torch = True

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        self._module, self._device, self.runs = module, device, 0
        self._dtype = next(module.parameters()).dtype

    def run_device(
        self, feeds: Mapping[str, NDArray[Any] | DeviceTensor], outputs: Sequence[str] | None = None
    ) -> dict[str, DeviceTensor]:
        """As `DeviceEngine.run_device`, of arrays."""
        (name,) = outputs or self.outputs
        pixels = torch.from_numpy(np.asarray(feeds["pixel_values"])).to(self._device, self._dtype)
        with torch.inference_mode():
            made = self._module(pixels).contiguous()
        self.runs += 1
        dtype = np.dtype(str(made.dtype).removeprefix("torch."))
        return {name: DeviceTensor(made.data_ptr(), tuple(made.shape), dtype, made.reshape(-1).view(torch.uint8))}

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """As `Engine.run`."""
        made = self.run_device(feeds, outputs)
        kinds = {name: torch.from_numpy(np.empty(0, placed.dtype)).dtype for name, placed in made.items()}
        return {
            name: placed.owner.view(kinds[name]).reshape(placed.shape).cpu().numpy() for name, placed in made.items()
        }


@dataclass(frozen=True)
class Served:
    """What slots are made of.

    Attributes:
        prompter: writes prompts.
        language: the language model alone.
        eyes: the vision half.
    """

    prompter: Prompter
    language: LanguageModel
    eyes: TorchEyes

    @property
    def image_tokens(self) -> int:
        """Of an image."""
        return self.prompter.settings.tokens

    def decoder(self, slots: int, context: int, *, cache_bytes: int = 0) -> BatchDecoder:
        """Slots of the runtime; without a cache each prompt is read again."""
        encoder = VisionEncoder(self.eyes)
        return BatchDecoder(
            self.prompter, encoder, self.language, slots=slots, context=context, cache_bytes=cache_bytes
        )

    def question(
        self,
        seed: int,
        tokens: int,
        answer: int,
        *,
        sampling: SamplingParams = GREEDY,
        logprobs: int | None = None,
    ) -> TokenizedRequest:
        """A request about an image of noise.

        Args:
            seed: of image and words.
            tokens: of the whole prompt.
            answer: its tokens at most.
            sampling: how they are chosen.
            logprobs: so many of the likeliest tokens are told of each.
        """
        random = np.random.default_rng(seed)
        side = 64
        image = Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
        seen = self.prompter.pixels(image)
        words = random.integers(0, _WORDS, tokens - seen.layout.tokens) + _WORDS  # of the demo's own
        ids = np.concatenate([np.full(seen.layout.tokens, self.prompter.settings.image_token_id), words])
        prompt = Prompt(ids.astype(np.int64), np.arange(tokens, dtype=np.int64), (seen.layout,))
        asked = RequestImage(image.tobytes()[:32], seen.layout, seen)
        return TokenizedRequest(prompt, (asked,), answer, answer, sampling, (), logprobs=logprobs)


def serve(whole: Any, directory: Path, context: int) -> Served:
    """Take a whole LLaVA apart, as a bundle's loader puts its halves together.

    Args:
        whole: transformers' model, with its linear layers in NF4 and its weights on the device.
        directory: holds its config.json.
        context: tokens of a request at most.
    """
    tokenizer = build_tokenizer(RANDOM_VLMS["1.1b"])
    with torch.no_grad():
        whole.lm_head.weight[len(tokenizer) :] = 0
    side, token = whole.config.vision_config.image_size, tokenizer.convert_tokens_to_ids(_IMAGE)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        shutil.copy(directory / "config.json", place)
        (place / _PROCESSOR).write_text(json.dumps(_processor(side)), encoding="utf-8")
        processor, config = load_image_processor(place), load_config(place)
    settings = VlmSettings(
        model_type=whole.config.model_type,
        vision="none.onnx",
        image_token=_IMAGE,
        image_token_id=token,
        tokens=(side // whole.config.vision_config.patch_size) ** 2,
        context=context,
        stop=(),
    )
    prompter = Prompter(settings, tokenizer, processor, config)
    graph = exportable(settings.model_type, config["vision_config"])
    module = graph.build(whole.model.vision_tower, whole.model.multi_modal_projector, whole).eval()
    half = language_half(whole)
    language = LanguageModel(half, prompter.image_prompt, token, config)
    return Served(prompter, language, TorchEyes(module, half.device))


def language_half(whole: Any) -> Any:
    """The language model of a whole one, with its very layers."""
    text = whole.config.text_config
    shallow = copy.deepcopy(text)
    shallow.num_hidden_layers = 0
    with torch.device("meta"):
        half = transformers.AutoModelForCausalLM.from_config(shallow)
    half.model, half.lm_head, half.config = whole.model.language_model, whole.lm_head, text
    return half.eval()


def write_small_config(directory: Path) -> Path:
    """The config.json of a LLaVA that a CPU draws in a moment; its rows are whole blocks, as bitsandbytes wants."""
    tokenizer = build_tokenizer(RANDOM_VLMS["1.1b"])
    vision = transformers.CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=14
    )
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    text = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        vocab_size=-(-len(tokenizer) // 64) * 64,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **heads,
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(_IMAGE),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(directory)
    return directory


@contextmanager
def without_graphs() -> Iterator[None]:
    """Slots that are made in here run their steps operator by operator: they ask torch whether there is CUDA."""
    with mock.patch.object(torch.cuda, "is_available", return_value=False):
        yield


def _processor(side: int) -> dict[str, Any]:
    size = {"height": side, "width": side}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": size,
        "crop_size": size,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
    }
