"""The few errors a user can meet. Each message says what was wrong, where, and what to do."""


class LlmopsError(Exception):
    """Base of every error whose message is written for the person who runs the pipeline."""


class ConfigError(LlmopsError):
    """The configuration file, environment or run parameters are wrong."""


class SourceError(LlmopsError):
    """A source cannot be read, or yields nothing."""


class ArtifactError(LlmopsError):
    """An artifact is missing, incomplete or damaged."""


class TrainingError(LlmopsError):
    """Training cannot go on: no gradient, NaN loss, nothing to learn from, no disk."""


class GovernanceError(LlmopsError):
    """A governance finding is above its threshold."""


class RegistryError(LlmopsError):
    """A model version or alias does not exist or cannot be changed."""


class AccessError(LlmopsError):
    """A key is missing, wrong, expired or revoked, or its role may not do this."""


class DeployError(LlmopsError):
    """The serving app does not answer with the version it should."""
