"""How much one caller may ask; more is answered with 429 and Retry-After."""

from typing import TYPE_CHECKING, ClassVar

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from typing_extensions import override

from scheduling.adapters.rate_counter import Rate, requests
from scheduling.api.client_address import counted_address

if TYPE_CHECKING:
    # REST framework's views load this module for their defaults.
    from rest_framework.views import APIView

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def read_rate(text: str) -> Rate:
    """Return the rate that a setting names, such as `30/min`; autopilot_site.env checks."""
    limit, _, period = text.partition("/")
    return Rate(int(limit), _SECONDS[period[0]])


class UserThrottle(BaseThrottle):
    """Counts the requests of a signed-in user (API_THROTTLE_USER)."""

    _wait = 0.0

    @override
    def allow_request(self, request: Request, view: "APIView") -> bool:
        """Count the request; tell whether it may go on."""
        if not request.user.is_authenticated:
            # Nothing but a refusal awaits it.
            return True
        key = f"user:{request.user.get_username()}"
        self._wait = requests.take(key, read_rate(settings.API_THROTTLE_USER))
        return self._wait == 0.0

    @override
    def wait(self) -> float | None:
        """Return in how many seconds to ask again."""
        return self._wait


class AddressThrottle(BaseThrottle):
    """Counts the requests of an address, for those who have not signed in yet."""

    scope: ClassVar[str] = "address"
    # The setting that names the rate.
    rate_setting: ClassVar[str] = "API_THROTTLE_USER"
    _wait = 0.0

    @override
    def allow_request(self, request: Request, view: "APIView") -> bool:
        """Count the request; tell whether it may go on."""
        rate = read_rate(getattr(settings, self.rate_setting))
        self._wait = requests.take(f"{self.scope}:{counted_address(request) or ''}", rate)
        return self._wait == 0.0

    @override
    def wait(self) -> float | None:
        """Return in how many seconds to ask again."""
        return self._wait


class LogInThrottle(AddressThrottle):
    """Counts the log-ins that an address tries at the API (API_THROTTLE_TOKEN)."""

    scope = "log-in"
    rate_setting = "API_THROTTLE_TOKEN"
