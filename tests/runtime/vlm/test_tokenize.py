"""What the model reads of a conversation, and images that are not prepared twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from decoders import noise
from PIL import Image
from talk import chatty_vlm, tiny_settings

from edgeq.errors import InputError, ModelError
from edgeq.runtime.scheduler.errors import ContextError
from edgeq.runtime.vlm import tokenize
from edgeq.runtime.vlm.api import IMAGE, EncodedImage, GenerationRequest, Turn
from edgeq.runtime.vlm.feature_cache import image_digest
from edgeq.runtime.vlm.prompt import ProcessedImage, Prompt, Prompter
from edgeq.runtime.vlm.tokenize import PromptBuilder


def prompter(directory: Path, family: str = "llava") -> Prompter:
    settings = tiny_settings(family)
    return Prompter.open(directory, settings)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Prompter:
    return prompter(chatty_vlm(tmp_path_factory.mktemp("llava")))


def written(mine: Prompter, ask: GenerationRequest, context: int = 128) -> str:
    """The prompt as text, the image's places included."""
    question = PromptBuilder(mine, context).question(ask)
    text: str = mine.tokenizer.decode(question.prompt.ids)
    return text


def test_one_question_is_written_as_for_a_pair(llava: Prompter) -> None:
    image = noise(1)
    question = PromptBuilder(llava, 100).question(GenerationRequest.about(image, "what is it?", 500))
    assert question.prompt.ids.tolist() == llava.prompt("what is it?", [llava.pixels(image).layout]).ids.tolist()
    assert question.prompt.image_tokens == 4
    assert question.limit == 100 - len(question.prompt.ids), "the context ends before 500 tokens"


def test_a_conversation(llava: Prompter) -> None:
    """The template writes `<s>`, all parts in their order, and a colon."""
    turns = (
        Turn.said("system", "be brief."),
        Turn.said("user", "what is it?", images=1),
        Turn.said("assistant", "a crack"),
        Turn.said("user", "where?"),
    )
    assert (
        written(llava, GenerationRequest((noise(1),), turns))
        == "<s>be brief." + "<image>" * 4 + "what is it?a crackwhere?:"
    )
    assert written(llava, GenerationRequest((), turns[2:])) == "<s>a crackwhere?:"
    assert PromptBuilder(llava, 128).question(GenerationRequest((), turns[3:])).images == ()


def test_tiles_of_a_conversation_stand_where_the_processor_puts_them(tmp_path: Path) -> None:
    mine = prompter(chatty_vlm(tmp_path, "idefics3"), "idefics3")
    image = noise(1, width=56, height=28)
    alone = written(mine, GenerationRequest.about(image, "what?"))
    assert alone.count("<image>") == 3, "two tiles and the whole, a place for each"
    longer = written(
        mine,
        GenerationRequest(
            (image,), (Turn.said("user", "what?", images=1), Turn.said("assistant", "x"), Turn.said("user", "y"))
        ),
    )
    assert longer == alone.removesuffix(":") + "xy:"


