"""The language model alone, in 4 bits: it reads image features where the image's tokens stand, and answers.

Greedy, one sequence at a time, with a step of its own; `generate` of transformers chooses the same tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.engine.heap import trim_heap
from edgeq.errors import EngineError, ModelError, first_line
from edgeq.families.base import ImagePrompt
from edgeq.files import read_json_object
from edgeq.runtime.vlm.cache_name import cache_name

if TYPE_CHECKING:
    import torch

__all__ = ["LanguageModel", "open_language_model", "release_memory", "require_packages"]

_PACKAGES: Final = ("torch", "transformers", "accelerate", "bitsandbytes")


def open_language_model(directory: Path, image_prompt: ImagePrompt, *, threads: int | None = None) -> LanguageModel:
    """Load an NF4 checkpoint that `edgeq.quantize.nf4.write.write_nf4` made.

    Args:
        directory: the checkpoint.
        image_prompt: how an image is put before it.
        threads: of torch, for the whole process; None leaves it as it is.

    Raises:
        ModelError: transformers cannot load it.
        EngineError: a package is missing.
    """
    require_packages()
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    kind = _model_class(directory)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with _quiet():
            model = kind.from_pretrained(
                directory, device_map={"": device}, dtype="auto", local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # a checkpoint can be wrong in as many ways as there are models
        reason = first_line(error)
        raise ModelError(f"transformers cannot load the language model in {directory}", causes=(reason,)) from error
    made = LanguageModel(model.eval(), image_prompt)
    release_memory()
    _leave_file(model)
    return made


def require_packages() -> None:
    """Raise EngineError, which says what to install, where a package is missing."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise EngineError(
            f"a language model in 4 bits runs with {missing[0]}, which is not installed",
            next_step="pip install 'edgeq[device,language]'",
        )


