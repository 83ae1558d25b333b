"""Bodies: JSON objects, read strictly and never beyond the view's limit."""

from collections.abc import Mapping
from typing import IO, Any

from rest_framework import status
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import BaseParser
from typing_extensions import override

from scheduling import strict_json

LARGEST_BODY = 256 * 1024
# Of the endpoints that take a thousand items.
LARGEST_BULK_BODY = 4 * 1024 * 1024


class PayloadTooLarge(APIException):
    """The body is larger than the endpoint reads."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "payload_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body must hold at most {limit:,} bytes.")


class CompressedBody(APIException):
    """The body has a content coding (RFC 9110, section 8.4), and none is read here."""

    status_code = status.HTTP_415_UNSUPPORTED_MEDIA_TYPE
    default_code = "unsupported_media_type"

    def __init__(self, coding: str) -> None:
        super().__init__(f"The body must be sent as it is, not in {coding}.")


class StrictJsonParser(BaseParser):
    """Reads one JSON object (contract, section 1).

    A view may set `largest_body`; without it bodies hold at most 256 KiB.
    """

    media_type = "application/json"

    @override
    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the object.

        Raises:
            CompressedBody: They are said to be compressed.
            PayloadTooLarge: There are more bytes than the view takes.
            ParseError: The bytes are no strict JSON, or no object.
        """
        context = parser_context or {}
        request, view = context.get("request"), context.get("view")
        encoding = request.headers.get("Content-Encoding", "") if request else ""
        if encoding.strip().lower() not in {"", "identity"}:
            raise CompressedBody(encoding)
        limit: int = getattr(view, "largest_body", LARGEST_BODY)
        # One byte more tells, whatever Content-Length says.
        body = stream.read(limit + 1)
        if len(body) > limit:
            raise PayloadTooLarge(limit)
        try:
            value = strict_json.loads(body)
        except ValueError as error:
            raise ParseError(f"The body {error}.") from None
        if not isinstance(value, dict):
            raise ParseError("The body must be a JSON object.")
        return value
