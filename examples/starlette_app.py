"""The engine inside a web application: `lifespan` starts it and drains it with the application.

Serve it with any ASGI server, as in `uvicorn examples.starlette_app:app`.
"""

import asyncio
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from lambent import Engine, FunctionError

engine = Engine("memory://")
notified = asyncio.Event()


@engine.function
async def quote(event: Any, context: Any) -> dict[str, float]:
    return {"price": 100.0 + event["kilometres"] * 0.1}


@engine.function(maximum_retry_attempts=2)
async def notify(event: Any, context: Any) -> None:
    print("notified", event)
    notified.set()


async def get_quote(request: Request) -> JSONResponse:
    try:
        value = await engine.invoke(quote, {"kilometres": float(request.query_params["kilometres"])})
    except FunctionError as error:
        return JSONResponse(error.document, status_code=502)
    return JSONResponse(value)


async def post_notification(request: Request) -> JSONResponse:
    request_id = await engine.invoke_async(notify, await request.body())
    return JSONResponse({"request_id": request_id}, status_code=202)


app = Starlette(
    routes=[Route("/quote", get_quote), Route("/notifications", post_notification, methods=["POST"])],
    lifespan=engine.lifespan,
)
