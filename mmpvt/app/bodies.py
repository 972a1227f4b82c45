"""The forms of the page's requests: others are refused before gradio sees them."""

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
    """Where someone clicked; positions that aren't in the picture get a message on the page."""

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


def validate(route: str, body: bytes, endpoints: dict[int, tuple[str, int]]) -> bytes:
    """A request's body without unknown fields.

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
        request = msgspec.json.decode(body, type=KINDS.get(route, Call))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if isinstance(request, (Join, Call)):
        if isinstance(request, Join):
            _, inputs = endpoints.get(request.fn_index, ("", None))
            request.event_data = request.event_data or Selection()
        else:
            inputs = dict(endpoints.values()).get(route.rpartition("/")[2])
        if inputs is None:
            raise ValueError("There is no such function")
        if len(request.data) != inputs:
            raise ValueError(f"Expected `array` of length {inputs} - at `$.data`")
    return msgspec.json.encode(request)
