"""What may be asked of the page's model: other requests are refused before gradio sees them."""

from __future__ import annotations

from typing import Annotated

import msgspec

MAX_JSON = 64 << 10  # bytes
Plain = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
Index = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Position = float | str | None


class File(msgspec.Struct, omit_defaults=True):
    """An uploaded file, as gradio describes it."""

    path: Annotated[str, msgspec.Meta(max_length=4096)]
    orig_name: str | None = None
    size: int | None = None
    mime_type: str | None = None
    meta: dict[str, str] = {}


class Selection(msgspec.Struct):
    """Where someone clicked. What it is worth is said on the page, not here."""

    index: list[Position] | Position = None
    value: None = None


Value = File | float | None


class Join(msgspec.Struct):
    """``queue/join``: the page's own request."""

    data: list[Value]
    fn_index: Index
    session_hash: Plain
    trigger_id: Index | None = None
    event_data: Selection | None = None


class Call(msgspec.Struct, omit_defaults=True):
    """``call/NAME``: a program's."""

    data: list[Value]
    session_hash: Plain | None = None


class Cancel(msgspec.Struct):
    fn_index: Index
    session_hash: Plain
    event_id: Plain


class Reset(msgspec.Struct):
    event_id: Plain


KINDS = {"queue/join": Join, "cancel": Cancel, "reset": Reset}


def checked(route: str, body: bytes, endpoints: dict[int, tuple[str, int]]) -> bytes:
    """A request's body with what is known of it, and nothing else.

    Args:
        route (str): ``queue/join``, ``call/NAME``, ``cancel`` or ``reset``.
        body (bytes): JSON.
        endpoints (dict[int, tuple[str, int]]): name and number of inputs by ``fn_index``.

    Returns:
        bytes: JSON.

    Raises:
        ValueError: it isn't of the expected form.
    """
    try:
        asked = msgspec.json.decode(body, type=KINDS.get(route, Call))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if isinstance(asked, (Join, Call)):
        named = dict(endpoints.values())
        counts = {index: count for index, (_, count) in endpoints.items()}
        expected = (
            counts.get(asked.fn_index)
            if isinstance(asked, Join)
            else named.get(route.rpartition("/")[2])
        )
        if expected is None:
            raise ValueError("There is no such function")
        if len(asked.data) != expected:
            raise ValueError(f"Expected `array` of length {expected} - at `$.data`")
    if isinstance(asked, Join) and asked.event_data is None:
        asked.event_data = Selection()
    return msgspec.json.encode(asked)
