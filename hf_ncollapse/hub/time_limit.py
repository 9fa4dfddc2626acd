"""A limit to the time that the Hub is given, also where it says nothing, drips, or asks to wait for a day."""

import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from huggingface_hub import close_session, get_session
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import parse_ratelimit_headers

if TYPE_CHECKING:
    import httpcore2
    import httpx2

# Without a byte in this time, a request has failed.
SILENCE_SECONDS = {"connect": 10.0, "read": 30.0, "write": 30.0, "pool": 30.0}
# For all requests of one step, and besides for what it uploads.
STEP_SECONDS = 60.0
SLOWEST_UPLOAD = 20_000.0  # bytes a second
# A Hub that is busy may ask for so long a pause; it is not part of the step.
LONGEST_PAUSE = 300.0
# How often it is looked whether a step's time is over.
_LOOK_SECONDS = 0.2
# What reading an answer raises that is not what it should be.
_ODD_ANSWERS = (json.JSONDecodeError, KeyError, TypeError, AttributeError, IndexError, StopIteration)


class HubTimeoutError(ConnectionError):
    """The time that a step is given is over."""


class OddAnswerError(ValueError):
    """An answer came that no Hub gives: JSON without what it should hold, or a web page."""


class TimeLimit:
    """In this block, steps that ask the Hub end in time, and an odd answer is an error that names the request.

    The block has connections of its own, which are shut down when a step's time is over: a timeout of a socket is
    about the next byte, and a Hub that sends one now and then is never late. Uploads to Xet storage, which have a
    client of their own, are not within the limit. Not for several threads at once.
    """

    def __init__(self) -> None:
        self.seconds = STEP_SECONDS
        self._end = math.inf
        self._streams: list[httpcore2.NetworkStream] = []
        self._asked = "nothing"
        self._left = threading.Event()
        self._watch = threading.Thread(target=self._shut_down_in_time, daemon=True)

    def __enter__(self) -> "TimeLimit":
        close_session()
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._watch.join()
        close_session()

    @contextlib.contextmanager
    def step(self, upload: int = 0) -> Iterator[None]:
        """Give what is asked in this block so much time.

        Args:
            upload: bytes that it sends, for which it has more.

        Raises:
            HubTimeoutError: the time is over, or the Hub asks for a longer pause than `LONGEST_PAUSE`.
            OddAnswerError: an answer could not be read.
        """
        self.seconds = STEP_SECONDS + upload / SLOWEST_UPLOAD
        self._end = time.monotonic() + self.seconds
        try:
            yield
        except HubTimeoutError:
            raise
        except (HTTPError, RuntimeError, ConnectionError) as error:
            if not self.is_over:
                raise
            raise self._over() from error
        except _ODD_ANSWERS as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise OddAnswerError(f"the Hub's answer to {self._asked} cannot be read ({what})") from error
        finally:
            self._end = math.inf

    @property
    def is_over(self) -> bool:
        """Whether the step under way has had its time."""
        return time.monotonic() >= self._end

    def _over(self) -> HubTimeoutError:
        return HubTimeoutError(f"the Hub took longer than {self.seconds:.0f} s; the last request was {self._asked}")

    def join(self) -> None:
        """Take in the client that huggingface_hub uses now; it makes a new one after some faults."""
        hooks = get_session().event_hooks
        if self._begin not in hooks["request"]:
            get_session().event_hooks = {
                "request": [*hooks["request"], self._begin],
                "response": [*hooks["response"], self._end_later],
            }

    def _begin(self, request: "httpx2.Request") -> None:
        if self.is_over:
            raise self._over()
        self._asked = f"{request.method} {request.url.path}"
        given = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            name: min(seconds, given.get(name) or seconds) for name, seconds in SILENCE_SECONDS.items()
        }
        request.extensions["trace"] = self._trace

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._streams.append(info["return_value"])
        elif event.endswith("connect_tcp.failed"):
            # Tried again after `join`: huggingface_hub itself would go on with a client that has no limit.
            raise ConnectionError(f"no connection to the Hub: {info['exception']}") from info["exception"]

    def _end_later(self, response: "httpx2.Response") -> None:
        pause = asked_pause(response)
        if pause > LONGEST_PAUSE:
            raise HubTimeoutError(f"the Hub answered {response.status_code} and asks for a pause of {pause:.0f} s")
        self._end += pause

    def _shut_down_in_time(self) -> None:
        while not self._left.wait(_LOOK_SECONDS):
            while self.is_over and self._streams:
                with contextlib.suppress(OSError):  # it is closed already
                    self._streams.pop().get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def asked_pause(response: "httpx2.Response") -> float:
    """Seconds that an answer asks to wait before the next request; 0 where it does not."""
    if response.status_code < 400:
        return 0.0
    limit = parse_ratelimit_headers(response.headers)
    asked = response.headers.get("Retry-After", "").strip()
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    return float(asked) if asked.isdecimal() else 0.0
