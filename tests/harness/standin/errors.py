"""What the stand-in refuses or reports; every error is a `StandinError`."""


class StandinError(Exception):
    """Base of all errors of this package."""


class CharmError(StandinError):
    """The charm file cannot be unpacked or its YAML cannot be read."""


class ModelError(StandinError):
    """The model refuses: an unknown option, application, unit or endpoint, a wrong type."""


class ActionRefusedError(StandinError):
    """Juju would not run the action: it is not declared, or its parameters fail the schema."""


class HookFailedError(StandinError):
    """A hook ended with a non-zero exit code, a signal or the time limit.

    The unit is in error until the hook is run again and succeeds.

    Attributes:
        unit: name of the unit, such as ``pci-passthrough/0``.
        hook: name of the hook, such as ``config-changed``.
        exit_code: exit code of ``dispatch``; negative for a signal, as in `subprocess`.
        output: the last lines of the charm's log and standard error.
    """

    def __init__(self, unit: str, hook: str, exit_code: int, output: str):
        super().__init__(
            f"{unit}: hook {hook!r} failed with exit code {exit_code}\n{output}".rstrip()
        )
        self.unit = unit
        self.hook = hook
        self.exit_code = exit_code
        self.output = output


class NotModelledError(StandinError):
    """The charm used a hook tool or a schema keyword that the stand-in does not model.

    Raised rather than answered with a guess: a test that passes on a guess proves nothing.
    """
