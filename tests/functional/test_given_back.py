"""Nothing is left of the charm, whatever ends it: each road, kills on the way, the agent gone.

`test_leaving` has which hooks a road has, `test_caretaker` when the caretaker acts.
"""

from __future__ import annotations

import fcntl
import json
import pathlib
import shutil
import textwrap
from collections.abc import Iterator

import pytest
from functional import test_caretaker
from functional.test_leaving import PRINCIPAL, ROADS, UNIT, Road
from harness import hostbox, hosttree, standin
from harness.constants import GPUS, KEPT, NATIVE, OWNED, READY
from harness.hosttree import etcfiles, programs
from harness.standin import JUJU_3, JUJU_4

OLDER = "5.15.0-7-generic"
RECORD = test_caretaker.RECORD
# In the charm of the unit: it ends its own hook just before it does what $KILL_BEFORE names. With
# $ARRIVES, a stop hook comes first, and waits for the host's lock; it holds a lock on the file that
# is named. Where $GOES_ON is set the first hook is not killed.
KILLER = textwrap.dedent(
    """\
    import fcntl, os, signal, subprocess, time

    WHERE, ME = os.environ.get("KILL_BEFORE", ""), os.getpid()
    ARRIVES, GOES_ON = os.environ.get("ARRIVES", ""), os.environ.get("GOES_ON", "")


    def check(what):
        named = " ".join(map(str, what)) if isinstance(what, (list, tuple)) else str(what)
        if WHERE and WHERE in named:
            if ARRIVES and not os.path.exists(ARRIVES):
                have_another_arrive()
            if not GOES_ON:
                os.kill(ME, signal.SIGKILL)


    def have_another_arrive():
        handle = os.open(ARRIVES, os.O_RDWR | os.O_CREAT)
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.set_inheritable(handle, True)
        hook = {"JUJU_HOOK_NAME": "stop", "JUJU_DISPATCH_PATH": "hooks/stop", "KILL_BEFORE": ""}
        program = os.environ["JUJU_CHARM_DIR"] + "/dispatch"
        process = os.posix_spawn(program, [program], {**os.environ, **hook})
        os.close(handle)
        while not waits_for_the_lock(process):
            time.sleep(0.05)
        os.write(os.open(ARRIVES, os.O_WRONLY), b"it waited")


    def waits_for_the_lock(process):
        if os.waitpid(process, os.WNOHANG)[0]:
            raise SystemExit("the hook that arrived did not wait")
        folder = f"/proc/{process}/fd"
        for each in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{each}").endswith("/pci-passthrough.lock"):
                    return True
            except FileNotFoundError:
                pass  # it closed this one meanwhile
        return False


    def watch(do):
        def watched(what, *values, **named):
            check(what)
            return do(what, *values, **named)

        return watched


    os.replace, os.unlink = watch(os.replace), watch(os.unlink)
    start = subprocess.Popen.__init__


    def watched(self, what, *values, **named):
        check(what)
        start(self, what, *values, **named)


    subprocess.Popen.__init__ = watched
    """
)
EFFECTS = (
    "pci-passthrough.json",  # the record, before anything else
    "nova.conf.d/pci-passthrough.conf",
    "update-initramfs",
    "95-pci-passthrough.cfg",
    "update-grub",
    "modules-load.d",
    "pci-passthrough-caretaker.timer",
    "pci-passthrough.caretaker.pyz",  # the last
)


@pytest.fixture
def host(tmp_path: pathlib.Path) -> hosttree.HostTree:
    """A compute host with Nova, an IOMMU, two kernels and a Juju machine."""
    tree = hosttree.compute_host(tmp_path / "host", ubuntu="24.04")
    tree.install_nova()
    tree.add_kernel(OLDER)
    tree.iommu_on()
    return tree


@pytest.fixture(params=[JUJU_3, JUJU_4])
def manner(request: pytest.FixtureRequest) -> str:
    """The manner of the agents, which `agent` has."""
    return request.param


