"""Every error that more than one room speaks of."""

from __future__ import annotations


class PassthroughError(Exception):
    """Base of every error this package raises on purpose.

    The message is one sentence or two for the operator: what is wrong, and the way out.
    """


class OptionError(PassthroughError):
    """An option holds something that is not accepted.

    Attributes:
        option: the option's name, as ``juju config`` spells it.
        reason: what is wrong and what to write instead.
        item: the offending part of the value, or None when it is the whole.
    """

    def __init__(self, option: str, reason: str, item: str | None = None):
        self.option = option
        self.reason = reason
        self.item = item
        super().__init__(f"{option}: {item}: {reason}" if item else f"{option}: {reason}")


class BindError(PassthroughError):
    """A function did not change its driver; it was put back where it was.

    Attributes:
        address: the function's address.
    """

    def __init__(self, address: str, reason: str):
        self.address = address
        super().__init__(f"{address}: {reason}")


class InUseError(BindError):
    """A guest holds the function, so it must not be unbound."""


class StuckError(BindError):
    """A driver sleeps in the kernel over an unbind; only a reboot ends that."""


class PostponedError(BindError):
    """Nobody has tried to change a function's driver: it is for the next run to decide."""

    @classmethod
    def after(cls, stuck: StuckError, address: str) -> PostponedError:
        """For what comes behind a driver that does not let go.

        A second one that sleeps would be written down over the first, and a hook that looks at the
        first then would sleep with it.
        """
        return PostponedError(address, f"left alone, as {stuck.address} does not come loose")
