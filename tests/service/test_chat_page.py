"""The page of a service that answers questions, in a real browser; what answers is simulated.

`make test` passes over it where there is no browser.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from chromium import chromium
from running import ANSWER, HOLD, USAGE, Running, SimulatedRuntime, opened, picture, running, said, talking
from selenium.webdriver import Chrome, Keys
from served_page import HOSTILE, TOKEN, Page

from edgeq.errors import EngineError
from edgeq.runtime.scheduler.errors import BusyError
from edgeq.runtime.vlm.api import ImagePlace

LAST = "#conversation .said:last-child"
COSTS = (
    "11 tokens read, 4 of images, 5 known already · 4 answered · first token after 1.50 s, 250 ms of it waiting"
    " · 1.00 tokens/s · the service has "
)


@pytest.fixture(scope="module")
def runtime() -> SimulatedRuntime:
    return SimulatedRuntime()


@pytest.fixture(scope="module")
def service(runtime: SimulatedRuntime) -> Iterator[Running]:
    with running(talking(runtime), token=TOKEN, max_images=3) as service:
        yield service


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium"), camera=True) as browser:
        yield browser


class ChatPage(Page):
    """With a conversation."""

    def ask(self, text: str) -> None:
        self["question"].send_keys(text + Keys.ENTER)

    def answered(self, count: int) -> str:
        """The latest answer, once there are so many and it has ended."""
        self.until("#conversation .said:not(.mine)", count)
        self.wait(lambda: not self.all("[aria-busy]") and self["ask"].is_displayed())
        return self.texts(f"{LAST} > p:first-child")[0]


@pytest.fixture
def page(browser: Chrome, service: Running) -> ChatPage:
    """Opened, with the token given."""
    page = ChatPage(browser, service.url)
    page.enter()
    page.until("#question", 1)
    return page


def test_nothing_is_there_without_the_token(browser: Chrome, service: Running) -> None:
    page = ChatPage(browser, service.url)
    page.until("#token", 1)
    assert page.focused() == "token"
    assert not page["overview"].is_displayed()
    assert page.faults() == []
    page.enter("another-token-of-16")
    page.wait(lambda: "not the token" in page["status"].text)
    assert not page["chat"].is_displayed()
    page.enter()
    page.until("#question", 1)
    assert page.run("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    assert TOKEN not in page.browser.current_url
    service.service.access.change(["another-token-of-16-or-more"])
    try:
        page.ask("what is it?")
        page.until("#token", 1)
        assert page.texts("#conversation *") == []
    finally:
        service.service.access.change([TOKEN])


def test_a_picture_is_dropped_and_asked_about(page: ChatPage, runtime: SimulatedRuntime) -> None:
    assert page.browser.title == "Ask about images"
    page.give(picture((1, 2, 3)), "first.png", "drop")
    page.give(picture((4, 5, 6)), "second.png", "paste")
    assert [each.get_attribute("alt") for each in page.until("#chosen img", 2)] == [
        "A picture to ask about: first.png",
        "A picture to ask about: second.png",
    ]
    page.ask("what is it?")
    assert page.answered(1) == ANSWER
    asked = runtime.asks[-1]
    assert [opened(image).getpixel((0, 0)) for image in asked.images] == [(1, 2, 3), (4, 5, 6)]
    assert asked.turns[-1].texts == ("what is it?",)
    page.until(f"{LAST} .facts", 1)
    assert page.texts(f"{LAST} .facts")[0].startswith(COSTS)
    assert page.texts(f"{LAST} .note") == []
    assert not page["chosen"].is_displayed(), "the next question is about others"
    assert page.complaints() == []
    assert page.asked_elsewhere() == []


def test_a_conversation_with_several_pictures(page: ChatPage, runtime: SimulatedRuntime) -> None:
    for number in (1, 2):
        page.give(picture((number, 0, 0)), f"{number}.png")
        page.ask(f"question {number}")
        assert page.answered(number) == ANSWER
    page.ask("and both?")
    page.answered(3)
    turns = runtime.asks[-1].turns
    assert [turn.role for turn in turns] == ["user", "assistant"] * 2 + ["user"]
    assert [sum(isinstance(part, ImagePlace) for part in turn.parts) for turn in turns] == [1, 0, 1, 0, 0]
    assert [opened(image).getpixel((0, 0)) for image in runtime.asks[-1].images] == [(1, 0, 0), (2, 0, 0)]
    assert [each.get_attribute("alt") for each in page.all("#conversation img")] == ["1.png", "2.png"]
    page["anew"].click()
    assert page.texts("#conversation *") == []
    page.ask("what is it?")
    page.answered(1)
    assert len(runtime.asks[-1].turns) == 1


def test_an_answer_is_shown_as_it_is_made_and_can_be_stopped(page: ChatPage, runtime: SimulatedRuntime) -> None:
    page.ask(HOLD)
    page.wait(lambda: page.texts(f"{LAST} [aria-busy]") == ["One piece"])
    runtime.says(" and another")
    page.wait(lambda: page.texts(f"{LAST} [aria-busy]") == ["One piece and another"])
    page.wait(lambda: "1 of 4 places taken" in page["figures"].text)
    assert not page["ask"].is_displayed()
    page["stop"].click()
    assert page.answered(1) == "One piece and another"
    assert runtime.cancelled.get(timeout=20)
    assert page.texts(f"{LAST} .note") == ["Stopped here."]
    assert page.texts(f"{LAST} .facts") == [], "what it cost was not told"
    page.wait(lambda: page.focused() == "question")
    page.ask("what is it?")
    page.answered(2)
    assert [turn.texts for turn in runtime.asks[-1].turns] == [(HOLD,), ("One piece and another",), ("what is it?",)]


def test_an_answer_that_was_cut_says_so(page: ChatPage, runtime: SimulatedRuntime) -> None:
    runtime.answers("a short one", said("One piece", "limit", replace(USAGE, answer_tokens=1, queue_seconds=0.0)))
    page["chat"].find_element("tag name", "summary").click()
    page["longest"].send_keys("1")
    page["temperature"].send_keys("0.5")
    page.ask("a short one")
    assert page.answered(1) == "One piece"
    assert (runtime.asks[-1].max_new_tokens, runtime.asks[-1].sampling.temperature) == (1, 0.5)
    assert page.texts(f"{LAST} .note") == ["Cut off here: the longest answer or the end of the context was reached."]
    page.until(f"{LAST} .facts", 1)
    facts = page.texts(f"{LAST} .facts")[0]
    assert "first token after 1.50 s · the service" in facts, "no speed of one token, and no wait"


def test_errors_are_the_services_own_words(page: ChatPage, runtime: SimulatedRuntime) -> None:
    runtime.refuses("refused", BusyError(7))
    runtime.answers("broken", EngineError("the graph gave no number"))
    page.give(picture(), "kept.png")
    page.ask("refused")
    page.answered(1)
    told = "too many requests wait already. Try again in 7 s. What follows does not know of it."
    assert page.texts(f"{LAST} .fault") == [told]
    assert page["question"].get_attribute("value") == "refused", "it is put back, with its picture"
    assert len(page.until("#chosen img", 1)) == 1
    page["question"].clear()
    page.all("#chosen button")[0].click()
    assert page.focused() == "question", "what was clicked is gone"
    page.ask("broken")
    assert page.answered(2) == "One piece"
    assert page.texts(f"{LAST} .fault") == ["the graph gave no number. What follows does not know of it."]
    page["question"].clear()
    page.give(b"no picture", "no.png")
    page.ask("what is it?")
    page.answered(3)
    assert "image" in page.texts(f"{LAST} .fault")[0]
    page.all("#chosen button")[0].click()
    page["question"].clear()
    page.ask("what is it?")
    page.answered(4)
    assert len(runtime.asks[-1].turns) == 1, "nothing that failed is told to the model"
    page["question"].send_keys("  " + Keys.ENTER)
    assert page["status"].text == "Write a question."
    assert page.complaints() == []


def test_the_service_goes_away_in_the_middle(browser: Chrome) -> None:
    with running(talking(SimulatedRuntime()), token=TOKEN) as service:
        page = ChatPage(browser, service.url)
        page.enter()
        page.until("#question", 1)
        page.ask(HOLD)
        page.wait(lambda: page.texts(f"{LAST} [aria-busy]") == ["One piece"])
        service.server.stop()
        service.server.stop()
        page.answered(1)
        page.wait(lambda: page["unseen"].text == "The service cannot be reached.")
        assert page["figures"].text == "", "what was true before need not be true now"


def test_text_stays_text(page: ChatPage, runtime: SimulatedRuntime) -> None:
    runtime.answers(HOSTILE, said(HOSTILE))
    page.ask(HOSTILE)
    assert page.answered(1) == "One piece"
    runtime.refuses("hostile", EngineError(HOSTILE))
    page.ask("hostile")
    page.answered(2)
    assert page.texts(".mine p") == [HOSTILE, "hostile"]
    assert HOSTILE in page.texts(f"{LAST} .fault")[0]
    assert page.browser.title == "Ask about images"
    assert page.complaints() == []
    page.run("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x'}))")
    assert any("Content Security Policy" in line for line in page.complaints()), "the policy holds, and is heard of"


def test_a_keyboard_suffices_in_a_narrow_window(page: ChatPage, runtime: SimulatedRuntime) -> None:
    page.narrow()
    assert page.focused() == "question"
    page["question"].send_keys("one line", Keys.SHIFT + Keys.ENTER + Keys.NULL, "and another", Keys.ENTER)
    page.answered(1)
    assert runtime.asks[-1].turns[-1].texts == ("one line\nand another",)
    passed = []
    for _ in range(4):
        page.press(Keys.TAB)
        passed.append(page.focused())
    assert passed == ["file", "camera", "ask", "anew"]
    page["question"].send_keys(HOLD)
    page["ask"].send_keys(Keys.ENTER)
    page.wait(lambda: page.texts(f"{LAST} [aria-busy]") == ["One piece"])
    assert page.focused() == "stop"
    page.press(Keys.ESCAPE)
    page.answered(2)
    assert page.texts(f"{LAST} .note") == ["Stopped here."]
    assert page.focused() == "question"
    assert page.fits()
    assert page.faults() == []


def test_the_cameras_picture(page: ChatPage, runtime: SimulatedRuntime) -> None:
    """The camera is Chromium's own, simulated: a green one."""
    page["camera"].send_keys(Keys.ENTER)
    page.wait(lambda: page.focused() == "shoot")
    assert page.faults() == []
    page.press(Keys.ENTER)
    page.until("#chosen img", 1)
    assert page.run("return document.getElementById('seen-now').srcObject") is None, "it is switched off"
    page.ask("what is it?")
    page.answered(1)
    seen = np.asarray(opened(runtime.asks[-1].images[0]))
    assert min(seen.shape[:2]) > 100
    red, green, blue = seen.mean((0, 1))
    assert green > max(red, blue)


def test_a_wide_window_passes_axe(page: ChatPage) -> None:
    page.give(picture(), "1.png")
    page.ask("what is it?")
    page.answered(1)
    page.give(picture(), "2.png")
    page.until(f"{LAST} .facts", 1)
    assert page["overview"].is_displayed()
    assert page.faults() == []
    page.run("document.querySelector('#conversation img').removeAttribute('alt')")
    assert any("image-alt" in fault for fault in page.faults()), "what is wrong is found"


def test_what_is_not_known_is_not_shown(page: ChatPage) -> None:
    page.until("#overview", 1)
    shown = dict(zip(page.texts("#figures dt"), page.texts("#figures div"), strict=True))
    assert "not compared" in shown["Canaries"]
    assert "0 of 4 places taken" in shown["Queue"]
    assert "of the service" in shown["Memory"]
    assert "Power" not in shown, "this machine is no Jetson"
