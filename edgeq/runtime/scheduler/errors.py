"""Why a request is not served, as errors: each has what a client is told in numbers."""

from __future__ import annotations

from edgeq.errors import EdgeqError, ImageError, InputError

__all__ = ["BusyError", "ClosedError", "ContextError", "DeadlineError", "RefusedImageError", "TooLargeError"]


class TooLargeError(InputError):
    """A request needs more memory than there ever is for one (HTTP 413).

    Args:
        needed: bytes that it takes alone.
        budget: bytes for all requests.
    """

    def __init__(self, needed: int, budget: int) -> None:
        super().__init__(
            f"this request needs {needed:,} bytes, and there are {budget:,} for all requests",
            next_step="ask for a shorter answer, in fewer words, or about a smaller image",
        )
        self.needed, self.budget = needed, budget


class ContextError(InputError):
    """A conversation leaves no room for an answer in the context (HTTP 413).

    Args:
        tokens: of the conversation.
        image_tokens: of these, those of images.
        context: tokens of a request at most, answer included.
        at_least: the tokens were not counted: by its length, the conversation has so many or more.
    """

    def __init__(self, tokens: int, image_tokens: int, context: int, *, at_least: bool = False) -> None:
        images = f", {image_tokens:,} of them of images" if image_tokens else ""
        takes = f"it takes {'at least ' if at_least else ''}{tokens:,} tokens{images}"
        super().__init__(
            f"the conversation is too long: {takes}, and the context is {context:,}, answer included",
            next_step="ask in fewer words, or leave early messages or images out",
        )
        self.tokens, self.image_tokens, self.context = tokens, image_tokens, context


class RefusedImageError(ImageError):
    """The model does not take an image of a conversation (HTTP 422).

    Args:
        number: which of the conversation's images, from 0 on.
        error: why.
    """

    def __init__(self, number: int, error: ImageError) -> None:
        super().__init__(error.what, expected=error.expected, causes=error.causes, next_step=error.next_step)
        self.number = number


class BusyError(EdgeqError):
    """As many requests wait as may (HTTP 429).

    Args:
        retry_after_s: whole seconds, from 1 on, after which it is worth coming back.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("too many requests wait already", next_step=f"come back in {retry_after_s} s", passing=True)
        self.retry_after_s = retry_after_s


class DeadlineError(EdgeqError):
    """A request was not answered in the time that it was given (HTTP 504).

    Args:
        answer_tokens: said until then; 0 where it was still waiting.
    """

    def __init__(self, answer_tokens: int) -> None:
        super().__init__(f"the deadline came after {answer_tokens} tokens of the answer", passing=True)
        self.answer_tokens = answer_tokens


class ClosedError(EdgeqError):
    """The runtime takes no requests any more (HTTP 503)."""

    def __init__(self) -> None:
        super().__init__("no requests are taken any more: the runtime is being closed", passing=True)
