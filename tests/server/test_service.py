"""Answers of the service that no model is needed for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from mmpvt.server.service import ServerOptions, Service


@pytest.mark.parametrize(("path", "code"), [("/predict/", 404), ("/none", 404), ("/metrics", 405)])
def test_other_paths_are_answered_with_an_error(tmp_path: Path, path: str, code: int):
    sent = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b""}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
    asyncio.run(Service(ServerOptions(), tmp_path).app(scope, receive, send))
    assert sent[0]["status"] == code
    assert "error" in json.loads(sent[1]["body"])
