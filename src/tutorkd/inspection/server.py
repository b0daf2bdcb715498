"""The page served to this machine alone, where it takes sentences of the reader's.

Any page in the same browser can send requests here. So what doesn't ask this host by its own name is refused (a name of
another site may have come to lead here), and so is what a page of another origin sends.
"""

import json
import socket
from asyncio import Lock
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from tutorkd.errors import UserError

HOST = "127.0.0.1"
MOST_BYTES = 1 << 16  # of a request, several times a text of the longest
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # beside the page's own
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def listen(port: int) -> socket.socket:
    """A socket on the loopback address alone.

    Args:
        port: 0 for any that is free.

    Raises:
        UserError: if the port can't be had.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise UserError(f"port {port} on {HOST} can't be used ({error.strerror}); choose another --port") from error


def serve(application: Starlette, listener: socket.socket) -> None:
    """Answer until Ctrl-C or SIGTERM, which end it as a KeyboardInterrupt once open answers are given."""
    config = uvicorn.Config(application, lifespan="off", log_level="error", access_log=False, proxy_headers=False)
    uvicorn.Server(config).run(sockets=[listener])


def application(page: str, look: Callable[[str, list[int]], dict[str, Any]]) -> Starlette:
    """What is served: the page at ``/``, and at ``/look`` the answer to a text with some words masked.

    Args:
        look: of text and numbers of words, the answer; its ``UserError`` is told in the page. It is called by one
            thread at a time.
    """
    at_work = Lock()

    async def show(request: Request) -> Response:
        return HTMLResponse(page, headers=_HEADERS)

    async def answer(request: Request) -> Response:
        try:
            text, words = await _asked(request)
            async with at_work:
                return JSONResponse(await run_in_threadpool(look, text, words), headers=_HEADERS)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 400, _HEADERS)

    return Starlette(
        routes=[Route("/", show), Route("/look", answer, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)],
    )


async def _asked(request: Request) -> tuple[str, list[int]]:
    """The text and the numbers of its words to mask.

    Raises:
        UserError: for what another page sends, what is too long, and what isn't of this form.
    """
    origin, kind = request.headers.get("origin"), request.headers.get("content-type", "")
    if origin is not None and origin != f"http://{request.headers['host']}":
        raise UserError("another page asked; open this one by its own address")
    if kind.partition(";")[0].strip() != "application/json":  # which no page of another origin can send unasked
        raise UserError("a request must be application/json")
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            raise UserError(f"the request is longer than {MOST_BYTES:,} bytes: shorten the text")
    try:
        asked = json.loads(content)
        text, words = asked["text"], asked["words"]
        text.encode()  # half of a character, which JSON can say, is none
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise UserError("a request must be an object of text and words") from error
    if not isinstance(words, list) or any(type(word) is not int for word in words):
        raise UserError("words must be a list of whole numbers")
    return text, words