class Story:
    """A host before the charm came, and the charm on it."""

    def __init__(self, agent: standin.Agent, host: hosttree.HostTree, packed: pathlib.Path):
        self.agent, self.host = agent, host
        self.before, self.grub = host.snapshot(*OWNED), host.read(etcfiles.GRUB_CFG)
        self.deployed = agent.deploy(packed, principal=PRINCIPAL, config={"devices": GPUS})
        assert str(agent.status(UNIT)) == "active: gpu: 2 ready"
        assert self.drivers() == READY
        assert set(self.claiming()) == {release for release, _ in self.images()}

    def drivers(self) -> dict[str, str | None]:
        return {address: self.host.driver_of(address) for address in READY}

    def images(self) -> Iterator[tuple[str, pathlib.Path]]:
        """Every kernel's image, by its release."""
        for path in sorted((self.host.root / "boot").glob("initrd.img-*")):
            yield path.name.removeprefix("initrd.img-"), path

    def claiming(self) -> list[str]:
        """The kernels whose images hold anything of the charm."""
        return [
            release
            for release, path in self.images()
            if any(
                "pci-passthrough" in name or b"pci-passthrough" in content
                for name, content in programs.read_initramfs(path).items()
            )
        ]

    def check_given_back(self) -> None:
        """The files of before byte for byte, and no claim in what boots."""
        assert self.drivers() == {**NATIVE, **KEPT}
        assert self.host.snapshot(*OWNED) == self.before
        assert self.claiming() == []
        assert self.host.read(etcfiles.GRUB_CFG).count("intel_iommu=on") == (
            self.grub.count("intel_iommu=on")
        )


@pytest.fixture
def story(
    agent: standin.Agent, host: hosttree.HostTree, packed_charm: pathlib.Path, manner: str
) -> Story:
    del manner
    return Story(agent, host, packed_charm)


class TestRoads:
    @pytest.mark.parametrize("manner", [JUJU_4])
    @pytest.mark.parametrize("road", ROADS.values(), ids=ROADS)
    def test_no_image_and_no_grub_cfg_holds_a_claim(self, story: Story, road: Road, box):
        road(story.agent)
        story.check_given_back()
        box.reboot()
        assert story.drivers() == {**NATIVE, **KEPT}

    @pytest.mark.parametrize("road", ROADS.values(), ids=ROADS)
    def test_keep_leaves_it_as_it_was_the_moment_before(self, story: Story, road: Road, box):
        story.agent.config({"on-removal": "keep"})
        before, images = story.host.snapshot(*OWNED), story.claiming()
        box.forget_calls()
        road(story.agent)
        assert {**story.host.snapshot(*OWNED), RECORD: None} == {**before, RECORD: None}
        kept = json.loads(story.host.read(RECORD))["record"]
        assert (kept["keep"], kept["owner"]) == (True, None)
        assert (story.drivers(), story.claiming()) == (READY, images)
        assert box.calls("update-initramfs", "update-grub") == []


@pytest.mark.parametrize("manner", [JUJU_3])
class TestKilled:
    """Juju runs the hook again, or an operator resolves it and the next one comes."""

    @pytest.fixture
    def story(self, story: Story) -> Story:
        """The charm of the unit ends its own hooks where it is told to."""
        charm = story.agent.unit_directory(UNIT) / "charm"
        (charm / "src/killer.py").write_text(KILLER)
        main = charm / "src/charm.py"
        future = "from __future__ import annotations\n"
        main.write_text(main.read_text().replace(future, f"{future}import killer\n", 1))
        return story

    def kill(self, story: Story, effect: str, **more: str) -> None:
        story.agent.surroundings.env = {"KILL_BEFORE": effect, **more}
        with pytest.raises(standin.HookFailedError) as caught:
            ROADS["remove-relation"](story.agent)
        assert caught.value.exit_code in (-9, 137)
        story.agent.surroundings.env = {}

    def wait_for_the_other(self, arrives: pathlib.Path) -> None:
        """Until the hook that arrived in the middle has ended."""
        with arrives.open() as file:
            assert file.read() == "it waited"
            fcntl.flock(file, fcntl.LOCK_EX)

    @pytest.mark.parametrize("effect", EFFECTS)
    def test_the_hook_again(self, story: Story, effect: str):
        self.kill(story, effect)
        story.agent.resolve()
        assert story.agent.units() == []
        story.check_given_back()

    @pytest.mark.parametrize("effect", EFFECTS[2::2])
    def test_another_hook_arrives(self, story: Story, effect: str):
        self.kill(story, effect)
        story.agent.resolve(retry=False)
        assert story.agent.units() == []
        story.check_given_back()

    @pytest.mark.parametrize("effect", EFFECTS[::2])
    def test_another_hook_arrives_in_the_middle_and_it_is_killed(
        self, story: Story, effect: str, tmp_path: pathlib.Path
    ):
        """As when Juju's agent is restarted, while the hook of the former one still works."""
        self.kill(story, effect, ARRIVES=str(tmp_path / "arrives"))
        self.wait_for_the_other(tmp_path / "arrives")
        story.check_given_back()
        story.agent.resolve()
        assert story.agent.units() == []
        story.check_given_back()

    @pytest.mark.parametrize("effect", EFFECTS[::2])
    def test_another_hook_arrives_in_the_middle_and_it_goes_on(
        self, story: Story, effect: str, tmp_path: pathlib.Path
    ):
        arrives = tmp_path / "arrives"
        story.agent.surroundings.env = {
            "KILL_BEFORE": effect,
            "ARRIVES": str(arrives),
            "GOES_ON": "yes",
        }
        ROADS["remove-relation"](story.agent)
        self.wait_for_the_other(arrives)
        assert story.agent.units() == []
        story.check_given_back()


