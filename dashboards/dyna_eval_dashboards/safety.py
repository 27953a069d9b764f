"""Who may ask, and what an answer may do: the checks before every page and the headers on every answer.

A page that another site opens in the same browser can send requests to a loopback port. It is kept out by the
Host allow-list (its own name that points here, "DNS rebinding") and by the Origin check; the content security
policy keeps hostile text on our own pages from loading or running anything.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dyna_eval.errors import InputError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_DIGITS = 8
"""Of a token's digest in its cookie's name."""
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
"""A host's name or address as a browser sends it, perhaps with a port."""
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,}")
_EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
"""The digest of no text: Plotly makes an empty style sheet and adds its rules by script."""
_MAP_STYLE = "'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='"
"""The style sheet for maps that Plotly 7.1 adds wherever it is loaded."""

PLOTLY_STYLES = f"{_EMPTY_STYLE} {_MAP_STYLE}"

POLICY = "; ".join(
    [
        "default-src 'self'",
        f"style-src 'self' {PLOTLY_STYLES}",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The names under which the dashboard may be asked for, and the token that it asks for, if any."""

    hosts: frozenset[str]
    token: str | None = field(repr=False)

    @classmethod
    def of(cls, bind: str, *, allowed: tuple[str, ...] = (), token: str | None = None) -> Access:
        """Return the rules for a bind address: a token for every address but loopback.

        Raises InputError where a wildcard address has no allowed host name, and for a name or a token that no
        browser would send as it is.
        """
        if token is not None and not _TOKEN.fullmatch(token):
            raise InputError(
                "the dashboard's token must have 16 characters or more: letters of ASCII, digits, and -._~"
            )
        names = {_allowed_name(name) for name in allowed}
        own = {bind.lower(), str(_ip_address(bind) or bind.lower())}
        if is_loopback(bind):
            return cls(hosts=frozenset({*names, *LOOPBACK_NAMES, *own}), token=token)
        if not is_wildcard(bind):
            names |= own
        elif not names:
            raise InputError(
                f"--host {bind!r} listens on every address: name with --allow-host how browsers reach it"
            )
        return cls(hosts=frozenset(names), token=token or secrets.token_urlsafe(24))

    def knows(self, host: str) -> bool:
        """Say whether a Host header, with or without a port, names us."""
        return _host_name(host) in self.hosts

    @property
    def cookie(self) -> str:
        """The name of the cookie that holds the token.

        Each token has its own: browsers send a host's cookies to all of its ports, so two dashboards there
        would else log each other's browsers out.
        """
        digest = hashlib.sha256((self.token or "").encode()).hexdigest()
        return f"dyna_eval_token_{digest[:_DIGITS]}"

    def admits(self, given: str | None) -> bool:
        if self.token is None:
            return True
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())


def is_loopback(bind: str) -> bool:
    address = _ip_address(bind)
    return bind.lower() == "localhost" if address is None else address.is_loopback


def is_wildcard(bind: str) -> bool:
    """Say whether whoever listens there listens on every address of the machine."""
    address = _ip_address(bind)
    return not bind.strip() if address is None else address.is_unspecified


def _ip_address(bind: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a socket takes a text for; None for a name."""
    try:
        return ipaddress.ip_address(bind)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(bind))  # the short ones, as 127.1
    except (OSError, ValueError):
        return None


def _allowed_name(given: str) -> str:
    name = f"[{given}]" if given.count(":") > 1 and not given.startswith("[") else given
    if not _host_name(name):
        raise InputError(
            f"--allow-host {given!r} is no host name; write it without http://, as lab.example.org"
        )
    return _host_name(name)


def _host_name(host: str) -> str:
    """Return the name in a Host header, without its port; an empty one where it holds anything else."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".") if _HOST.fullmatch(host) else ""
    except ValueError:
        return ""


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        answer = self._refusal(scope) or self._app
        await answer(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._access.knows(host):
            return PlainTextResponse("this name is not allowed here; see --allow-host\n", status_code=403)
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return PlainTextResponse("requests of other sites are refused\n", status_code=403)
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return PlainTextResponse("requests of other sites are refused\n", status_code=403)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("this dashboard can only be read\n", status_code=405)
        return self._ask_token(scope, headers)

    def _ask_token(self, scope: Scope, headers: Headers) -> Response | None:
        """Let in who brings the token; one in the address moves into a cookie and out of the address."""
        if self._access.token is None:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        offered = next((value for name, value in query if name == "token"), None)
        if offered is not None and self._access.admits(offered):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            path = "/" + scope["path"].lstrip("/")
            answer = RedirectResponse(f"{path}?{rest}" if rest else path, status_code=303)
            # Lax: a link on another site leads here with the cookie; what such a site loads or sends comes
            # without it, and is refused besides.
            answer.set_cookie(self._access.cookie, offered, httponly=True, samesite="lax", path="/")
            return answer
        cookie = HTTPConnection(scope).cookies.get(self._access.cookie)
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._access.admits(cookie) or self._access.admits(bearer or None):
            return None
        return PlainTextResponse(
            "this dashboard asks for a token: open the address that `dyna-eval dashboard` printed\n",
            status_code=401,
        )
