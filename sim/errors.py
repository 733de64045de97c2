"""Why the command ends early, in one line: a wrong configuration, a run that stopped."""


class ConfigurationError(ValueError):
    """A configuration that cannot run; the message names the field, its value and the mend."""


class StoppedError(RuntimeError):
    """A run that stopped on its way and can be resumed; the message says why and how."""
