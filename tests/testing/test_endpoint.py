"""The handshakes and the end of any vendor's server, by the example of one that repeats what it is sent."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from tests.testing.parrot import dial, parrot


async def test_refusals_are_in_the_vendors_words() -> None:
    async with parrot() as server:
        server.refusals.append(503)
        for path, status in (("/", 503), ("/other", 404)):
            with pytest.raises(Exception, match=f"HTTP {status}") as caught:
                async with dial(server, path):
                    pass
            assert caught.value.response.headers["x-why"] == HTTPStatus(status).name  # type: ignore[attr-defined]
        assert (server.handshakes, server.connections) == (2, 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_bug_of_the_server_fails_its_test() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with parrot() as server, dial(server) as ws:
            await ws.send("bug")
            await ws.wait_closed()
    assert caught.group_contains(ZeroDivisionError)
