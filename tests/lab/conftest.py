"""Fixtures of the lab tier: the image once per session, one boot per module."""

import os
from collections.abc import Iterator

import pytest

from lab import errors, guest, image, machine, progress, requirements


@pytest.fixture(scope="session")
def steps() -> progress.Progress:
    """The session's progress: lines on standard error, shown with `-s` or when a test fails."""
    return progress.Progress()


@pytest.fixture(scope="session")
def base_image(steps: progress.Progress) -> image.Built:
    """The disk with initramfs-tools and GRUB."""
    try:
        requirements.check()
    except errors.LabError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    return image.ensure(image.IMAGES["base"], steps)


@pytest.fixture(scope="module")
def intel(base_image: image.Built, steps: progress.Progress) -> Iterator[guest.Guest]:
    """The machine `intel`, freshly booted, for the tests of one module in their order."""
    with guest.boot(machine.INTEL, base_image.disk, base_image.key, steps) as host:
        yield host
