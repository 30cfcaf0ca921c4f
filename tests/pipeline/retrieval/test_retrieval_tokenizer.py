"""A two-tower model's tokenizer is put into a bundle, and proved against transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from two_towers import CONTEXT, SENTENCES, write_clip_tokenizer, write_siglip_tokenizer

from edgeq.bundle.retrieval_settings import RetrievalSettings
from edgeq.errors import ModelError
from edgeq.pipeline.retrieval import tokenizer as module
from edgeq.pipeline.retrieval.tokenizer import PROBES, prove_tokenizer, save_tokenizer, tokenizer_pad_id


def settings_of(kind: str, size: int, **changes: Any) -> RetrievalSettings:
    """Of a tokenizer of `two_towers`."""
    clip = {"padding": "trim", "pooling": "first", "eos_id": size - 1, "pad_id": size - 1}
    siglip = {"padding": "fixed", "pooling": "last", "eos_id": None, "pad_id": 1}
    values = {"model_type": kind, "dimension": 4, "vision": "v.onnx", "text": "t.onnx", "context": CONTEXT}
    return RetrievalSettings.model_validate(
        {**values, "logit_scale": 1.0, **(clip if kind == "clip" else siglip), **changes}
    )


def written(directory: Path, kind: str) -> tuple[Path, RetrievalSettings]:
    """A model directory with a tokenizer alone, and settings that go with it."""
    directory.mkdir()
    size = (write_clip_tokenizer if kind == "clip" else write_siglip_tokenizer)(directory)
    return directory, settings_of(kind, size)


def say(directory: Path, values: Mapping[str, Any]) -> None:
    """Change tokenizer_config.json."""
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def bundle_of(model: Path, tmp_path: Path) -> Path:
    """A bundle's directory with the tokenizer alone."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    assert save_tokenizer(model, bundle) == bundle / "tokenizer.json"
    assert [file.name for file in bundle.iterdir()] == ["tokenizer.json"]
    return bundle


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_what_is_saved_does_what_transformers_does(kind: str, tmp_path: Path) -> None:
    model, settings = written(tmp_path / "model", kind)
    bundle = bundle_of(model, tmp_path)
    assert prove_tokenizer(bundle, SENTENCES, settings, model=model) > len(SENTENCES) + len(PROBES)
    prove_tokenizer(model, SENTENCES, settings)


def test_truncation_and_padding_are_not_saved(tmp_path: Path) -> None:
    model, settings = written(tmp_path / "model", "clip")
    own = Tokenizer.from_file(str(model / "tokenizer.json"))
    own.enable_truncation(4)
    own.enable_padding(length=4)
    own.save(str(model / "tokenizer.json"))
    bundle = bundle_of(model, tmp_path)
    content = json.loads((bundle / "tokenizer.json").read_text())
    assert content["truncation"] is None
    assert content["padding"] is None
    prove_tokenizer(bundle, SENTENCES, settings, model=model)