@pytest.mark.parametrize("manner", [JUJU_4])
class TestNoAgent:
    """The machine's agent is gone, and everything of Juju's with it."""

    @pytest.fixture
    def orphaned(self, story: Story, host: hosttree.HostTree) -> Story:
        shutil.rmtree(host.root / "var/lib/juju", ignore_errors=True)
        return story

    def let_pass(self, host: hosttree.HostTree, hours: float) -> None:
        """Count so much time as seen: no test can wait for the boot clock."""
        path = host.root / test_caretaker.MEMORY
        memory = json.loads(path.read_text())
        memory["past"]["seen"] += hours * 3600
        path.write_text(json.dumps(memory))
        path.chmod(0o600)

    def test_a_day_later_the_host_is_as_it_was(
        self, orphaned: Story, box: hostbox.Box, host: hosttree.HostTree
    ):
        assert test_caretaker.look(box, host).returncode == 0
        self.let_pass(host, 23)
        was = host.snapshot(*OWNED)
        assert test_caretaker.look(box, host).returncode == 0
        assert host.snapshot(*OWNED) == was, "a day has not passed"
        self.let_pass(host, 1)
        done = test_caretaker.look(box, host)
        assert done.returncode == 0, done.stderr
        orphaned.check_given_back()

    def test_a_hook_arrives_while_the_caretaker_looks(
        self, orphaned: Story, box: hostbox.Box, host: hosttree.HostTree
    ):
        """The agent was only away: what its hook finds is its own, and the looks begin anew."""
        assert test_caretaker.look(box, host).returncode == 0
        self.let_pass(host, 23)
        host.write(f"{test_caretaker.FOLDER}/agent.conf", f"model: model-{test_caretaker.MODEL}\n")
        orphaned.agent.hook("update-status")
        assert str(orphaned.agent.status(UNIT)) == "active: gpu: 2 ready"
        assert test_caretaker.look(box, host).returncode == 0
        assert not (host.root / test_caretaker.MEMORY).exists()
        assert orphaned.drivers() == READY


@pytest.mark.parametrize("manner", [JUJU_3])
def test_what_a_hook_says_while_it_works(story: Story):
    """No hook up to the first config-changed asks for a reboot that the next makes needless."""
    said = [
        call.args[-1] for run in story.deployed for call in run.calls if call.tool == "status-set"
    ]
    assert not [each for each in said if "reboot" in each]
    newest = max((release for release, _ in story.images()), key=lambda each: each != OLDER)
    started = [each.partition(", began")[0] for each in said if each.startswith("rebuilding")]
    assert started[:4] == [
        "rebuilding the initramfs for 2 kernels",
        f"rebuilding the initramfs for {newest} (1 of 2)",
        f"rebuilding the initramfs for {OLDER} (2 of 2)",
        "rebuilding GRUB's configuration",
    ]
