"""Downloads by other libraries, without their minutes of retries where there is no network."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener

SECONDS = 3.0  # that a server has to answer


@contextmanager
def hub() -> Iterator[None]:
    """Inside, what is read from the Hugging Face Hub is taken from this machine alone where the hub does not answer.

    Raises ConnectionError (one line) where it is not there either.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or answers(constants.ENDPOINT):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except Exception as error:  # every library has its own error for a file that is not here
        raise ConnectionError(f"no answer from {urlsplit(constants.ENDPOINT).netloc}") from error
    finally:
        constants.HF_HUB_OFFLINE = False


def need(url: str) -> None:
    """Raise ConnectionError (one line) where the server of ``url`` does not answer."""
    if not answers(url):
        raise ConnectionError(f"no answer from {urlsplit(url).netloc}")


def answers(url: str) -> bool:
    """Whether a server says anything at all within ``SECONDS``; proxies are used as the environment names them."""
    said = []

    def ask() -> None:
        try:
            build_opener().open(Request(url, method="HEAD"), timeout=SECONDS).close()
            said.append(True)
        except HTTPError:
            said.append(True)
        except URLError as error:  # a certificate that only the library's own settings trust is an answer
            said.extend([True] * isinstance(error.reason, ssl.SSLError))
        except (OSError, ValueError):
            pass

    # A thread, since looking up a name knows no limit of time.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return bool(said)
