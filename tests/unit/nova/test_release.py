"""Which release is installed, and what each key needs."""

import pytest
from harness import made

from passthrough import errors
from passthrough.config import devices, values
from passthrough.config import devices as devices_option
from passthrough.nova import release as nova_release
from passthrough.nova.release import ALIAS, DEVICE_SPEC, Release

YOGA, LUCID_2024, NEWEST_2026 = Release(25), Release(29), Release(33)

STATUS = """\
Package: nova-common-doc
Status: install ok installed
Version: 3:99.0.0-1

Package: nova-common
Status: {status}
Priority: optional
Version: {version}
Description: OpenStack Compute - common files

Package: zsh
Status: install ok installed
Version: 5.9-1
"""


def item(**values: str) -> str:
    """The option ``devices`` with one item that has these keys."""
    keys = {"alias": "gpu", "id": "10de:1bb0"}
    keys.update({name.replace("_", "-"): value for name, value in values.items()})
    return f"[{{{', '.join(f'{key}: {value!r}' for key, value in keys.items() if value)}}}]"


class TestInstalled:
    @pytest.mark.parametrize(
        ("version", "major"),
        [
            ("3:25.2.1-0ubuntu2", 25),
            ("3:29.2.0-0ubuntu1~cloud0", 29),
            ("2:26.2.2-1~deb12u4", 26),
            ("3:33.0.0~rc1-0ubuntu1", 33),
            ("34.0.0+git2026-1", 34),
        ],
    )
    def test_reads_the_major_version(self, tmp_path, version: str, major: int):
        write(tmp_path, STATUS.format(status="install ok installed", version=version))
        assert nova_release.installed(tmp_path) == Release(major)

    @pytest.mark.parametrize(
        "status",
        ["deinstall ok config-files", "purge ok not-installed"],
    )
    def test_a_package_that_is_not_installed_does_not_count(self, tmp_path, status: str):
        write(tmp_path, STATUS.format(status=status, version="3:29.2.0-0ubuntu1"))
        assert nova_release.installed(tmp_path) is None

    @pytest.mark.parametrize("state", ["unpacked", "half-configured", "triggers-pending"])
    def test_a_package_that_is_being_upgraded_counts(self, tmp_path, state: str):
        write(tmp_path, STATUS.format(status=f"install ok {state}", version="3:29.2.0-0ubuntu1"))
        assert nova_release.installed(tmp_path) == Release(29)

    def test_no_package_and_no_dpkg(self, tmp_path):
        assert nova_release.installed(tmp_path) is None
        write(tmp_path, "Package: zsh\nStatus: install ok installed\nVersion: 5.9-1\n")
        assert nova_release.installed(tmp_path) is None

    def test_another_package_whose_name_begins_the_same_is_another(self, tmp_path):
        write(tmp_path, STATUS.partition("\n\n")[0])
        assert nova_release.installed(tmp_path) is None

    def test_names(self):
        assert str(YOGA) == "25 (Yoga)"
        assert str(LUCID_2024) == "29 (2024.1)"
        assert str(Release(99)) == "99"


