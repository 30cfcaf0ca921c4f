"""Chat templates and tokenizers that make much out of little, or never end: killed in a child, and refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import vlm
from tokenizers import Tokenizer

from edgeq.confined import worker
from edgeq.confined.limits import Limits
from edgeq.errors import InputError, LimitError, ModelError
from edgeq.runtime import chat_template, tokenizer_trial
from edgeq.runtime.chat_template import chat_text
from edgeq.runtime.retrieval.tokenizer import read_tokenizer
from edgeq.runtime.tokenizer_trial import growth, try_tokenizer
from edgeq.runtime.vlm.prompt import load_tokenizer

DEMO = Path(vlm.__file__).parents[2] / "edgeq" / "demo" / "weights-vlm"
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "é 東 \U0001f600?"}]},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(DEMO)


@pytest.fixture
def template(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets another template for one test, and small limits."""
    monkeypatch.setattr(chat_template, "_SECONDS", 0.5)
    before = tokenizer.chat_template

    def change(text: str) -> Any:
        tokenizer.chat_template = text
        return tokenizer

    yield change
    tokenizer.chat_template = before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content[-1].text }}{{ eos_token }}{% endfor %}",
        "{{ messages | tojson }}{% if add_generation_prompt %}!{% endif %}{{ namespace(a=1).a }}",
        "{%- for m in messages %}\n  {%- if loop.last %}{% break %}{% endif %}\n{{ m }}\n{% endfor %}",
    ],
)
def test_a_child_writes_what_transformers_writes(tokenizer: Any, template: Any, text: str) -> None:
    given = template(text) if text else tokenizer
    expected = given.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert chat_text(given, MESSAGES) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", r"took more than 0\.5 s"),
        ("{{ 'a' * 3000000000 }}", "took more than 268 MB"),
        ("{{ messages[0].role.ljust(3000000000) }}", "took more than 268 MB"),
        ("{% for a in range(99999) %}{{ messages }}{% endfor %}", "has more than|took more than"),
        ("{% for a in range(9999) %}aaaaaaaaaaaaaaa{% endfor %}", "what it gives has more than"),
    ],
)
def test_a_template_that_never_ends_or_swells_is_refused(template: Any, text: str, words: str) -> None:
    with pytest.raises(LimitError, match=words):
        chat_text(template(text), MESSAGES)


def test_what_a_template_says_is_told(template: Any) -> None:
    with pytest.raises(InputError, match="roles must alternate"):
        chat_text(template("{{ raise_exception('roles must alternate') }}"), MESSAGES)


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


SWELLING = [replace({"String": "a"}, "a" * 10)] * 20
SEQUENCE = {"type": "Sequence", "normalizers": SWELLING}


def test_growth_is_worked_out() -> None:
    assert growth(None) == 1
    assert growth(replace({"String": " "}, "▁")) == 1
    assert growth(replace({"Regex": " +"}, " ")) == 2
    assert growth(replace({"String": "``"}, "a" * 6)) == 3
    assert growth(SEQUENCE) == pytest.approx(1e20)
    assert growth({"type": "Sequence", "normalizers": [SEQUENCE, SEQUENCE]}) == pytest.approx(1e40)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"normalizer": SEQUENCE}, ModelError, "its normalizer makes a text 100,000,000,000,000,000,000 times as long"),
        ({"decoder": {"type": "Sequence", "decoders": SWELLING}}, ModelError, "its decoder makes a text"),
        (
            {
                "pre_tokenizer": {
                    "type": "Split",
                    "pattern": {"Regex": "(a+)+$x|(a|a)+z"},
                    "behavior": "Isolated",
                    "invert": False,
                }
            },
            LimitError,
            "took more than|ended the process",
        ),
    ],
)
def test_a_tokenizer_that_swells_or_never_ends_is_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    said = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({**said, **changes}))
    with pytest.raises(error, match=words):
        try_tokenizer(file, limits=Limits(5, 1 << 30))


def test_a_tokenizer_of_much_memory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    said = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    file.write_text(json.dumps({**said, "of": "x" * (64 << 20)}))  # more than a child has lying about
    with pytest.raises(LimitError):
        try_tokenizer(file, limits=Limits(60, 1 << 12))


def test_the_same_bytes_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def run_confined(*given: Any, what: str, **options: Any) -> object:
        tried.append(what)
        return worker.run_confined(*given, what=what, **options)

    monkeypatch.setattr(tokenizer_trial, "run_confined", run_confined)
    said = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    for file in (first, second):
        file.write_text(json.dumps({**said, "of": str(tmp_path)}))
    for file in (first, second, first):
        try_tokenizer(file)
    assert tried == [str(first)]
    second.write_text(json.dumps({**said, "normalizer": SEQUENCE}))
    for _ in range(2):
        with pytest.raises(ModelError, match="its normalizer makes a text"):
            try_tokenizer(second)
    assert tried == [str(first), str(second), str(second)], "bytes that changed, and what did not pass"


def test_each_tokenizer_is_looked_at_before_it_is_loaded(tmp_path: Path) -> None:
    said = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps({**said, "normalizer": SEQUENCE}))
    for load in (read_tokenizer, load_tokenizer):
        with pytest.raises(ModelError, match="its normalizer makes a text"):
            load(tmp_path)
    assert isinstance(read_tokenizer(DEMO), Tokenizer)
