"""Which of SkyPilot's exceptions may pass by themselves, and what they say to people."""

import contextlib
from collections.abc import Iterator

import requests
from sky import exceptions

from crosslogic_skypilot_worker.wire import RefusedError, plain

_TEMPORARY = (
    requests.exceptions.RequestException,
    exceptions.ApiServerConnectionError,
    exceptions.ServerTemporarilyUnavailableError,
    exceptions.RequestInterruptedError,
    exceptions.ConcurrentWorkerExhaustedError,
    exceptions.ClusterStatusFetchingError,
    exceptions.FetchClusterInfoError,
    exceptions.NetworkError,
)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turns what SkyPilot raises into a refusal for people."""
    try:
        yield
    except RefusedError:
        raise
    except _TEMPORARY as error:
        raise RefusedError(f"SkyPilot does not answer: {plain(error)}", temporary=True) from error
    except Exception as error:
        raise RefusedError(plain(error) or type(error).__name__, temporary=False) from error
