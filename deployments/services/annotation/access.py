"""Who may annotate: a token each, a signed session, a form's own secret, limits of rate and size."""

import hashlib
import hmac
import json
import secrets
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs

from starlette.requests import Request

from llama2_core.errors import ConfigError, Llama2Error
from storage.disk import atomic_write

COOKIE, SESSION_SECONDS = "annotator", 14 * 24 * 3600
BODY_BYTES = 64 << 10
LIMITS = {"sign in": (10, 60.0), "post": (120, 60.0), "answers": (30, 60.0)}
"""Of a person or address: so many in so many seconds; of sign-ins those that fail."""


class Refused(Llama2Error):
    """A request that is answered with this status and no more."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Access:
    """The annotators of a folder, and the sessions of their browsers."""

    folder: Path
    _asked: dict[tuple[str, str], deque[float]] = field(default_factory=lambda: defaultdict(deque))

    @property
    def _file(self) -> Path:
        return self.folder / "annotators.json"

    @property
    def _secret(self) -> bytes:
        path = self.folder / "session-secret"
        if not path.exists() or not path.stat().st_size:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # atomic_write would make a file that others can read
            path.write_text(secrets.token_hex(32))
        return path.read_bytes()

    def annotators(self) -> dict[str, dict[str, str]]:
        """Return when each was added, and the SHA-256 of its token."""
        return json.loads(self._file.read_text()) if self._file.exists() else {}

    def add(self, name: str) -> str:
        """Add an annotator, or give one a new token, which is returned and stored nowhere."""
        if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 40:
            raise ConfigError(f"annotator {name!r}: use letters, digits, - and _, 40 at most")
        token = secrets.token_urlsafe(24)
        added = {"token_sha256": _digest(token), "added_at": datetime.now(UTC).isoformat(timespec="seconds")}
        self._write(self.annotators() | {name: added})
        return token

    def remove(self, name: str) -> None:
        """Take an annotator's token away; what it wrote stays."""
        people = self.annotators()
        if name not in people:
            raise ConfigError(f"there is no annotator {name!r}; there are: {', '.join(people) or 'none'}")
        self._write({other: about for other, about in people.items() if other != name})

    def _write(self, people: dict[str, dict[str, str]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self._file, json.dumps(people, indent=1).encode())

    def sign_in(self, token: str) -> str:
        """Return a session for the annotator with this token."""
        given = _digest(token.strip())
        for name, about in self.annotators().items():
            if hmac.compare_digest(about["token_sha256"], given):
                content = f"{name}.{int(time.time())}"
                return f"{content}.{self._sign('session', content, given)}"
        raise Refused(403, "this token is nobody's: ask for another with `llama2 annotators add NAME`")

    def annotator(self, request: Request) -> str:
        """Return who sent a request. Raises Refused (401) unless its session is good and its token still valid."""
        name, _, rest = request.cookies.get(COOKIE, "").partition(".")
        begun, _, signature = rest.partition(".")
        about = self.annotators().get(name)
        expected = self._sign("session", f"{name}.{begun}", about["token_sha256"]) if about else ""
        fresh = begun.isdigit() and time.time() - int(begun) < SESSION_SECONDS
        if not (about and fresh and hmac.compare_digest(signature.encode(), expected.encode())):
            raise Refused(401, "sign in first")
        return name

    def form_secret(self, request: Request) -> str:
        """Return what a form of this session must send back: another site cannot know it."""
        return self._sign("form", request.cookies.get(COOKIE, ""))

    def check_form(self, request: Request, form: dict[str, str]) -> None:
        site = request.headers.get("sec-fetch-site", "same-origin")
        if site not in ("same-origin", "none") or not hmac.compare_digest(
            form.get("form_secret", "").encode(), self.form_secret(request).encode()
        ):
            raise Refused(403, "this form is not of this page: load it again")

    def limit(self, kind: Literal["sign in", "post", "answers"], who: str, count: bool = True) -> None:
        """Raise Refused (429) past the limit; else count the request."""
        most, seconds = LIMITS[kind]
        times, now = self._asked[kind, who], time.monotonic()
        while times and now - times[0] > seconds:
            times.popleft()
        if len(times) >= most:
            raise Refused(429, f"more than {most} in {seconds:.0f} s: wait a moment")
        if count:
            times.append(now)

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._secret, "\n".join(parts).encode(), hashlib.sha256).hexdigest()


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form. Raises Refused for a body that is too large (413) or no such form (400)."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise Refused(413, f"more than {BODY_BYTES >> 10} KB: write less")
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=50)
    except ValueError as error:
        raise Refused(400, f"this is no form: {error}") from error
    return {name: values[-1] for name, values in fields.items()}


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
