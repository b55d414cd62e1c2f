"""Errors a user can act on. Each message names the file, field or value, and what to do.

Llama2Error
├── ConfigError      a recipe or model configuration that cannot work
├── DataError        unreadable, empty or malformed input
└── CheckpointError  a checkpoint that is missing, torn or does not fit the model
"""


class Llama2Error(Exception):
    """Base of every error that the core raises on purpose."""


class ConfigError(Llama2Error):
    """A configuration that cannot work."""


class DataError(Llama2Error):
    """Unreadable, empty or malformed input."""


class CheckpointError(Llama2Error):
    """A checkpoint that is missing, torn, or does not fit the model."""
