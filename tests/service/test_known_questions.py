"""What was asked before is answered without waiting for a thread: over a real port, with a simulated runtime."""

from __future__ import annotations

import threading

from running import ANSWER, Running, SimulatedRuntime, chat, data_uri, noise, running, talking

from edgeq.runtime.scheduler.errors import BusyError
from edgeq.runtime.vlm.api import GenerationRequest
from edgeq.runtime.vlm.stream import Stream

pytest_plugins = ["one_service"]

PATH = "/v1/chat/completions"


class KnowingRuntime(SimulatedRuntime):
    """Knows all that it is asked: simulated."""

    def __init__(self) -> None:
        super().__init__()
        self.knew_in: list[str] = []

    def submit_known(self, ask: GenerationRequest, deadline_s: float | None = None) -> Stream:
        self.knew_in.append(threading.current_thread().name)
        return super().submit(ask, deadline_s)

    def submit(self, ask: GenerationRequest, deadline_s: float | None = None) -> Stream:
        raise AssertionError(f"it knows {ask.turns} for {deadline_s} s")


def test_the_event_loop_asks_for_what_is_known() -> None:
    """A bad request gets the same error as any other."""
    runtime = KnowingRuntime()
    runtime.refuses("busy?", BusyError(3))
    with running(talking(runtime)) as service:
        answer = service.http.post(PATH, json=chat()).json()
        assert answer["choices"][0]["message"]["content"] == ANSWER
        assert service.http.post(PATH, json=chat("busy?")).status_code == 429
        no_image = service.http.post(PATH, json=chat(image="data:image/png;base64,AAAA"))
        assert no_image.status_code == 415
        assert no_image.json()["error"]["param"] == "messages.0.content.0"
    assert len(runtime.knew_in) == 2
    assert len(set(runtime.knew_in)) == 1, "the event loop's own thread"
    assert "worker thread" not in runtime.knew_in[0], "none of anyio's"


def test_large_images_are_left_to_threads(service: Running, runtime: SimulatedRuntime) -> None:
    """Noise does not compress: 100 x 100 pixels are 40 KiB in base64, 150 x 150 are 90."""
    for side in (100, 150):
        assert service.http.post(PATH, json=chat(image=data_uri(noise(side)))).status_code == 200
    assert (len(runtime.asks), runtime.looked_up) == (2, 1)
