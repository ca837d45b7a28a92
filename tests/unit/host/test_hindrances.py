"""What lives on a host that a reboot by itself would take down."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from harness import hosttree

from passthrough.host import hindrances
from passthrough.host.hindrances import Hindrance, Kind
from passthrough.system import procfs

IDENTITY = "0123456789ab" + "c" * 52
AGENTS = "var/lib/juju/agents"
CONF_DB = "etc/openvswitch/conf.db"


def find(tree: hosttree.HostTree, principal: str = "nova-compute/0") -> list[Hindrance]:
    processes = procfs.Processes(tree.root)
    return list(hindrances.find(tree.root, "pci-passthrough", processes, principal))


def start(tree: hosttree.HostTree, process: int, *words: str, program: str = "") -> None:
    tree.write(f"proc/{process}/cmdline", "\0".join(words) + "\0")
    os.symlink(program or words[0], tree.root / f"proc/{process}/exe")


def agent(tree: hosttree.HostTree, unit: str, metadata: str | None = None) -> None:
    name = f"{AGENTS}/unit-{unit.replace('/', '-')}"
    tree.write(f"{name}/agent.conf", "# format 2.0\n")
    if metadata is not None:
        tree.write(f"{name}/charm/metadata.yaml", metadata)


def log(*records: dict[str, Any]) -> str:
    """A database as ovsdb-server writes it: the schema, and a transaction after the other."""
    found = ""
    for record in ({"name": "Open_vSwitch", "tables": {}}, *records):
        text = json.dumps(record, separators=(",", ":")) + "\n"
        found += f"OVSDB JSON {len(text)} {'0' * 40}\n{text}"
    return found


def change(**ids: str) -> dict[str, Any]:
    """A transaction that changes some of a chassis' external_ids."""
    return {"_is_diff": True, **chassis(**ids)}


def chassis(**ids: str) -> dict[str, Any]:
    """A transaction that sets a chassis' external_ids."""
    pairs = [[key.replace("_", "-"), value] for key, value in ids.items()]
    row = {"external_ids": ["map", pairs]}
    return {"_date": 1, "Open_vSwitch": {"3f2a": row}}


def test_a_host_with_nothing_but_nova_compute_has_none(tree: hosttree.HostTree):
    agent(tree, "nova-compute/0", "name: nova-compute\n")
    agent(tree, "pci-passthrough/0", "name: pci-passthrough\nsubordinate: true\n")
    agent(tree, "ovn-chassis/3", "name: ovn-chassis\nsubordinate: true\n")
    (tree.root / f"{AGENTS}/machine-0").mkdir()
    tree.write(CONF_DB, log(chassis(system_id="x", ovn_encap_type="geneve")))
    (tree.root / "var/lib/ceph/osd").mkdir(parents=True)
    (tree.root / "sys/fs/cgroup/system.slice/docker.service").mkdir(parents=True)
    (tree.root / "var/snap/lxd/common/lxd/containers").mkdir(parents=True)
    tree.write("run/systemd/machines/qemu-1-instance-2a", "NAME=x\nCLASS=vm\n")
    start(tree, 700, "/usr/bin/ovn-controller", "unix:/run/openvswitch/db.sock")
    start(tree, 701, "/usr/bin/dockerd")
    assert find(tree) == []


class TestUnits:
    def test_of_another_principal_count_with_their_names(self, tree: hosttree.HostTree):
        agent(tree, "nova-compute/0", "name: nova-compute\n")
        agent(tree, "mysql-innodb-cluster/12", "name: mysql\nsubordinate: false\n")
        agent(tree, "keystone/1")
        assert find(tree) == [
            Hindrance(Kind.UNIT, "keystone/1"),
            Hindrance(Kind.UNIT, "mysql-innodb-cluster/12"),
        ]

    @pytest.mark.parametrize(
        ("metadata", "counts"),
        [
            ("subordinate: true\n", False),
            ('"name": x\nsubordinate:  "true" # x\n', False),
            ("subordinate: false\n", True),
            ("requires:\n  x:\n    subordinate: true\n", True),
            ("# subordinate: true\n", True),
            ("", True),
            (None, True),
        ],
    )
    def test_that_are_subordinates_by_their_charm_go_with_their_principals(
        self, tree: hosttree.HostTree, metadata: str | None, counts: bool
    ):
        agent(tree, "ntp/7", metadata)
        assert (Hindrance(Kind.UNIT, "ntp/7") in find(tree)) is counts

    def test_of_ours_under_another_number_and_of_a_compute_service_that_nobody_named(
        self, tree: hosttree.HostTree
    ):
        agent(tree, "pci-passthrough/41")
        agent(tree, "nova-compute-gpu/3")
        agent(tree, "nova-compute/0")
        assert find(tree, "") == []
        assert find(tree, "nova-compute-gpu/3") == [Hindrance(Kind.UNIT, "nova-compute/0")]

    def test_of_jujus_controller(self, tree: hosttree.HostTree):
        (tree.root / f"{AGENTS}/controller-0").mkdir(parents=True)
        assert find(tree) == [Hindrance(Kind.CONTROLLER, "0")]

    def test_that_cannot_be_read_are_no_no(self, tree: hosttree.HostTree):
        tree.write(AGENTS, "no directory")
        with pytest.raises(NotADirectoryError):
            find(tree)