class TestCheck:
    # The table of the facts: the key, what it is worth, the first release that takes it.
    TABLE = (
        ({"numa_policy": "preferred"}, 17, "numa-policy preferred needs Nova 17 (Queens)"),
        ({"numa_policy": "socket"}, 23, "numa-policy socket needs Nova 23 (Wallaby)"),
        ({"resource_class": "GPU"}, 27, "resource-class needs Nova 27 (2023.1)"),
        ({"traits": "BLUE"}, 27, "traits needs Nova 27 (2023.1)"),
        ({"resource_class": "GPU", "alias": ""}, 26, "resource-class needs Nova 26 (Zed)"),
        ({"traits": "BLUE", "alias": ""}, 26, "traits needs Nova 26 (Zed)"),
        ({"managed": "false"}, 31, "managed needs Nova 31 (2025.1)"),
        ({"live_migratable": "true"}, 31, "live-migratable needs Nova 31 (2025.1)"),
        ({"trusted": "true"}, 18, "trusted needs Nova 18 (Rocky)"),
        ({"physical_network": "net"}, 17, "physical-network needs Nova 17 (Queens)"),
        ({"one_time_use": "true"}, 32, "one-time-use needs Nova 32 (2025.2)"),
    )

    @pytest.mark.parametrize(("keys", "since", "message"), TABLE, ids=str)
    def test_refused_before_and_taken_from_then_on(self, keys: dict, since: int, message: str):
        wanted = devices.parse(item(**keys))
        with pytest.raises(errors.OptionError) as refused:
            nova_release.check(wanted, Release(since - 1))
        assert message in str(refused.value)
        assert str(refused.value).startswith("devices: item 1 ")
        assert f"this unit has Nova {Release(since - 1)}" in str(refused.value)
        nova_release.check(wanted, Release(since))

    @pytest.mark.parametrize(
        "devices",
        ["gpu=10de:1bb0", "10de:1bb0", item(device_type="type-PF"), item(companions="false")],
    )
    def test_what_every_release_takes(self, devices: str):
        nova_release.check(devices_option.parse(devices), Release(17))
        nova_release.check(devices_option.parse(devices), None)

    @pytest.mark.parametrize("value", ["true", "false"])
    def test_one_time_use_is_for_no_vf(self, value: str):
        wanted = devices.parse(item(one_time_use=value, device_type="type-VF"))
        with pytest.raises(errors.OptionError, match="one-time-use is for whole devices"):
            nova_release.check(wanted, Release(34))
        # A controller is told nothing of it.
        nova_release.check(wanted, Release(34), (nova_release.ALIAS,))

    @pytest.mark.parametrize(
        ("major", "name"),
        [(18, "Rocky"), (19, "Stein"), (20, "Train"), (21, "Ussuri"), (22, "Victoria"),
         (24, "Xena"), (34, "2026.2"), (35, None)],
    )  # fmt: skip
    def test_releases_have_names(self, major: int, name: str | None):
        assert nova_release.name_of(major) == (f"{major} ({name})" if name else str(major))

    def test_names_the_item(self):
        devices = f"['gpu=10de:1eb8', {item(managed='true')[1:]}"
        _, error = made.attempt(nova_release.check, devices_option.parse(devices), YOGA)
        assert error is not None
        assert error.item == "item 2 gpu=10de:1bb0"

    def test_a_controller_minds_the_aliases_only(self):
        nova_release.check(devices.parse(item(managed="true")), YOGA, (ALIAS,))
        wanted = devices.parse(item(live_migratable="true"))
        _, error = made.attempt(nova_release.check, wanted, YOGA, (ALIAS,))
        assert error is not None

    def test_an_unknown_release_is_trusted_with_no_key(self):
        _, error = made.attempt(nova_release.check, devices.parse(item(traits="BLUE")), None)
        assert error is not None
        assert "this unit has no nova-common" in str(error)


class TestKeys:
    def test_one_row_a_key_and_place(self):
        rows = [(key.name, key.where) for key in nova_release.KEYS]
        assert len(set(rows)) == len(rows)

    def test_every_row_belongs_to_a_key_of_devices(self):
        for key in nova_release.KEYS:
            reader = devices_option.KEYS[key.option][1]
            value = {values.read_numa_policy: "socket", values.read_bool: "true"}
            devices = item(**{key.option: value.get(reader, "BLUE")})
            assert key.needs(devices_option.parse(devices).items[0]) is not None

    def test_values_are_strings_as_nova_wants_them(self):
        everything = item(
            numa_policy="socket",
            resource_class="gpu",
            traits="red, blue",
            managed="false",
            live_migratable="true",
        )
        parsed = devices.parse(everything).items[0]
        assert nova_release.keys_of(parsed, ALIAS) == {
            "numa_policy": "socket",
            "resource_class": "GPU",
            "traits": "BLUE,RED",
            "live_migratable": "yes",
        }
        assert nova_release.keys_of(parsed, DEVICE_SPEC) == {
            "resource_class": "GPU",
            "traits": "BLUE,RED",
            "live_migratable": "yes",
            "managed": "no",
        }


def write(root, text: str) -> None:
    path = root / nova_release.STATUS
    path.parent.mkdir(parents=True)
    path.write_text(text)
