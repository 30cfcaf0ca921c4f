"""Conversations about several images, from the official client to a tiny model and back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest
from running import Running, data_uri, image_part, picture, running, text_part

from edgeq.bundle.manifest import write_manifest
from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.model.images.decode import decode_image
from edgeq.runtime.vlm.api import IMAGE, EncodedImage, GenerationRequest, Turn
from edgeq.runtime.vlm.prompt import Prompter
from edgeq.runtime.vlm.stream import Done
from edgeq.runtime.vlm.tokenize import PromptBuilder
from edgeq.service.load_bundle import open_served
from edgeq.service.settings import ServiceSettings

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

SETTINGS = ServiceSettings(threads=1, reserve_mib=64, memory_gb=2, cache_mib=1, backend="onnxruntime", canaries=False)
TOKENS = 6
_TEMPLATE = (
    "<s>{% for message in messages %}{{ 'A:' if message['role'] == 'assistant' else 'U:' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)
"""As the templates of real models: what was asked before stands at the beginning of what is asked now."""


@pytest.fixture(scope="module")
def bundle(prepared_vlm: PreparedVlm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a template for conversations."""
    made = Path(shutil.copytree(prepared_vlm.bundle, tmp_path_factory.mktemp("conversation") / "bundle"))
    (made / "chat_template.jinja").write_text(_TEMPLATE)
    write_manifest(made, kind="vision-language")
    return made


@pytest.fixture(scope="module")
def service(bundle: Path) -> Iterator[Running]:
    with running(open_served(bundle, SETTINGS)) as service:
        yield service


@pytest.fixture(scope="module")
def photographs(tiny_photographs: Path) -> tuple[bytes, ...]:
    """Files, each of another colour."""
    return tuple((tiny_photographs / colour / f"{colour}-000.jpg").read_bytes() for colour in ("red", "green", "blue"))


def image(data: bytes) -> dict[str, Any]:
    return image_part(data_uri(data, "image/jpeg"))


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def ask(service: Running, *messages: dict[str, Any]) -> Any:
    """The answer, whole."""
    given: Any = list(messages)
    return service.openai().chat.completions.create(
        model=service.service.served.name, messages=given, max_tokens=TOKENS
    )


def directly(service: Running, files: Sequence[bytes], *turns: Turn) -> Done:
    """What the runtime says without HTTP."""
    talk = service.service.served.talk
    assert talk is not None
    images = tuple(EncodedImage(data, lambda data: decode_image(data, "it")) for data in files)
    *_, last = talk.submit(GenerationRequest(images, turns, TOKENS))
    assert isinstance(last, Done)
    return last


def test_two_images_in_a_message_are_seen_in_their_order(
    service: Running, bundle: Path, photographs: tuple[bytes, ...]
) -> None:
    first, second = photographs[:2]
    turn = Turn("user", (IMAGE, "or", IMAGE, "?"))
    both, swapped = (
        ask(service, user(image(one), text_part("or"), image(other), text_part("?")))
        for one, other in ((first, second), (second, first))
    )
    wanted = [directly(service, files, turn) for files in ((first, second), (second, first))]
    assert [answer.choices[0].message.content for answer in (both, swapped)] == [done.text for done in wanted]
    assert wanted[0].token_ids != wanted[1].token_ids
    prompts = PromptBuilder(Prompter.open(bundle, VlmSettings.of(bundle)), 64)
    request = GenerationRequest((decode_image(first, "it"), decode_image(second, "it")), (turn,))
    ids = prompts.question(request).prompt.ids
    assert both.usage.prompt_tokens == swapped.usage.prompt_tokens == len(ids)
    assert both.usage.prompt_tokens_details.image_tokens == 8
    assert (ids == VlmSettings.of(bundle).image_token_id).nonzero()[0].tolist() == [3, 4, 5, 6, 9, 10, 11, 12]


