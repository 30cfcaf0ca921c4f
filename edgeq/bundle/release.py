"""Which release a bundle is: of what product, the how-manieth, made when, and until when it may be installed.

A device compares the sequence with the highest it has seen of the product, which no clock can change: an older bundle
is signed as well as a newer one, and only this tells them apart.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edgeq.errors import InputError

__all__ = ["Moment", "Product", "Release", "Sequence", "moment", "new_release", "parse_moment"]

_FORM: Final = "%Y-%m-%dT%H:%M:%SZ"


def parse_moment(text: str) -> datetime:
    """The moment that a text such as 2026-11-29T22:00:00Z tells, in UTC; raises ValueError for any other form."""
    found = datetime.strptime(text, _FORM).replace(tzinfo=timezone.utc)
    if moment(found) != text:
        raise ValueError(f"{text!r:.40} is not in the form {moment(found)}")
    return found


def moment(when: datetime) -> str:
    """A moment as it is written, to the second, in UTC."""
    return when.astimezone(timezone.utc).strftime(_FORM)


def _checked(text: str) -> str:
    parse_moment(text)
    return text


Moment = Annotated[str, AfterValidator(_checked)]
"""ISO 8601 in UTC, in one form."""

Product = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$")]

Sequence = Annotated[int, Field(ge=1, le=2**63 - 1)]


class Release(BaseModel):
    """What a manifest says of itself.

    Attributes:
        product: what the bundle is for, such as `bridge-inspector`; sequences of different products are not compared.
        sequence: above that of every release before; seconds since 1970 unless told otherwise.
        made: when, by the clock of where it was signed.
        expires: from when on it is not installed any more; None for never. One that is in use goes on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    product: Product
    sequence: Sequence
    made: Moment
    expires: Moment | None = None


def new_release(
    product: str, sequence: int | None = None, expires: str | None = None, *, now: datetime | None = None
) -> Release:
    """A release made at this moment.

    Args:
        product: its name.
        sequence: None takes the seconds since 1970.
        expires: a date such as 2027-06-30, of which the whole day counts, a moment such as 2027-06-30T12:00:00Z, or a
            number of days such as 90d; None for never.
        now: the moment; None asks the clock.

    Raises:
        InputError: a value is of another form, or it would have expired already.
    """
    now = now or datetime.now(timezone.utc)
    until = None if expires is None else _until(expires, now)
    if until is not None and until <= now:
        raise InputError(f"--expires {expires} is over", next_step="give a later day")
    try:
        return Release(
            product=product,
            sequence=int(now.timestamp()) if sequence is None else sequence,
            made=moment(now),
            expires=None if until is None else moment(until),
        )
    except ValueError as error:
        raise InputError(
            f"{product!r:.80} with the sequence {sequence} is no release",
            expected="a product of letters, digits, `.`, `_` and `-`, 64 at most, and a sequence from 1 to 2^63 - 1",
        ) from error


def _until(text: str, now: datetime) -> datetime:
    try:
        if text.endswith("d") and text[:-1].isdecimal():
            return now + timedelta(days=int(text[:-1]))
        if "T" in text:
            return parse_moment(text)
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc) + timedelta(days=1)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"--expires {text!r:.40} is no moment", expected="such as 2027-06-30, 2027-06-30T12:00:00Z or 90d"
        ) from error