def _leave_file(model: Any) -> None:
    """Copy what still is in the checkpoint's mapping, where the 4-bit weights were rearranged and left it.

    Else the few 16-bit weights would keep all of the mapping in memory, the old 4-bit weights with it: a fifth of a
    process with 1.1 billion parameters (measured).
    """
    states = [state for weight in model.parameters() if (state := getattr(weight, "quant_state", None)) is not None]
    if not any(getattr(state, "packing_format_for_cpu", False) for state in states):
        return
    for state in states:
        state.code = state.code.clone()
    for weight in model.parameters():
        if weight.dtype.is_floating_point:
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
    import transformers

    named = read_json_object(directory / "config.json").get("architectures") or [""]
    found = getattr(transformers, str(named[0]), None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise ModelError(f"{directory / 'config.json'} names {named[0]!r}, which is no model of transformers")
    return found


class LanguageModel:
    """A causal language model that takes an image's features.

    On a CPU with AVX512-BF16, bitsandbytes rearranges 4-bit weights in place at the first forward pass; that must not
    happen in two threads at once, so it is done here.

    Args:
        model: transformers' model, in eval mode; its 4-bit layers run as `edgeq.runtime.vlm.linear` has them from now
            on.
        image_prompt: how an image is put before it.

    Attributes:
        image_prompt: the same.
    """

    def __init__(self, model: Any, image_prompt: ImagePrompt) -> None:
        from edgeq.runtime.vlm.linear import use_fast_kernels

        self._model = model
        self.image_prompt = image_prompt
        self._cache = cache_name(model)
        self._forward(input_ids=self._tensor([0])[None])
        use_fast_kernels(model)

    @property
    def model(self) -> Any:
        """transformers' model, for a decoding of one's own; in one thread, as all else here."""
        return self._model

    def generate(
        self,
        ids: NDArray[np.int64],
        features: NDArray[np.float32],
        image_token_id: int,
        *,
        limit: int,
        stop: Collection[int],
    ) -> Iterator[int]:
        """The likeliest tokens one after another (greedy), the one that ends the answer included.

        Args:
            ids: the prompt, int64 [n].
            features: float32 [places, hidden], one for each image token in `ids`.
            image_token_id: which tokens these are.
            limit: at most so many tokens.
            stop: tokens that end an answer.
        """
        import torch

        found = self._read(self._embed(ids, features, image_token_id), len(ids), keep=1)
        for step in range(limit):
            token = int(found.logits[0, -1].to(torch.float32).argmax())
            yield token
            if token in stop or step + 1 == limit:
                return
            found = self._forward(
                input_ids=self._tensor([token])[None],
                position_ids=self._positions(len(ids) + step, 1),
                **{self._cache: getattr(found, self._cache)},
            )

    def logits(
        self, ids: NDArray[np.int64], features: NDArray[np.float32], image_token_id: int, answer: Sequence[int]
    ) -> NDArray[np.float32]:
        """What it expects before each token of an answer that is forced: float32 [answer, vocabulary].

        Args:
            ids, features, image_token_id: as for `generate`.
            answer: the tokens; at least one.
        """
        import torch

        whole = np.concatenate([ids, np.asarray(answer[:-1], np.int64)])
        found = self._read(self._embed(whole, features, image_token_id), len(ids), keep=len(answer))
        logits: NDArray[np.float32] = found.logits[0].to(torch.float32).cpu().numpy()
        return logits

    def to_device(self, features: Any) -> torch.Tensor:
        """An image's features as the model takes them: [places, hidden], in its embeddings' dtype and on its device.

        Args:
            features: float32 [..., hidden]: an array, or what an engine left on the GPU (`DeviceTensor`, or any other
                object with the CUDA Array Interface). That is copied on the GPU, where the engine writes over it at its
                next run; it never goes through the host. Not yet run on a GPU.
        """
        import torch

        if hasattr(features, "__cuda_array_interface__"):
            found = torch.as_tensor(features, device=self._model.device).clone()
        else:
            found = torch.from_numpy(features)
        return found.reshape(-1, found.shape[-1]).to(self._model.get_input_embeddings().weight)

    def embed(self, ids: NDArray[np.int64], features: torch.Tensor | None, image_token_id: int) -> torch.Tensor:
        """Embeddings [1, n, hidden] in the model's own dtype, with the features in the image's places.

        Args:
            ids: int64 [n].
            features: from `to_device`, one for each image token in `ids`; None for none.
            image_token_id: which tokens these are.

        Raises:
            EngineError: there are more or fewer of them.
        """
        import torch

        table = self._model.get_input_embeddings()
        places, given = ids == image_token_id, 0 if features is None else len(features)
        if int(places.sum()) != given:
            raise EngineError(f"{int(places.sum())} image tokens and {given} features do not go together")
        with torch.inference_mode():
            words: torch.Tensor = table(self._tensor(np.where(places, 0, ids)))  # the image token may be beyond it
            if features is None:
                return words[None]
            return words.masked_scatter(self._tensor(places)[:, None], features.to(words))[None]

    def _embed(self, ids: NDArray[np.int64], features: NDArray[np.float32], image_token_id: int) -> torch.Tensor:
        return self.embed(ids, self.to_device(features), image_token_id)

    def _read(self, embeddings: torch.Tensor, prompt: int, *, keep: int) -> Any:
        """The first pass, over all tokens at once; logits of the last `keep`."""
        length = embeddings.shape[1]
        return self._forward(
            inputs_embeds=embeddings,
            attention_mask=self._mask(length, prompt, embeddings.dtype),
            position_ids=self._positions(0, length),
            logits_to_keep=keep,
        )

    def _forward(self, **inputs: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self._model(use_cache=True, **inputs)

    def _positions(self, first: int, count: int) -> torch.Tensor | None:
        """Positions [1, count]; None where they are what the model would count itself."""
        if self.image_prompt.first_position == 0:
            return None
        start = first + self.image_prompt.first_position
        return self._tensor(np.arange(start, start + count))[None]

    def _mask(self, length: int, prompt: int, dtype: torch.dtype) -> torch.Tensor | None:
        """What each token must not see, [1, 1, length, length]; None for all that come after it."""
        import torch

        if self.image_prompt.attention == "causal":
            return None
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        seen[:prompt, :prompt] = True
        hidden = torch.zeros(length, length, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
        return hidden.to(self._model.device)[None, None]

    def _tensor(self, values: Any) -> torch.Tensor:
        import torch

        return torch.as_tensor(np.asarray(values), device=self._model.device)
