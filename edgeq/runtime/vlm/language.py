"""The language model alone, in 4 or 8 bits: it reads image features where the image's tokens stand, and answers.

Greedy, one sequence at a time, with a step of its own; `generate` of transformers chooses the same tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.engine.heap import trim_heap
from edgeq.errors import EngineError, ModelError, first_line
from edgeq.extras import install_command
from edgeq.families.base import Config, ImageFeatures, ImagePrompt
from edgeq.families.causal import causal_class
from edgeq.families.features import FeatureArray
from edgeq.files import drop_pages, read_json_object
from edgeq.model.checkpoint.packed_weights import WeightScheme
from edgeq.runtime.vlm.cache_name import cache_name
from edgeq.runtime.vlm.packed.checkpoint import check_packed, weight_format
from edgeq.runtime.vlm.prompt import Prompt, Prompter

if TYPE_CHECKING:
    import torch

    from edgeq.runtime.vlm.piece import CrossStates, ImageStates, PromptPiece

__all__ = ["LanguageModel", "open_language_model", "release_memory", "require_packages"]

_PACKAGES: Final = ("torch", "transformers", "accelerate")
_NF4: Final = "bitsandbytes"


def open_language_model(directory: Path, prompter: Prompter, *, threads: int | None = None) -> LanguageModel:
    """Load a checkpoint in NF4 as bitsandbytes stores it, or in INT4 or INT8 as compressed-tensors packs them.

    Args:
        directory: the checkpoint, such as `edgeq prepare` makes.
        prompter: of the same bundle.
        threads: of torch, for the whole process; None leaves it as it is.

    Raises:
        ModelError: its weights are stored in another way, or transformers cannot load it.
        EngineError: a package is missing.
    """
    require_packages(directory)
    stored = check_packed(directory) if weight_format(directory) == "packed" else {}
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    kind = _model_class(directory)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shared = device == "cuda" and bool(torch.cuda.get_device_properties(0).is_integrated)
    if shared:  # transformers takes all of the weights' room in one piece, and the check has just read the files
        _drop_weights(directory)
    try:
        with _quiet():
            model = kind.from_pretrained(
                directory,
                **_config_of(kind, directory, stored),
                device_map={"": device},
                dtype="auto",
                local_files_only=True,
                trust_remote_code=False,
            )
    except ModelError:
        raise
    except Exception as error:  # a checkpoint can be wrong in as many ways as there are models
        reason = first_line(error)
        raise ModelError(f"transformers cannot load the language model in {directory}", causes=(reason,)) from error
    made = LanguageModel(model.eval(), prompter.image_prompt, prompter.settings.image_token_id, prompter.config)
    release_memory()
    _leave_file(model)
    if shared:
        _drop_weights(directory)
    return made


def _drop_weights(directory: Path) -> None:
    """Drop a checkpoint's pages, where the page cache and the GPU are one memory."""
    for path in sorted(directory.glob("*.safetensors")):
        with suppress(OSError):  # loading it says it better
            drop_pages(path)


def _config_of(kind: Any, directory: Path, stored: Mapping[str, WeightScheme]) -> dict[str, Any]:
    """What `from_pretrained` needs besides for packed layers."""
    if not stored:
        return {}
    from edgeq.runtime.vlm.packed.loading import config_for_loading

    return {"config": config_for_loading(kind, directory, stored)}


def require_packages(directory: Path | None = None) -> None:
    """Look whether what a language model needs is installed: bitsandbytes for NF4 alone.

    Args:
        directory: its checkpoint; None, or one that is not there yet, is taken for one in NF4.

    Raises:
        EngineError: a package is missing; it says what to install.
        ModelError: the weights are stored in a way that edgeq does not read.
    """
    there = directory is not None and (directory / "config.json").exists()  # what is missing is told by who opens it
    nf4 = directory is None or not there or weight_format(directory) == "bitsandbytes"
    needed = (*_PACKAGES, _NF4) if nf4 else _PACKAGES
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise EngineError(
            f"this language model runs with {missing[0]}, which is not installed",
            next_step=install_command("device", "language"),
        )


def _leave_file(model: Any) -> None:
    """Copy what still is in the checkpoint's mapping, where the integers were rearranged and left it.

    Else the few 16-bit weights would keep all of the mapping in memory, the old 4-bit weights with it: a fifth of a
    process with 1.1 billion parameters (measured).
    """
    states = [state for weight in model.parameters() if (state := getattr(weight, "quant_state", None)) is not None]
    packed = any(hasattr(module, "product") for module in model.modules())
    if not packed and not any(getattr(state, "packing_format_for_cpu", False) for state in states):
        return
    for state in states:
        state.code = state.code.clone()
    for weight in model.parameters():
        if weight.dtype.is_floating_point and weight.device.type == "cpu":
            weight.data = weight.data.clone()


def release_memory() -> None:
    """Return what was freed to the system, the graphics card's memory too."""
    import torch

    trim_heap()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of transformers."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


