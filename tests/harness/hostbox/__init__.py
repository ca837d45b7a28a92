"""A host box: runs programs on a made-up host instead of on this one.

    with hostbox.Box(tree, tmp_path / "box") as box:
        agent = standin.Agent(tmp_path / "agent", command_prefix=box.command_prefix)
        agent.deploy("build/pci-passthrough.charm", principal="nova-compute/0")
        assert box.calls("update-grub")

See README.md beside this file for what a program sees inside.
"""

from harness.hostbox.box import Box, BoxError, StubCall

__all__ = ["Box", "BoxError", "StubCall"]
