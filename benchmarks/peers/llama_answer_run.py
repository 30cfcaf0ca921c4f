"""llama.cpp with one GGUF file: a line on stdin is a seed, a line on stdout what an answer to so many tokens took.

Runs where llama-cpp-python is installed. Its C functions are called, as its own benchmark does, without a tokenizer.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any, Final

from benchmarks.peers.answer_clock import AnswerClock, Size, prompt_ids


class Llama:
    """A model and its context; greedy.

    Args:
        path: of a GGUF file.
        size: of what is asked.
    """

    def __init__(self, path: str, size: Size) -> None:
        import llama_cpp

        self._api: Any = llama_cpp
        llama_cpp.llama_log_set(_QUIET, None)
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = size.prompt + size.tokens
        settings.n_threads = settings.n_threads_batch = size.threads
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self._greedy = llama_cpp.llama_sampler_init_greedy()

    def begin(self, ids: list[int]) -> int:
        """Read a prompt, and say the first token."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        return self.step(*ids)

    def step(self, *ids: int) -> int:
        """Read tokens, and say the next."""
        tokens = (self._api.llama_token * len(ids))(*ids)
        if self._api.llama_decode(self._context, self._api.llama_batch_get_one(tokens, len(ids))):
            raise SystemExit("llama.cpp does not decode")
        return int(self._api.llama_sampler_sample(self._greedy, self._context, -1))


def _ignore(_level: int, _text: bytes, _data: Any) -> None:
    """What llama.cpp logs is not looked at."""


_QUIET: Final = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_ignore)


def main() -> None:
    """Answer until stdin ends."""
    size = Size(**json.loads(sys.argv[2]))
    llama = Llama(sys.argv[1], size)
    print(json.dumps({"ready": llama._api.llama_print_system_info().decode()}), flush=True)
    for line in sys.stdin:
        clock = AnswerClock()
        token = llama.begin(prompt_ids(int(line), size.prompt))
        clock.first()
        for _ in range(size.tokens - 1):
            token = llama.step(token)
        print(json.dumps(clock.took(size.tokens)), flush=True)


if __name__ == "__main__":
    main()