class TestContainers:
    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("lxc.payload.web", "web"),
            ("unified/lxc.payload.web", "web"),
            ("systemd/lxc/web", "web"),
            ("lxc.payload/web", "web"),
            (f"system.slice/docker-{IDENTITY}.scope", "docker 0123456789ab"),
            (f"docker/{IDENTITY}", "docker 0123456789ab"),
            (f"machine.slice/libpod-{IDENTITY}.scope", "libpod 0123456789ab"),
            (
                f"user.slice/user-1.slice/user@1.service/user.slice/libpod-{IDENTITY}.scope",
                "libpod 0123456789ab",
            ),
            (
                f"kubepods.slice/kubepods-pod1.slice/cri-containerd-{IDENTITY}.scope",
                "cri-containerd 0123456789ab",
            ),
            (f"kubepods.slice/crio-{IDENTITY}.scope", "crio 0123456789ab"),
            (f"kubepods/burstable/pod1234/{IDENTITY}", "pod1234 0123456789ab"),
            (f"memory/kubepods/besteffort/pod1234/{IDENTITY}", "pod1234 0123456789ab"),
            (f"default/{IDENTITY}", "default 0123456789ab"),
            ("machine.slice/systemd-nspawn@web.service", "web"),
        ],
    )
    def test_that_run_are_known_by_their_control_groups(
        self, tree: hosttree.HostTree, path: str, name: str
    ):
        place = f"sys/fs/cgroup/{path}"
        (tree.root / place).mkdir(parents=True)
        assert find(tree) == [Hindrance(Kind.CONTAINER, name)]
        tree.write(f"{place}/cgroup.events", "populated 1\nfrozen 0\n")
        assert find(tree) == [Hindrance(Kind.CONTAINER, name)]
        tree.write(f"{place}/cgroup.events", "populated 0\nfrozen 0\n")
        assert find(tree) == []

    @pytest.mark.parametrize(
        "path",
        [
            "lxc.monitor.web",
            "lxc.pivot",
            "system.slice/snap.lxd.daemon.service",
            f"machine.slice/libpod-conmon-{IDENTITY}.scope",
            "machine.slice/machine-qemu\\x2d1\\x2dinstance.scope",
            "system.slice/containerd.service",
        ],
    )
    def test_are_none_where_programs_merely_look_after_some(
        self, tree: hosttree.HostTree, path: str
    ):
        (tree.root / "sys/fs/cgroup" / path).mkdir(parents=True)
        assert find(tree) == []

    def test_of_lxc_are_known_by_who_looks_after_them(self, tree: hosttree.HostTree):
        start(tree, 9, "[lxc monitor] /var/snap/lxd/common/lxd/containers web", program="/sbin/lxd")
        assert find(tree) == [Hindrance(Kind.CONTAINER, "web")]

    def test_that_machined_knows_count_unless_they_are_guests(self, tree: hosttree.HostTree):
        tree.write("run/systemd/machines/web", "NAME=web\nCLASS=container\nSERVICE=x\n")
        os.symlink("web", tree.root / "run/systemd/machines/unit:machine-web.scope")
        assert find(tree) == [Hindrance(Kind.CONTAINER, "web")]

    @pytest.mark.parametrize(
        "place",
        [
            "var/snap/lxd/common/lxd/containers",
            "var/lib/lxd/containers",
            "var/snap/lxd/common/lxd/virtual-machines",
        ],
    )
    def test_of_jujus_in_lxd_count_although_they_are_stopped(
        self, tree: hosttree.HostTree, place: str
    ):
        (tree.root / place / "juju-3f2a1c-0-lxd-2").mkdir(parents=True)
        (tree.root / place / "somebodys").mkdir()
        assert find(tree) == [Hindrance(Kind.JUJU_CONTAINER, "juju-3f2a1c-0-lxd-2")]

    def test_of_the_usual_bundle_beside_an_osd(self, tree: hosttree.HostTree):
        start(
            tree,
            3000,
            "[lxc monitor] /var/snap/lxd/common/lxd/containers juju-3f2a1c-0-lxd-2",
            program="/snap/lxd/current/sbin/lxd",
        )
        start(tree, 3100, "/usr/sbin/mysqld")
        start(tree, 3200, "/usr/bin/ceph-osd", "-f", "--id", "3")
        (tree.root / "sys/fs/cgroup/lxc.payload.juju-3f2a1c-0-lxd-2").mkdir(parents=True)
        assert find(tree) == [
            Hindrance(Kind.JUJU_CONTAINER, "juju-3f2a1c-0-lxd-2"),
            Hindrance(Kind.CEPH, "ceph-osd (process 3200)"),
        ]


