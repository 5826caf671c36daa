"""Which of SkyPilot's exceptions may pass by themselves, and what they say to people."""

import contextlib
from collections.abc import Iterator

import requests
from sky import exceptions
from sky.utils import env_options

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

_LOCAL_SERVER = env_options.Options.DISABLE_LOCAL_API_SERVER.env_var


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
        if _LOCAL_SERVER in str(error):
            # What it says of a server at a loopback address that is away: that it must not start one.
            raise RefusedError("SkyPilot's API server does not answer.", temporary=True) from error
        raise RefusedError(plain(error) or type(error).__name__, temporary=False) from error
