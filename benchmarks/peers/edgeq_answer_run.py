"""edgeq's runtime with one bundle: a line on stdin is a seed, a line on stdout what an answer to so many tokens took.

The slots are those of `edgeq serve`, one of them is used, and nothing is kept of earlier prompts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.peers.answer_clock import AnswerClock, Size, prompt_ids
from edgeq.runtime.vlm.api import GREEDY
from edgeq.runtime.vlm.batch_decoder import BatchDecoder
from edgeq.runtime.vlm.model import load_vlm
from edgeq.runtime.vlm.prompt import Prompt
from edgeq.runtime.vlm.tokenize import TokenizedRequest

_SLOTS: Final = 4


def main() -> None:
    """Answer until stdin ends."""
    size = Size(**json.loads(sys.argv[2]))
    vlm = load_vlm(Path(sys.argv[1]), threads=size.threads)
    endless = vlm.prompter.settings.model_copy(update={"stop": ()})  # so that each answer has as many tokens
    vlm.prompter.settings = endless
    context = size.prompt + size.tokens
    decoder = BatchDecoder(vlm.prompter, vlm.vision_encoder, vlm.language, slots=_SLOTS, context=context, cache_bytes=0)
    print(json.dumps({"ready": "edgeq"}), flush=True)
    for line in sys.stdin:
        ids = np.array(prompt_ids(int(line), size.prompt), np.int64)
        prompt = Prompt(ids, np.arange(size.prompt, dtype=np.int64), ())
        asked = TokenizedRequest(prompt, (), size.tokens, size.tokens, GREEDY, ())
        clock = AnswerClock()
        decoder.begin(0, asked)
        clock.first()
        tokens = 1
        while decoder.busy:
            tokens += len(decoder.step())
        print(json.dumps(clock.took(tokens)), flush=True)


if __name__ == "__main__":
    main()