def _model_class(directory: Path) -> Any:
    """The class that config.json names: AutoModelForCausalLM does not know all of them."""
    named = read_json_object(directory / "config.json").get("architectures") or [""]
    try:
        return causal_class(str(named[0]))
    except ModelError as error:
        raise ModelError(
            f"{directory / 'config.json'} names {named[0]!r}, which is no model of transformers"
        ) from error


class LanguageModel:
    """A causal language model that takes an image's features.

    On a CPU with AVX512-BF16, bitsandbytes rearranges 4-bit weights in place at the first forward pass; that must not
    happen in two threads at once, so it is done here.

    Args:
        model: transformers' model, in eval mode; its 4-bit layers run as `edgeq.runtime.vlm.linear` has them from now
            on.
        image_prompt: how images are put before it.
        image_token_id: which tokens are an image's.
        config: of the whole model, with all defaults.

    Attributes:
        image_prompt: the same.
    """

    def __init__(self, model: Any, image_prompt: ImagePrompt, image_token_id: int, config: Config) -> None:
        from edgeq.runtime.vlm.attention import ATTENTION, attention_windows
        from edgeq.runtime.vlm.linear import use_fast_kernels

        self._model, self._device = model, model.device
        self.image_prompt = image_prompt
        self._image_token_id, self._config = image_token_id, config
        self._cache, self._windows = cache_name(model), attention_windows(model.config)
        self._row_dtype = model.get_input_embeddings()(self._tensor([0])).dtype
        if model.config._attn_implementation == "eager":  # it takes no mask of bool, and sees all where there is none
            model.set_attn_implementation(ATTENTION)
        self._forward(input_ids=self._tensor([0])[None], **self._one_state())
        use_fast_kernels(model)

    @property
    def model(self) -> Any:
        """transformers' model, for a decoding of one's own; in one thread, as all else here."""
        return self._model

    @property
    def cross_states(self) -> int:
        """States of an image that cross-attention looks at; 0 for models without."""
        cross = self.image_prompt.cross
        return 0 if cross is None else cross(np.zeros(0, np.int64), self._image_token_id, (), self._config).shape[1]

    def generate(
        self, prompt: Prompt, images: Sequence[ImageFeatures], *, limit: int, stop: Collection[int]
    ) -> Iterator[int]:
        """The likeliest tokens one after another (greedy), the one that ends the answer included.

        Args:
            prompt: with its positions.
            images: features of its images, in their order.
            limit: at most so many tokens.
            stop: tokens that end an answer.
        """
        import torch

        states = [self.to_device(image) for image in images]
        found = self._read(prompt, states, (), keep=1)
        cross = self._behind(prompt, states)
        for step in range(limit):
            token = int(found.logits[0, -1].to(torch.float32).argmax())
            yield token
            if token in stop or step + 1 == limit:
                return
            found = self._forward(
                input_ids=self._tensor([token])[None],
                position_ids=self._tensor([[prompt.next_position + step]]),
                **cross,
                **{self._cache: getattr(found, self._cache)},
            )

    def logits(self, prompt: Prompt, images: Sequence[ImageFeatures], answer: Sequence[int]) -> NDArray[np.float32]:
        """What it expects before each token of an answer that is forced: float32 [answer, vocabulary].

        Args:
            prompt, images: as for `generate`.
            answer: the tokens; at least one.
        """
        import torch

        states = [self.to_device(image) for image in images]
        found = self._read(prompt, states, answer[:-1], keep=len(answer))
        logits: NDArray[np.float32] = found.logits[0].to(torch.float32).cpu().numpy()
        return logits

    def to_device(self, features: ImageFeatures) -> ImageStates:
        """An image's features as the model takes them: in its embeddings' dtype and on its device."""
        from edgeq.runtime.vlm.piece import ImageStates

        cross = features.cross
        return ImageStates(
            self._like_embeddings(features.places),
            tuple(self._like_embeddings(level) for level in features.deepstack),
            None if cross is None else self._like_embeddings(cross),
        )

    def piece(
        self,
        prompt: Prompt,
        images: Sequence[ImageStates | None],
        start: int,
        end: int,
        *,
        continued: Sequence[int] = (),
    ) -> PromptPiece:
        """The tokens from `start` to `end` of a prompt, with all that goes with them.

        Args:
            prompt: with its positions.
            images: what the model is given of its images; None for one all of whose places are before `start`.
            start, end: of the prompt's tokens.
            continued: tokens that follow the prompt and are read with its last piece.

        Raises:
            EngineError: there are more or fewer features than places.
        """
        from edgeq.runtime.vlm.piece import PromptPiece

        ids, positions = prompt.ids[start:end], prompt.positions[..., start:end]
        places = ids == self._image_token_id
        states = self._standing(prompt, images, start, end) if places.any() else []
        if continued:
            behind = prompt.next_position + np.arange(len(continued), dtype=np.int64)
            tail = np.broadcast_to(behind, (*positions.shape[:-1], len(behind)))
            ids = np.concatenate([ids, np.asarray(continued, np.int64)])
            positions = np.concatenate([positions, tail], axis=-1)
            # A model may say the image token itself: no feature stands there.
            places = np.concatenate([places, np.zeros(len(continued), bool)])
        return PromptPiece(
            embeddings=self._embed(ids, places, [state.places for state in states if len(state.places)]),
            start=start,
            positions=self._tensor(positions),
            last=end == len(prompt.ids),
            blocks=self._blocks(prompt, end, len(continued)),
            narrow_blocks=self.image_prompt.attention == "image",
            places=self._tensor(places),
            deepstack=_levels(states),
            cross=self._cross(prompt, images, start, end, len(continued)),
        )

    def _standing(
        self, prompt: Prompt, images: Sequence[ImageStates | None], start: int, end: int
    ) -> list[ImageStates]:
        """What stands in a piece, image by image, cut to the places that are in it."""
        token, found = self._image_token_id, []
        first, last = (int((prompt.ids[:index] == token).sum()) for index in (start, end))
        before = 0
        for layout, image in zip(prompt.layouts, images, strict=True):
            low, high = max(first - before, 0), min(last - before, layout.tokens)
            before += layout.tokens
            if low >= high:
                continue
            if image is None or len(image.places) not in (0, layout.tokens):
                given = 0 if image is None else len(image.places)
                raise EngineError(f"{layout.tokens} image tokens and {given} features do not go together")
            found.append(image.cut(low, high))
        return found

    def _blocks(self, prompt: Prompt, end: int, continued: int) -> torch.Tensor | None:
        """Which tokens see each other whatever their order, int64 [end + continued]; None for none."""
        attention = self.image_prompt.attention
        if attention == "causal":
            return None
        blocks = np.zeros(end + continued, np.int64)
        if attention == "prompt":
            blocks[:end] = 1
        else:
            places = np.flatnonzero(prompt.ids == self._image_token_id)
            owners = np.repeat(np.arange(len(prompt.layouts)), [layout.tokens for layout in prompt.layouts]) + 1
            blocks[places[places < end]] = owners[: int((places < end).sum())]
        return self._tensor(blocks)

    def _cross(
        self, prompt: Prompt, images: Sequence[ImageStates | None], start: int, end: int, continued: int
    ) -> CrossStates | None:
        """What cross-attention looks at in a piece; None for other models, and for a prompt without an image."""
        from edgeq.runtime.vlm.piece import CrossStates

        if self.image_prompt.cross is None or not images:
            return None
        seen = self.image_prompt.cross(prompt.ids, self._image_token_id, prompt.layouts, self._config)
        rows = np.concatenate([seen[start:end], np.repeat(seen[-1:], continued, axis=0)])
        begins = bool(seen[:end].any()) and not bool(seen[:start].any())
        (image,) = images
        states = image.cross if begins and image is not None else None
        return CrossStates(self._tensor(rows), states)

    def _behind(self, prompt: Prompt, images: Sequence[ImageStates]) -> dict[str, Any]:
        """What goes with each token behind a prompt whose image is looked at by cross-attention."""
        from edgeq.runtime.vlm.piece import cross_inputs

        end = len(prompt.ids)
        cross = self._cross(prompt, images, end, end, 1)
        return {} if cross is None else cross_inputs(cross, self._model.dtype)

    def _one_state(self) -> dict[str, Any]:
        """Something for cross-attention to look at: without it a model leaves out those layers."""
        import torch

        from edgeq.runtime.vlm.piece import CrossStates, cross_inputs

        if self.image_prompt.cross is None:
            return {}
        model = self._model
        states = torch.zeros(1, model.config.hidden_size, dtype=model.dtype, device=self._device)
        return cross_inputs(CrossStates(self._tensor([[True]]), states), model.dtype)

    def _embed(
        self, ids: NDArray[np.int64], places: NDArray[np.bool_], features: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Embeddings [1, n, hidden] in the model's own dtype, features in the places of images, if there are any."""
        import torch

        table = self._model.get_input_embeddings()
        with torch.inference_mode():
            if not features:
                words: torch.Tensor = table(self._tensor(ids))
                return words[None]
            words = table(self._tensor(np.where(places, 0, ids)))  # the image token may be beyond it
            return words.masked_scatter(self._tensor(places)[:, None], torch.cat(list(features)).to(words))[None]

    def _like_embeddings(self, features: FeatureArray) -> torch.Tensor:
        import torch

        return torch.as_tensor(features).to(self._device, self._row_dtype)

    def _read(self, prompt: Prompt, states: Sequence[ImageStates], continued: Sequence[int], *, keep: int) -> Any:
        """The first pass, over all tokens at once; logits of the last `keep`."""
        from edgeq.runtime.vlm.piece import model_inputs

        piece = self.piece(prompt, states, 0, len(prompt.ids), continued=continued)
        return self._forward(**model_inputs(self._windows, piece), logits_to_keep=keep)

    def _forward(self, **inputs: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self._model(use_cache=True, **inputs)

    def _tensor(self, values: Any) -> torch.Tensor:
        import torch

        return torch.tensor(np.asarray(values), device=self._device)  # a copy: a remembered prompt is not to be written


def _levels(states: Sequence[ImageStates]) -> tuple[torch.Tensor, ...]:
    """Deepstack features of several images, one behind the other, for each layer."""
    import torch

    levels = zip(*(state.deepstack for state in states), strict=True)
    return tuple(torch.cat(level) for level in levels)