class TestCeph:
    @pytest.mark.parametrize("program", ["ceph-osd", "ceph-mon", "ceph-mds", "radosgw"])
    def test_that_runs_counts(self, tree: hosttree.HostTree, program: str):
        start(tree, 12, f"/usr/bin/{program}")
        assert find(tree) == [Hindrance(Kind.CEPH, f"{program} (process 12)")]

    @pytest.mark.parametrize(
        "path",
        [
            "var/lib/ceph/osd/ceph-3",
            "var/lib/ceph/mon/ceph-host",
            "var/lib/ceph/5b3c0000-1111-2222-3333-444455556666/osd.3",
            "var/snap/microceph/common/data/osd/ceph-1",
        ],
    )
    def test_that_is_set_up_counts_although_it_does_not_run(
        self, tree: hosttree.HostTree, path: str
    ):
        (tree.root / path).mkdir(parents=True)
        assert find(tree) == [Hindrance(Kind.CEPH, f"/{path}")]

    def test_that_others_only_use_counts_not(self, tree: hosttree.HostTree):
        start(tree, 12, "/usr/bin/rbd")
        (tree.root / "etc/ceph").mkdir()
        assert find(tree) == []


ON = {"ovn_cms_options": "enable-chassis-as-gw,availability-zones=az1"}


class TestGateway:
    @pytest.mark.parametrize(
        ("records", "counts"),
        [
            ([chassis(**ON)], True),
            ([chassis(system_id="x"), chassis(**ON)], True),
            ([chassis(**ON), chassis(system_id="x")], False),
            ([chassis(ovn_cms_options="availability-zones=az1")], False),
            ([chassis(ovn_cms_options="not-enable-chassis-as-gw")], False),
            ([chassis(ovn_cms_options_host1="enable-chassis-as-gw")], True),
            ([chassis(x="enable-chassis-as-gw")], False),
            ([chassis(system_id="x"), change(**ON)], True),
            ([chassis(**ON), change(system_id="x")], True),
            ([chassis(**ON), change(**ON)], False),
            ([chassis(**ON), {"Open_vSwitch": {"3f2a": {"cur_cfg": 1}}}], True),
            ([chassis(**ON), {"Bridge": {"1": {"name": "br-int"}}}], True),
            ([{"Open_vSwitch": {"3f2a": None}}], False),
        ],
    )
    def test_is_what_the_database_says_in_the_end(
        self, tree: hosttree.HostTree, records: list[dict[str, Any]], counts: bool
    ):
        tree.write(CONF_DB, log(*records))
        gateway = [Hindrance(Kind.GATEWAY, "enable-chassis-as-gw")]
        assert find(tree) == (gateway if counts else [])

    @pytest.mark.parametrize("text", ["OVSDB JSON", "x\n", "OVSDB JSON 3 x\n{}x", "\udc80"])
    def test_that_cannot_be_told_counts(self, tree: hosttree.HostTree, text: str):
        tree.write(CONF_DB, f"{text} enable-chassis-as-gw".encode("utf-8", "surrogateescape"))
        assert find(tree) == [Hindrance(Kind.GATEWAY, f"/{CONF_DB}, which cannot be read")]

    def test_of_a_fifo_is_not_waited_for(self, tree: hosttree.HostTree):
        (tree.root / "etc/openvswitch").mkdir()
        os.mkfifo(tree.root / CONF_DB)
        assert find(tree) == [Hindrance(Kind.GATEWAY, f"/{CONF_DB}, which cannot be read")]


class TestRootThatForgets:
    @pytest.mark.parametrize(
        ("mounts", "name"),
        [
            ("/ / ext4", ""),
            ("/ / overlay", "/ (overlay)"),
            ("/ / overlay\n/ /var ext4", ""),
            ("/ / ext4\n/ /var/lib tmpfs", "/var/lib (tmpfs)"),
            ("/ / ext4\n/ /tmp tmpfs\n/ /run tmpfs\n/ /var/library tmpfs", ""),
            ("/ / tmpfs\n/ / ext4", ""),
            ("/ / ext4\n/a/var/lib /var/lib tmpfs", ""),
            ("short", ""),
        ],
    )
    def test_is_told_by_the_mounts(self, tree: hosttree.HostTree, mounts: str, name: str):
        lines = [
            f"{number} 1 8:{number} {line.rpartition(' ')[0]} rw - {line.split()[-1]} x rw\n"
            for number, line in enumerate(mounts.splitlines(), 20)
        ]
        tree.write("proc/self/mountinfo", "".join(lines))
        assert find(tree) == ([Hindrance(Kind.FORGETFUL_ROOT, name)] if name else [])
