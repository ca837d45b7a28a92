"""Options as plain values: what a class calls its fields, and in which order, does not count."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from passthrough.config import devices, options, spelling

EVERYTHING = {
    "devices": """\
- alias: gpu
  id: 10de:1bb0
  address: ['0000:83:00.0', '0000:8[45]:00.0']
  device-type: type-PF
  numa-policy: preferred
  resource-class: gpu_big
  traits: [fast, large]
  live-migratable: true
  managed: false
  physical-network: physnet1
  trusted: true
  one-time-use: false
  exclude: 84:00.0
  driver: vfio-pci
  quarantine: manual
  companions: false
  allow-in-use: true
- 144d:a808
""",
    "iommu": "off",
    "iommu-passthrough": True,
    "allow-unsafe-interrupts": True,
    "blacklist-drivers": "nouveau,nvidiafb",
    "kernel-options": "a=b pci=realloc",
    "report-in-placement": True,
    "reboot": "when-idle",
    "on-removal": "keep",
    "host-exceptions": "compute-7=83:00.0",
}
GPUS = {
    "devices": "gpu=10de:1bb0@0000:83:00.0, gpu=10de:1bb0@0000:84:00.0",
    "reboot": "when-idle",
}


def test_every_option_stands_under_the_name_that_an_operator_gives_it():
    assert spelling.spell(options.parse(EVERYTHING)) == {
        "devices": [
            {
                "id": "10de:1bb0",
                "address": ["0000:83:00.0", "0000:8[45]:00.0"],
                "alias": "gpu",
                "device-type": "type-PF",
                "numa-policy": "preferred",
                "resource-class": "GPU_BIG",
                "traits": ["FAST", "LARGE"],
                "live-migratable": True,
                "managed": False,
                "physical-network": "physnet1",
                "trusted": True,
                "one-time-use": False,
                "exclude": ["0000:84:00.0"],
                "driver": "vfio-pci",
                "quarantine": "manual",
                "companions": False,
                "allow-in-use": True,
            },
            {"id": "144d:a808"},
        ],
        "iommu": "off",
        "iommu-passthrough": True,
        "allow-unsafe-interrupts": True,
        "blacklist-drivers": ["nouveau", "nvidiafb"],
        "kernel-options": ["a=b", "pci=realloc"],
        "report-in-placement": True,
        "reboot": "when-idle",
        "on-removal": "keep",
        "host-exceptions": ["compute-7=0000:83:00.0"],
    }


def test_what_has_its_default_is_left_out():
    assert spelling.spell(options.parse({})) == {}
    assert spelling.spell(options.parse({"blacklist-drivers": "auto", "iommu": "auto"})) == {}
    assert spelling.spell(options.parse({"iommu": "manual"})) == {"iommu": "off"}
    assert spelling.spell(options.parse({"blacklist-drivers": ""})) == {"blacklist-drivers": []}


def test_two_names_of_an_alias_are_another_spelling_than_one():
    """And one name is spelled as ever: a refresh of the charm changes no digest."""
    both, one = (options.parse({"devices": f"{name}=10de:1bb0"}) for name in ("a|b", "a"))
    assert spelling.spell(both) == {"devices": [{"alias": "a|b", "id": "10de:1bb0"}]}
    assert spelling.spell(one) == {"devices": [{"alias": "a", "id": "10de:1bb0"}]}


def test_the_order_of_the_fields_does_not_count():
    def turned(value):
        fields = [field.name for field in reversed(dataclasses.fields(value))]
        kind = dataclasses.make_dataclass(type(value).__name__, fields)
        return kind(**{name: getattr(value, name) for name in fields})

    wanted = options.parse(GPUS)
    assert repr(turned(wanted)) != repr(wanted)
    assert spelling.spell(turned(wanted)) == spelling.spell(wanted)


@pytest.mark.parametrize(
    "field",
    # That a unit leaves is no option, and a host that it has left holds no digest of it.
    [each.name for each in dataclasses.fields(options.Options) if each.name != "leaving"],
)
def test_no_option_is_forgotten(field: str):
    everything = options.parse(EVERYTHING)
    changed = dataclasses.replace(options.Options(), **{field: getattr(everything, field)})
    assert len(spelling.spell(changed)) == 1
    assert spelling.spell(changed).items() <= spelling.spell(everything).items()


@pytest.mark.parametrize(
    "field",
    [each.name for each in dataclasses.fields(devices.Item) if each.name != "position"],
)
def test_no_key_of_an_item_is_forgotten(field: str):
    (claims, _) = options.parse(EVERYTHING).devices.items
    (counts,) = options.parse({"devices": "- {id: 8086:10c9, vfs: 4}"}).devices.items
    everything = dataclasses.replace(claims, vfs=counts.vfs)  # the one that stands beside no other
    plain = devices.Item(position=1, vendor="0000", product="0000")
    changed = dataclasses.replace(plain, **{field: getattr(everything, field)})
    assert spelling.spell_item(changed) != spelling.spell_item(plain)


def test_an_items_place_is_the_lists():
    one, other = options.parse(GPUS).devices.items
    turned = devices.Spec((other, one))
    assert spelling.spell(dataclasses.replace(options.Options(), devices=turned)) != spelling.spell(
        dataclasses.replace(options.Options(), devices=devices.Spec((one, other)))
    )


@pytest.mark.parametrize(
    ("config", "digest"),
    [
        ({}, "862865c2978ccb88b71d278a6cf3347b730d4a1b1d5ae5c25d1b0907ec0bb5c2"),
        (GPUS, "92b2edd8688964b767530fd18cea9f096a0e66595320c243b330fcc503435efa"),
        (EVERYTHING, "fcbdaf089479c48699998383e04aa0a58a898ff45260ad958976a427be325428"),
    ],
    ids=["nothing", "gpus", "everything"],
)
def test_the_first_release_spelled_them_so(config: dict[str, object], digest: str):
    """The digests are 52ee0af's own, of the same configurations."""
    spelled = spelling.spell_as_first_release(options.parse(config))
    assert hashlib.sha256(spelled.encode()).hexdigest() == digest