def test_where_the_images_stand_among_the_texts_counts(service: Running, photographs: tuple[bytes, ...]) -> None:
    first, second = photographs[:2]
    apart = ask(service, user(image(first), text_part("ab"), image(second)))
    ahead = ask(service, user(image(first), image(second), text_part("ab")))
    assert (
        apart.choices[0].message.content == directly(service, (first, second), Turn("user", (IMAGE, "ab", IMAGE))).text
    )
    assert (
        ahead.choices[0].message.content == directly(service, (first, second), Turn("user", (IMAGE, IMAGE, "ab"))).text
    )
    assert apart.usage.prompt_tokens == ahead.usage.prompt_tokens


def test_a_conversation_pays_for_what_is_new_alone(service: Running) -> None:
    """All before the new question is known, but for the last answer; clients send every image again each time."""
    first, second = picture((1, 2, 3), 30, "JPEG"), picture((90, 80, 70), 30, "JPEG")  # of no other test
    talk = service.service.served.talk
    assert talk is not None
    messages = [user(text_part("see"), image(first), text_part("?"))]
    began = talk.snapshot()
    answer = ask(service, *messages)
    known = answer.usage.prompt_tokens
    for new in (user(text_part("so?")), user(image(second), text_part("or?"))):
        messages += [{"role": "assistant", "content": answer.choices[0].message.content}, new]
        answer = ask(service, *messages)
        assert answer.usage.prompt_tokens_details.cached_tokens == known
        known = answer.usage.prompt_tokens
    assert answer.usage.prompt_tokens_details.image_tokens == 8
    now = talk.snapshot()
    assert now.features.misses - began.features.misses == 2, "the encoder ran once for each image"
    said_before = messages[1]["content"], messages[3]["content"]
    turns = (
        Turn("user", ("see", IMAGE, "?")),
        Turn.said("assistant", said_before[0]),
        Turn.said("user", "so?"),
        Turn.said("assistant", said_before[1]),
        Turn.said("user", "or?", images=1),
    )
    assert answer.choices[0].message.content == directly(service, (first, second), *turns).text


def test_a_stream_says_the_same(service: Running, photographs: tuple[bytes, ...]) -> None:
    messages: Any = [user(*(image(data) for data in photographs[:2]), text_part("which?"))]
    pieces = service.openai().chat.completions.create(
        model=service.service.served.name,
        messages=messages,
        max_tokens=TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    got = list(pieces)
    text = "".join(piece.choices[0].delta.content or "" for piece in got if piece.choices)
    whole = ask(service, *messages)
    assert text.strip() == whole.choices[0].message.content
    assert got[-1].usage is not None
    assert got[-1].usage.prompt_tokens_details is not None
    assert got[-1].usage.prompt_tokens_details.image_tokens == 8


def test_without_an_image(service: Running) -> None:
    answer = ask(service, user(text_part("hello?")))
    assert answer.choices[0].message.content == directly(service, (), Turn.said("user", "hello?")).text
    assert answer.usage.prompt_tokens_details.image_tokens == 0


def test_a_conversation_that_does_not_fit(service: Running, photographs: tuple[bytes, ...]) -> None:
    """What the template writes, 8 images of 4 tokens, and 40 characters."""
    with service.openai() as client, pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(
            model=service.service.served.name,
            messages=[user(*[image(photographs[0])] * 8, text_part("x" * 40))],  # type: ignore[list-item]
        )
    assert (caught.value.status_code, caught.value.code) == (413, "context_length_exceeded")
    length = len(["<s>", *"U:"]) + 8 * 4 + 40 + len("\nA:")
    assert f"{length} tokens, 32 of them of images, and the context is 64" in caught.value.message


def test_what_is_served_says_how_much_it_takes(service: Running) -> None:
    (model,) = service.http.get("/v1/models").json()["data"]
    assert (model["max_model_len"], model["max_images"]) == (64, 8)
