"""The few errors a user can meet. Each message says what was wrong, where, and what to do."""


class LlmopsError(Exception):
    """Base of every error whose message is written for the person who runs the pipeline."""


_BUSY = {408, 425, 429}  #: statuses of HTTP that ask to come again, besides 5xx


def is_busy(status: int) -> bool:
    """Whether a server that answers with this status of HTTP may answer otherwise at the next try."""
    return status in _BUSY or status >= 500


def said(error: BaseException) -> str:
    """The text of an error, also of one that cannot tell it: py4j asks the JVM for it, which may be gone."""
    try:
        return str(error)
    except Exception as silent:
        return f"its text could not be read ({type(silent).__name__})"


class TransientError(LlmopsError):
    """What may be gone at the next try: a service that is down, a disk that is full. Whoever schedules tries again.

    Every other `LlmopsError` is the same at the next try. An error that is of two kinds names both.
    """


class DiskFullError(TransientError):
    """There is no room left on a disk."""


class TimeLimitError(TransientError):
    """A stage has taken longer than it may."""


class HomeInUse(TransientError):
    """A stage, an erasure or a removal of data is at work in the home, and this has to be there alone."""


class ConfigError(LlmopsError):
    """The configuration file, environment or run parameters are wrong."""


class SourceError(LlmopsError):
    """A source cannot be read, or yields nothing."""


class SourceUnavailableError(SourceError, TransientError):
    """A source's server does not answer, or the source changed while it was read."""


class ArtifactError(LlmopsError):
    """An artifact is missing, incomplete or damaged."""


class TrainingError(LlmopsError):
    """Training cannot go on: no gradient, NaN loss, nothing to learn from."""


class GovernanceError(LlmopsError):
    """A governance finding is above its threshold."""


class RegistryError(LlmopsError):
    """A model version or alias does not exist or cannot be changed."""


class StateError(LlmopsError):
    """The database of what is decided is damaged, or newer than this code."""


class StateUnavailable(StateError, TransientError):
    """The database of what is decided cannot be reached or written for now."""


class EventsUnavailable(TransientError):
    """Events cannot be read now from `place`, the sink that they are read from."""

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message)
        self.place = place


class HubUnavailableError(RegistryError, TransientError):
    """The Hub does not answer, or is too busy."""


class AccessError(LlmopsError):
    """A key is missing, wrong, expired or revoked, or its role may not do this."""


class ReviewError(LlmopsError):
    """What a user has said cannot be accepted or refused as was asked."""


class DeployError(LlmopsError):
    """The serving app does not answer with the version it should."""


class NotServedError(DeployError, TransientError):
    """The serving app is not ready yet."""