def test_an_image_is_prepared_once(llava: Prompter, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt_builder, prepare = PromptBuilder(llava, 128), llava.pixels
    seen: list[Image.Image] = []

    def watched(image: Image.Image) -> ProcessedImage:
        seen.append(image)
        return prepare(image)

    monkeypatch.setattr(llava, "pixels", watched)
    first, again = (prompt_builder.question(GenerationRequest.about(noise(1), text)) for text in ("what?", "where?"))
    assert len(seen) == 1
    assert first.images[0].digest == again.images[0].digest
    assert first.images[0].pixels is not None
    assert again.images[0].pixels is None
    assert again.prompt.ids.tolist() == llava.prompt("where?", [prepare(noise(1)).layout]).ids.tolist()
    prompt_builder.question(GenerationRequest.about(noise(2), "what?"))
    assert len(seen) == 2


def test_a_prompt_is_written_once_for_images_of_one_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = prompter(chatty_vlm(tmp_path, "idefics3"), "idefics3")
    prompt_builder, write = PromptBuilder(mine, 128), mine.written
    texts: list[str] = []

    def watched(text: str, *rest: Any) -> Prompt:
        texts.append(text)
        return write(text, *rest)

    monkeypatch.setattr(mine, "written", watched)
    first, again = (
        prompt_builder.question(GenerationRequest.about(noise(seed), "what?")).prompt.ids for seed in (1, 2)
    )
    assert first.tolist() == again.tolist()
    assert len(texts) == 1
    wide = GenerationRequest.about(noise(1, width=56, height=28), "what?")
    assert (
        prompt_builder.question(wide).prompt.ids.tolist()
        == PromptBuilder(mine, 128).question(wide).prompt.ids.tolist()
        != first.tolist()
    )
    assert len(texts) == 3, "another layout, written by each of the two"
    prompt_builder.question(GenerationRequest.about(noise(1), "where?"))
    assert len(texts) == 4


def test_what_was_asked_before_is_known_whatever_other_threads_do(
    llava: Prompter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is tokenized or decoded for it, so that it waits for no thread that does."""
    prompt_builder = PromptBuilder(llava, 128)
    file = EncodedImage(b"\1", lambda data: noise(data[0]))
    ask = GenerationRequest.about(file, "what?")
    assert prompt_builder.known_question(ask) is None
    asked = prompt_builder.question(ask)

    for name in ("written", "pixels"):
        monkeypatch.setattr(llava, name, None)
    known = prompt_builder.known_question(ask)
    assert known is not None
    assert known.prompt is asked.prompt
    assert [image.digest for image in known.images] == [image.digest for image in asked.images]
    assert known.images[0].pixels is None
    other = EncodedImage(b"\2", lambda data: noise(data[0]))
    for not_known in ((file, "where?"), (other, "what?"), (noise(1), "what?")):
        assert prompt_builder.known_question(GenerationRequest.about(*not_known)) is None


def test_what_is_known_may_still_be_too_long(llava: Prompter) -> None:
    ask = GenerationRequest((), (Turn.said("user", "what?"),))
    length = len(PromptBuilder(llava, 128).question(ask).prompt.ids)
    prompt_builder = PromptBuilder(llava, length + 1)
    prompt_builder.question(ask)
    prompt_builder._context = length
    with pytest.raises(ContextError):
        prompt_builder.known_question(ask)


def test_a_long_prompt_is_not_remembered(llava: Prompter, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt_builder, write = PromptBuilder(llava, 4096), llava.written
    lengths: list[int] = []

    def watched(text: str, *rest: Any) -> Prompt:
        lengths.append(len(text))
        return write(text, *rest)

    monkeypatch.setattr(llava, "written", watched)
    for _ in range(2):
        prompt_builder.question(GenerationRequest((), (Turn.said("user", "a" * 2000),)))
    assert lengths == [lengths[0]] * 2


def test_a_file_is_decoded_once(llava: Prompter) -> None:
    prompt_builder = PromptBuilder(llava, 128)
    decoded: list[bytes] = []

    def decode(data: bytes) -> Image.Image:
        decoded.append(data)
        return noise(data[0])

    first, again, other = (
        prompt_builder.question(GenerationRequest.about(EncodedImage(data, decode), "what?")).images[0]
        for data in (b"\1", b"\1", b"\2")
    )
    assert decoded == [b"\1", b"\2"]
    assert first.digest == again.digest != other.digest
    assert first.digest == image_digest(noise(1)), "however it was encoded"
    assert again.pixels is None
    assert again.opened().tobytes() == noise(1).tobytes()


def test_a_file_that_cannot_be_decoded_is_not_remembered(llava: Prompter) -> None:
    def fail(data: bytes) -> Image.Image:
        raise InputError(f"no image: {data!r}")

    prompt_builder = PromptBuilder(llava, 128)
    for _ in range(2):
        with pytest.raises(InputError, match="no image"):
            prompt_builder.question(GenerationRequest.about(EncodedImage(b"\1", fail), "what?"))


def test_a_large_image_does_not_wait_as_it_is(llava: Prompter) -> None:
    prompt_builder = PromptBuilder(llava, 96)
    large = noise(1).resize((1100, 1000))
    for _ in range(2):
        picture = prompt_builder.question(GenerationRequest.about(large, "what?")).images[0]
        assert picture.image is None
        assert picture.pixels is not None


def test_many_images_do_not_wait_as_the_encoder_gets_them(llava: Prompter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is 3 x 28 x 28 numbers of four bytes; there is room for two of them."""
    monkeypatch.setattr(tokenize, "_PREPARED", 2 * 3 * 28 * 28 * 4)
    files = [EncodedImage(bytes([seed]), lambda data: noise(data[0])) for seed in range(4)]
    question = PromptBuilder(llava, 96).question(
        GenerationRequest(tuple(files), (Turn.said("user", "what?", images=4),))
    )
    assert [image.pixels is not None for image in question.images] == [True, True, False, False]
    assert question.images[3].opened().tobytes() == noise(3).tobytes()
    assert all(image.pixels is None or not image.pixels.given for image in question.images)


def test_a_large_file_does_not_wait_as_it_is(llava: Prompter) -> None:
    """What it holds is small enough to wait."""
    prompt_builder = PromptBuilder(llava, 96)
    large = EncodedImage(bytes(4 << 20), lambda _: noise(1))
    prompt_builder.question(GenerationRequest.about(large, "what?"))
    picture = prompt_builder.question(GenerationRequest.about(large, "what?")).images[0]
    assert isinstance(picture.image, Image.Image)


@pytest.mark.parametrize(
    ("image", "turns", "reason"),
    [
        (True, (Turn.said("user", "what?"),), "0 places for 1 images"),
        (False, (Turn.said("user", "what?", images=1),), "1 places for 0 images"),
        (True, (Turn.said("user", "a", images=1), Turn.said("user", "b", images=1)), "2 places for 1 images"),
        (
            True,
            (Turn.said("system", "a", images=1), Turn.said("user", "b")),
            "an image stands in a message of the system",
        ),
        (False, (Turn.said("user", "what?"), Turn.said("assistant", "a crack")), "nothing is asked"),
        (False, (), "nothing is asked"),
        (False, (Turn.said("system", " "), Turn.said("user", "what?")), "a message of the system is empty"),
    ],
)
def test_conversations_that_do_not_fit_together(image: bool, turns: tuple[Turn, ...], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        GenerationRequest((noise(1),) if image else (), turns)


def test_other_requests_that_cannot_be() -> None:
    with pytest.raises(InputError, match="an answer of 0 tokens is none"):
        GenerationRequest.about(noise(1), "what?", 0)
    for stop in (("",), ("x",) * 17, ("x" * 257,)):
        with pytest.raises(InputError, match="stop strings"):
            GenerationRequest.about(noise(1), "what?", stop=stop)


def test_what_anybody_says_is_no_control_token(llava: Prompter) -> None:
    """No matter who says it, and in whatever part; `<` and `>` are not in this vocabulary."""
    turns = (
        Turn.said("system", "a</s>"),
        Turn("user", (IMAGE, "<image>", "<s>b")),
        Turn.said("assistant", "<pad>"),
        Turn.said("user", "<<s>s>c"),
    )
    unknown = "<unk>"
    said = f"a{unknown}/s{unknown}" + "<image>" * 4 + f"{unknown}image{unknown}\n{unknown}s{unknown}b"
    said += f"{unknown}pad{unknown}{unknown}{unknown}s{unknown}s{unknown}c:"
    assert written(llava, GenerationRequest((noise(1),), turns)) == f"<s>{said}"


def test_what_the_model_cannot_read(llava: Prompter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="it takes 18 tokens, 4 of them of images, and the context is 18"):
        written(llava, GenerationRequest.about(noise(1), "what is it?!"), context=18)
    fixed = prompter(chatty_vlm(tmp_path, "paligemma"), "paligemma")
    with pytest.raises(InputError, match="answers one question about one image"):
        written(fixed, GenerationRequest((), (Turn.said("user", "what?"),)))
    monkeypatch.setattr(llava.tokenizer, "chat_template", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InputError) as refused:
        written(llava, GenerationRequest((), (Turn.said("user", "a"),)))
    assert refused.value.causes == ("roles must alternate",)


def test_a_template_that_forgets_the_image(llava: Prompter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llava.tokenizer, "chat_template", "{% for message in messages %}{% endfor %}hello")
    turns = (Turn.said("user", "a", images=1), Turn.said("assistant", "b"), Turn.said("user", "c"))
    with pytest.raises(ModelError, match="writes <image> 0 times"):
        written(llava, GenerationRequest((noise(1),), turns))


def test_a_text_that_never_fits_is_refused_before_it_is_tokenized(
    llava: Prompter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """128 tokens hold at most 127 times the longest token's characters and leave room for an answer."""
    longest = max(map(len, llava.tokenizer.get_vocab()))
    builder = PromptBuilder(llava, 128)
    seen: list[int] = []

    def written(_prompter: Prompter, turns: tuple[Turn, ...], _layouts: object) -> Prompt:
        seen.append(len(turns[0].texts[0]))
        raise InputError("it was tokenized")

    monkeypatch.setattr(tokenize, "_written", written)
    for length, error in ((127 * longest, "it was tokenized"), (127 * longest + 1, "at least 128 tokens")):
        with pytest.raises(InputError, match=error):
            builder.question(GenerationRequest((), (Turn.said("user", "x" * length),)))
    assert seen == [127 * longest]


def test_many_threads_write_prompts_at_once(llava: Prompter) -> None:
    """Each gets what it would get alone."""
    builder, alone = PromptBuilder(llava, 128), PromptBuilder(llava, 128)
    asks = [GenerationRequest((), (Turn.said("user", f"what is {'it ' * (number % 7)}?"),)) for number in range(200)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda ask: builder.question(ask).prompt.ids.tolist(), asks))
    assert found == [alone.question(ask).prompt.ids.tolist() for ask in asks]
