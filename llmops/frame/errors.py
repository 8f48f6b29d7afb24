"""The errors that users can meet. Each message says what was wrong, where, and what to do."""


class LlmopsError(Exception):
    """The base of all errors with a message for the person who runs the pipeline."""


_BUSY = {408, 425, 429}  #: HTTP statuses that ask for another try, besides 5xx


def is_busy(status: int) -> bool:
    """Return True if an HTTP status means that another try may succeed."""
    return status in _BUSY or status >= 500


def describe_error(error: BaseException) -> str:
    """Return the text of an error, or why it cannot be read: py4j asks the JVM for it, which may be dead."""
    try:
        return str(error)
    except Exception as failure:
        return f"its text could not be read ({type(failure).__name__})"


class TransientError(LlmopsError):
    """An error that may be gone at the next try: a service is down, a disk is full. Schedulers retry.

    Every other `LlmopsError` would be the same at the next try. An error of two kinds inherits from both.
    """


class DiskFullError(TransientError):
    """A disk is full."""


class TimeLimitError(TransientError):
    """A stage has exceeded its time limit."""


class HomeInUse(TransientError):
    """A stage, an erasure or a removal of data is running in the home, and this needs exclusive access."""


class ConfigError(LlmopsError):
    """The configuration file, environment or run parameters are wrong."""


class SourceError(LlmopsError):
    """A source cannot be read, or is empty."""


class SourceUnavailableError(SourceError, TransientError):
    """A source's server does not answer, or the source changed while it was read."""


class ArtifactError(LlmopsError):
    """An artifact is missing, incomplete or damaged."""


class TrainingError(LlmopsError):
    """Training cannot continue: no gradient, NaN loss, or nothing to learn from."""


class GovernanceError(LlmopsError):
    """A governance finding exceeds its threshold."""


class RegistryError(LlmopsError):
    """A model version or alias does not exist or cannot be changed."""


class StateError(LlmopsError):
    """The database is damaged, newer than this code, or of another encoding than UTF-8."""


class StateReadOnly(StateError):
    """The database can be read here but not changed."""


class StateUnavailable(StateError, TransientError):
    """The database cannot be reached or written now."""


class EventsUnavailable(TransientError):
    """Events cannot be read now from `source`, a sink."""

    def __init__(self, message: str, source: str) -> None:
        super().__init__(message)
        self.source = source


class HubUnavailableError(RegistryError, TransientError):
    """The Hub does not answer, or is busy."""


class AccessError(LlmopsError):
    """A key is missing, wrong, expired or revoked, or its role may not do this."""


class ReviewError(LlmopsError):
    """Feedback cannot be accepted or refused in the requested way."""


class DeployError(LlmopsError):
    """The serving app does not answer with the expected version."""


class NotServedError(DeployError, TransientError):
    """The serving app is not ready yet."""
