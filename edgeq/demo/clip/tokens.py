"""Words and pictures as the small CLIP takes them: tokenizer and image processor.

As in CLIP (Radford et al., 2021, arXiv:2103.00020) text is put in lower case, its spaces are made one, and it stands
between a start and an end of text, which also fills up shorter texts. The tokens are byte-level BPE, without CLIP's
marks at the end of words, which would need 256 tokens more: it is trained on the captions, each of their words is one
token, and any other text falls apart into pieces or bytes.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from edgeq.demo.clip.captions import captions
from edgeq.demo.export import IMAGE_MEAN, IMAGE_STD
from edgeq.demo.scenes import SIZE
from edgeq.demo.vlm.report import FINDINGS

__all__ = ["CONTEXT", "VOCABULARY", "build_processor"]

CONTEXT = 32
"""The longest text in tokens, its start and end among them."""

VOCABULARY = 512
"""The most tokens there may be."""

_START, _END = "<|startoftext|>", "<|endoftext|>"


def build_processor() -> CLIPProcessor:
    """Tokenizer and image processor in one; the same every time it is built."""
    return CLIPProcessor(image_processor=_image_processor(), tokenizer=_tokenizer())


def _image_processor() -> CLIPImageProcessorPil:
    """The shorter side to SIZE, and the square in the middle, as CLIP does it; a scene stays as it is."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: start and end of text, 256 bytes, and merges until every word of the captions is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=[_START, _END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for finding in FINDINGS for text in captions(finding)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}",
        pair=f"{_START} $A {_END} {_START} $B {_END}",
        special_tokens=[(mark, tokenizer.token_to_id(mark)) for mark in (_START, _END)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_START,
        eos_token=_END,
        pad_token=_END,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
