"""Words and pictures as the small vision-language model takes them: tokenizer, chat template, image processor.

The tokenizer is byte-level BPE (Sennrich et al., 2016, arXiv:1508.07909, over bytes as in GPT-2), trained on the
questions and reports alone: each of their words is one token, and any other text falls apart into pieces or bytes.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from edgeq.demo.export import IMAGE_MEAN, IMAGE_STD
from edgeq.demo.scenes import SIZE
from edgeq.demo.vlm.report import FINDINGS, QUESTIONS, report

__all__ = ["CHAT_TEMPLATE", "IMAGE_TOKENS", "PATCH", "build_processor", "chat", "prompt"]

PATCH = 8
"""Side of a patch in pixels."""

IMAGE_TOKENS = (SIZE // PATCH) ** 2
"""Tokens that a picture takes in the prompt."""

_PAD, _START, _END, _IMAGE = "<pad>", "<s>", "</s>", "<image>"

CHAT_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}{{ message['role'] | upper }}:{{ ' ' if message['role'] == 'user' }}\
{% if message['content'] is string %}{{ '' if message['role'] == 'user' else ' ' }}{{ message['content'] }}\
{% else %}{% for part in message['content'] if part['type'] == 'image' %}<image>
{% endfor %}{% for part in message['content'] if part['type'] == 'text' %}\
{{ '' if message['role'] == 'user' else ' ' }}{{ part['text'] }}{% endfor %}{% endif %}\
{{ ' ' if message['role'] == 'user' else eos_token }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"""
"""As LLaVA 1.5 asks: `<s>USER: <image>`, a new line, the question, ` ASSISTANT:`, and the answer after a space."""


def chat(question: str) -> list[dict[str, Any]]:
    """One question about one picture in the form that chat templates take."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


def prompt(processor: LlavaProcessor, question: str) -> str:
    """The text before the answer, with one `<image>` in it, which the processor makes IMAGE_TOKENS of."""
    text: str = processor.apply_chat_template(chat(question), add_generation_prompt=True)
    return text


def build_processor() -> LlavaProcessor:
    """Tokenizer, chat template and image processor in one; the same every time it is built."""
    return LlavaProcessor(
        image_processor=_image_processor(),
        tokenizer=_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _image_processor() -> CLIPImageProcessorPil:
    """The whole picture squeezed to SIZE x SIZE, nothing cropped, so that its places stay in it."""
    size = {"height": SIZE, "width": SIZE}
    return CLIPImageProcessorPil(
        size=size,
        do_center_crop=False,
        crop_size=size,
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: four special tokens, 256 bytes, and merges until every word of the corpus is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        min_frequency=1,
        special_tokens=[_PAD, _START, _END, _IMAGE],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_START,
        eos_token=_END,
        pad_token=_PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": _IMAGE},
    )


def _corpus() -> list[str]:
    """All text that the model is trained on, as it stands in a prompt."""
    return [
        *(f" USER: \n{question} ASSISTANT:" for question in QUESTIONS),
        *(f" {report(finding)}" for finding in FINDINGS),
    ]
