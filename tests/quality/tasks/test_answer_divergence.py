"""The page that shows where two models part."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from PIL import Image

from edgeq.quality.tasks.answer_divergence import (
    MOST_SHOWN,
    Divergence,
    common_start,
    divergence_page,
    save_divergences,
)


def divergence(**changes: object) -> Divergence:
    given = {"item": 1, "image": "a.jpg", "question": "?", "reference": "a crack", "candidate": "a dent", "token": 1}
    return Divergence.model_validate({**given, **changes})


def read(_name: str) -> Image.Image:
    return Image.new("RGB", (640, 480), (200, 30, 30))


def test_what_two_answers_have_in_common() -> None:
    assert common_start((1, 2, 3), (1, 2, 4)) == 2
    assert common_start((1, 2), (1, 2, 4)) == 2
    assert common_start((), (1,)) == 0
    assert common_start("a crack", "a dent") == 2


def test_a_page_shows_picture_question_and_both_answers(tmp_path: Path) -> None:
    save_divergences([divergence(answer="a long crack")], read, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "1 of 1 answers" in page
    assert '<span class="same">a </span>crack' in page
    assert '<span class="same">a </span>dent' in page
    assert "<td>a long crack" in page
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    thumbnail = Image.open(io.BytesIO(base64.b64decode(data)))
    assert thumbnail.size == (160, 120)
    assert page.count("src=") == 1, "it needs no other file"


def test_what_models_and_users_write_is_no_markup() -> None:
    evil = '"><script>alert(1)</script>{0}'
    page = divergence_page(
        [divergence(image=evil, question=evil, reference=evil, candidate=evil + "x", answer=evil)], read
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 6


def test_a_page_has_an_end() -> None:
    page = divergence_page([divergence()] * (MOST_SHOWN + 1), read)
    assert f"{MOST_SHOWN} of {MOST_SHOWN + 1} answers" in page
    assert page.count("<img") == MOST_SHOWN
