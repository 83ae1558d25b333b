"""The ASGI application that gunicorn serves."""

import asyncio
import gc
import os
from contextlib import suppress
from importlib import import_module

import django
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import close_old_connections, connections
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from typing_extensions import override

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "autopilot_site.settings")
from scheduling.tracing import trace_requests


class OneThreadHandler(ASGIHandler):
    """Django's handler, with middleware and view in one thread from start to end.

    All of them are synchronous at heart. Django would run each as a coroutine, and go to
    the thread and back for every step of it: twenty times for one request, and each time
    the request waits until it is its thread's turn again.
    """

    @override
    def load_middleware(self, is_async: bool = False) -> None:
        """Build the chain of middleware for a thread."""
        super().load_middleware(is_async=False)

    @override
    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        """Return the answer, made in the request's own thread.

        Where the client hangs up meanwhile the thread can't be stopped. Its end is
        waited for, however often the server asks to give up, and the connection that it
        took from the pool given back in it: else the pool would count it as taken for
        ever, and after two dozen such requests none could be served.

        Raises:
            CancelledError: The client is gone.
        """
        answer = asyncio.ensure_future(
            sync_to_async(self._answer, thread_sensitive=True)(request)
        )
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            while not answer.done():
                with suppress(asyncio.CancelledError, Exception):
                    await asyncio.shield(answer)
            await sync_to_async(connections.close_all, thread_sensitive=True)()
            raise

    def _answer(self, request: HttpRequest) -> HttpResponseBase:
        """Return the answer; its connection is given back before a client reads it."""
        try:
            response = self.get_response(request)
        except BaseException:
            connections.close_all()
            raise
        close_old_connections()
        return response


# Before Django reads its list of middleware.
trace_requests()
django.setup(set_prefix=False)
django_application = OneThreadHandler()

# Only now are the apps ready to be imported from.
from django.conf import settings  # noqa: E402

from scheduling.api.gate import MOST_REQUESTS, Gate  # noqa: E402

# Every page is there before the first request, which would wait for them.
import_module(settings.ROOT_URLCONF)

# Django gives each request of an ASGI server a thread of its own. A connection kept for
# the next request would never be found again, and stay open.
_database = connections.settings["default"]
_database["CONN_MAX_AGE"] = 0
if _database["ENGINE"] == "django.db.backends.postgresql":
    # A new connection for each request costs more than the request itself does: the
    # server starts a process, which knows no table yet.
    _database["OPTIONS"]["pool"] = {
        "min_size": 0,
        "max_size": MOST_REQUESTS + 4,
        # Seconds: how long a request waits for one, how long one may be idle, and after
        # how long without a server the next request is the one that tries again.
        "timeout": 3.0,
        "max_idle": 60.0,
        "reconnect_timeout": 2.0,
    }

application = Gate(django_application)

# All this lives as long as the process. The collector would walk through it over and over,
# and no request goes on meanwhile.
gc.collect()
gc.freeze()
