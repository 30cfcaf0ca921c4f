"""A model's chat template for llama.cpp, which puts a mark of text where an image stands.

llama-server makes of a message with an image one text, the image a mark `<__media…__>` in it, without what the model's
template would write around an image. So the template is put into another, which makes parts of such a message again,
lets the model's own template write the conversation, and puts the marks where that wrote images.
"""

from __future__ import annotations

from typing import Final

__all__ = ["with_media_marks"]

_BEFORE: Final = """\
{%- set edgeq = namespace(messages=[], marks=[], parts=[]) -%}
{%- for message in messages -%}
{%- set edgeq.parts = [] -%}
{%- set texts = [message['content']] if message['content'] is string else (message['content'] or []) -%}
{%- for text in texts -%}
{%- set text = text if text is string else (text['text'] or '') -%}
{%- for piece in text.split('<__media') -%}
{%- set rest = piece -%}
{%- if not loop.first -%}
{%- set split = piece.split('__>', 1) -%}
{%- set edgeq.marks = edgeq.marks + ['<__media' + split[0] + '__>'] -%}
{%- set edgeq.parts = edgeq.parts + [{'type': 'image'}] -%}
{%- set rest = split[1] -%}
{%- endif -%}
{%- if rest -%}{%- set edgeq.parts = edgeq.parts + [{'type': 'text', 'text': rest}] -%}{%- endif -%}
{%- endfor -%}
{%- endfor -%}
{%- if edgeq.parts | selectattr('type', 'equalto', 'image') | list -%}
{%- set edgeq.messages = edgeq.messages + [{'role': message['role'], 'content': edgeq.parts}] -%}
{%- else -%}
{%- set edgeq.messages = edgeq.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = edgeq.messages -%}
{%- set edgeq_text %}"""

_AFTER: Final = """\
{% endset -%}
EDGEQ_SPACE{%- for piece in edgeq_text.split(EDGEQ_IMAGE) -%}
{%- if not loop.first -%}
{{- edgeq.marks[loop.index0 - 1] if loop.index0 <= edgeq.marks | length else EDGEQ_IMAGE -}}
{%- endif -%}
{{- piece -}}
{%- endfor -%}"""

_SPACE: Final = """\
{%- if not (edgeq_text.startswith(bos_token) or edgeq_text.startswith(' ') or edgeq_text.startswith(EDGEQ_IMAGE)) -%}
{{- ' ' -}}
{%- endif -%}
"""


def with_media_marks(template: str, image: str, *, space: bool = False) -> str:
    """A chat template that writes what `template` does, with llama.cpp's marks in the places of images.

    Args:
        template: in Jinja, as transformers has it.
        image: what it writes for an image, with what llama.cpp's code writes around one by itself.
        space: write a space before a text that begins with neither a special token nor a space.
    """
    quoted = "'" + image.replace("\\", "\\\\").replace("'", "\\'") + "'"
    after = _AFTER.replace("EDGEQ_SPACE", _SPACE if space else "").replace("EDGEQ_IMAGE", quoted)
    return _BEFORE + template.removesuffix("\n") + after
