"""What a person can mend: a wrong configuration, told in one line."""


class ConfigurationError(ValueError):
    """A configuration that cannot run; the message names the field, its value and the mend."""