def test_what_transformers_makes_again_is_saved_as_it_makes_it(tmp_path: Path) -> None:
    """CLIP's class takes no normalizer and no pre-tokenizer from the file."""
    model, settings = written(tmp_path / "model", "clip")
    other = Tokenizer.from_file(str(model / "tokenizer.json"))
    other.normalizer = normalizers.NFD()
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    other.save(str(model / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"'A Photo of a CAT\.' other tokens than transformers' CLIPTokenizer"):
        prove_tokenizer(model, ["A Photo of a CAT."], settings)
    prove_tokenizer(bundle_of(model, tmp_path), SENTENCES, settings, model=model)


def test_what_tokenizer_config_adds_is_saved(tmp_path: Path) -> None:
    model, settings = written(tmp_path / "model", "siglip")
    say(model, {"extra_special_tokens": ["<extra>"]})
    with pytest.raises(ModelError, match="'a photo <extra> of a cat' other tokens"):
        prove_tokenizer(model, ["a photo <extra> of a cat"], settings)
    bundle = bundle_of(model, tmp_path)
    prove_tokenizer(bundle, ["a photo <extra> of a cat"], settings, model=model)
    saved = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    assert saved.encode("a <extra>").ids[-2:] == [saved.token_to_id("<extra>"), 1]


def test_siglip_2_in_small_letters_is_saved(tmp_path: Path) -> None:
    """transformers' class puts that before the normalizer; the file does not have it."""
    model = tmp_path / "model"
    tokens = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    gemma = transformers.GemmaTokenizer(vocabulary, [], add_bos_token=False, add_eos_token=True, padding_side="right")
    gemma.save_pretrained(model)
    say(model, {"tokenizer_class": "Siglip2Tokenizer"})
    settings = settings_of("siglip", len(tokens), pad_id=0)
    assert tokenizer_pad_id(model) == 0
    with pytest.raises(ModelError, match="'A Bab' other tokens than transformers' Siglip2Tokenizer"):
        prove_tokenizer(model, ["A Bab"], settings)
    bundle = bundle_of(model, tmp_path)
    prove_tokenizer(bundle, ["A Bab"], settings, model=model)
    with pytest.raises(ModelError) as caught:
        prove_tokenizer(bundle, [], settings_of("siglip", len(tokens)), model=model)
    assert caught.value.causes[0] == "the tokenizer pads with token 0, the settings say 1"


@pytest.mark.parametrize(
    ("kind", "config", "first", "cause"),
    [
        ("clip", {"truncation_side": "left"}, "it's 3 o'clock", "truncation_side left"),
        ("siglip", {"padding_side": "left"}, "a photo of a cat", "padding_side left"),
        ("clip", {"split_special_tokens": True}, "<|startoftext|>", "split_special_tokens"),
    ],
)
def test_what_no_file_can_say_is_refused_with_its_cause(
    kind: str, config: dict[str, Any], first: str, cause: str, tmp_path: Path
) -> None:
    model, settings = written(tmp_path / "model", kind)
    say(model, config)
    bundle = bundle_of(model, tmp_path)
    with pytest.raises(ModelError, match="gives the text") as caught:
        prove_tokenizer(bundle, ["a photo of a cat"], settings, model=model)
    assert first in caught.value.what
    assert cause in caught.value.causes[0]


def test_the_first_text_that_differs_is_named(tmp_path: Path) -> None:
    model, settings = written(tmp_path / "model", "clip")
    bundle = bundle_of(model, tmp_path)
    other = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    other.add_tokens([AddedToken("dog", normalized=False)])
    other.save(str(bundle / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"gives the text 'hotdog' other tokens .*: \[\d+.*\] instead of \[\d+"):
        prove_tokenizer(bundle, ["a cat", "hotdog", "dog"], settings, model=model)


def test_the_file_is_copied_where_transformers_reads_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SigLIP's own class is in Python, and needs sentencepiece: here one with the same two properties."""
    model, settings = written(tmp_path / "model", "siglip")
    reference = InPython(model)
    monkeypatch.setattr(module, "load_tokenizer", lambda _: reference)
    bundle = bundle_of(model, tmp_path)
    assert json.loads((bundle / "tokenizer.json").read_text()) == json.loads((model / "tokenizer.json").read_text())
    prove_tokenizer(bundle, SENTENCES, settings, model=model)
    (model / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer\.json, and transformers' InPython is none"):
        save_tokenizer(model, tmp_path)


class InPython:
    """A tokenizer that is none of the package `tokenizers` from outside."""

    def __init__(self, model: Path) -> None:
        self._own = transformers.AutoTokenizer.from_pretrained(model)
        self.truncation_side = self.padding_side = "right"
        self.pad_token_id = 1
        self.all_special_tokens = self._own.all_special_tokens

    def __call__(self, text: str, **options: Any) -> Any:
        """As SigLIP's: a piece of nothing stands before a text that begins with a space."""
        given = self._own(text, **options)
        if text[:1].isspace():
            given["input_ids"] = [self._own.convert_tokens_to_ids("▁"), *given["input_ids"]][:CONTEXT]
        return given


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_token_that_pads_is_the_tokenizers(kind: str, tmp_path: Path) -> None:
    model, settings = written(tmp_path / "model", kind)
    assert tokenizer_pad_id(model) == settings.pad_id


def test_a_tokenizer_without_a_token_that_pads_is_refused(tmp_path: Path) -> None:
    model, _ = written(tmp_path / "model", "siglip")
    say(model, {"pad_token": None})
    with pytest.raises(ModelError, match="has no token to pad with"):
        tokenizer_pad_id(model)


def test_a_directory_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no tokenizer that can be used"):
        save_tokenizer(tmp_path, tmp_path)
