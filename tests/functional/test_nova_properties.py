"""Whatever ``devices`` is accepted, the real Nova takes what becomes of it.

Hypothesis makes up options and hosts; each accepted pair becomes configuration files, and one Nova
process judges them all.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
from typing import Any

import hypothesis
from charms.pci_passthrough.v0 import nova_pci
from functional import nova_client
from hypothesis import strategies as st

from passthrough import pci_address
from passthrough.config import options
from passthrough.errors import OptionError
from passthrough.host import pci
from passthrough.nova import conf as nova_conf
from passthrough.nova import facts as nova_facts
from passthrough.nova import lines as nova_lines
from passthrough.nova import offer as nova_offer
from passthrough.nova import publication
from passthrough.nova.release import Release
from passthrough.planning import claims, templates

EXAMPLES = 500
CARD, OTHER, PF, VF = "10de:1bb0", "10de:1eb8", "8086:10fb", "8086:10ed"
# What an operator may have set, valid by itself.
OPERATORS = (
    "",
    '[pci]\nalias = {"name": "a", "vendor_id": "10de", "product_id": "1bb0"}\n',
    '[pci]\nalias = {"name": "b", "vendor_id": "10de", "product_id": "1eb8",'
    ' "device_type": "type-PF", "numa_policy": "required"}\n',
    '[DEFAULT]\npci_alias = {"name": "a", "vendor_id": "8086", "product_id": "10fb",'
    ' "device_type": "type-PF"}\n',
    "[filter_scheduler]\npci_in_placement = True\n",
    "[pci]\nreport_in_placement = True\n",
)
HOSTILE = st.sampled_from(
    ["", "$x", "$(id)", '"', "'", "\\", "{", "a\nb", "a b", "%s", "None", "ä", "a" * 300, "-", "#"]
)


@dataclasses.dataclass(frozen=True)
class Example:
    """One option and one host, and what Nova is beside it."""

    devices: str
    report_in_placement: bool
    functions: tuple[pci.Function, ...]
    release: int
    operator: str


def addresses(draw: st.DrawFn) -> str:
    domain = draw(st.sampled_from(["0000", "0000", "0000", "0001", "ffff", "10000"]))
    bus = draw(st.sampled_from(["03", "83", "84", "fe"]))
    return f"{domain}:{bus}:{draw(st.sampled_from(['00', '1f']))}.{draw(st.integers(0, 7))}"


@st.composite
def hosts(draw: st.DrawFn) -> tuple[pci.Function, ...]:
    """Functions on vfio-pci, each in its own group; PFs with VFs of their own or of their id."""
    found: dict[str, pci.Function] = {}

    def add(address: str, identity: str, **values: Any) -> None:
        vendor, _, product = identity.partition(":")
        values.setdefault("driver", draw(st.sampled_from(["vfio-pci"] * 4 + ["native", None])))
        found.setdefault(
            address,
            pci.Function(address, vendor, product, 0x020000, group=len(found), **values),
        )

    for _ in range(draw(st.integers(0, 4))):
        add(addresses(draw), draw(st.sampled_from([CARD, CARD, OTHER])))
    if draw(st.booleans()):
        physfn = "0000:05:00.0"
        add(physfn, PF, total_vfs=8)
        for number in range(draw(st.integers(0, 3))):
            identity = draw(st.sampled_from([VF, VF, PF]))
            add(f"0000:05:10.{number}", identity, physfn=physfn)
    return tuple(found[each] for each in sorted(found, key=pci_address.sort_key))


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Now and then something hostile instead."""
    return st.integers(0, 79).flatmap(lambda number: good if number else HOSTILE)


@st.composite
def items(draw: st.DrawFn, function: pci.Function | None) -> dict[str, Any]:
    """An item for a function that is there, or for none."""
    ids = [function.id] if function else [CARD, OTHER, PF, VF]
    kind = function.device_type if function else "type-PCI"
    item: dict[str, Any] = {"id": draw(mostly(st.sampled_from(ids)))}
    optional = {
        "alias": st.sampled_from(["a", "b", "gpu.1", "A_-9", "a|c", ["b", "d"]]),
        "address": st.sampled_from([function.address] if function else ["*:0[35]:*.*", "83:00.?"]),
        "device-type": st.sampled_from([kind, kind, kind, "type-PCI", "type-PF", "type-VF"]),
        "numa-policy": st.sampled_from(["legacy", "preferred", "required", "socket"]),
        "resource-class": st.sampled_from(["gpu", "CUSTOM_GPU", "VGPU", "_"]),
        "traits": st.lists(st.sampled_from(["blue", "HW_CPU_X86_AVX", "x_1"]), min_size=1),
        "live-migratable": st.sampled_from(["true", "false"]),
        "managed": st.sampled_from(["true", "false"]),
        "physical-network": st.sampled_from(["physnet1", "dc-1_a.b:c"]),
        "trusted": st.sampled_from(["true", "false"]),
        "one-time-use": st.sampled_from(["true", "false"]),
    }
    for key, values in optional.items():
        often = key in ("alias", "address") or (key == "device-type" and kind != "type-PCI")
        if draw(st.integers(0, 4)) < (4 if often else 1):
            item[key] = draw(mostly(values))
    return item


@st.composite
def examples(draw: st.DrawFn) -> Example:
    functions = draw(hosts())
    subjects = draw(st.lists(st.sampled_from([*functions, None]), max_size=4, unique=True))
    wanted = [draw(items(each)) for each in subjects]
    return Example(
        devices=json.dumps(wanted),
        report_in_placement=draw(st.integers(0, 2)) == 0,
        functions=functions,
        release=draw(st.sampled_from([25, 27, 29, 33, 34, 34, 34, 34, 34])),
        operator=draw(st.sampled_from(OPERATORS)),
    )


def config(text: str) -> nova_conf.Config:
    parsed = nova_conf.parse(text)
    return nova_conf.Config(tuple(nova_conf.Value("/etc/nova/nova.conf", *each) for each in parsed))


def offer_of(example: Example) -> tuple[nova_offer.Offer, publication.Publication]:
    """What the two roles make of an example; OptionError where it is refused."""
    wanted = options.parse(
        {"devices": example.devices, "report-in-placement": example.report_in_placement}
    )
    host = pci.Host({each.address: each for each in example.functions})
    outcome = claims.decide(wanted.devices, host)
    release = Release(example.release)
    beside = config(example.operator)
    facts = nova_facts.Facts(release=release, config=beside, group=64060)
    verified = nova_offer.find_verified(outcome)
    offer = nova_offer.decide(wanted, outcome, verified, facts, templates.Renderer())
    memory = publication.Memory()
    return offer, publication.decide(wanted, release, beside, None, memory)


def is_blocked(example: Example) -> bool:
    """Whether an item is refused, as for a type that Nova would never match."""
    host = pci.Host({each.address: each for each in example.functions})
    return bool(claims.decide(options.parse({"devices": example.devices}).devices, host).blocking)


def describe(function: pci.Function) -> dict[str, Any]:
    """A function as Nova's driver lists it."""
    device = {
        "address": function.address,
        "vendor_id": function.vendor,
        "product_id": function.product,
        "dev_type": function.device_type,
    }
    return {**device, "parent_addr": function.physfn} if function.physfn else device


def expected(example: Example, offer: nova_offer.Offer) -> list[str]:
    """The functions that Nova should match: those offered, and what Nova takes for their VFs."""
    offered = {
        each["address"]: (each["vendor_id"], each["product_id"]) for each in offer.device_specs
    }
    return sorted(
        each.address
        for each in example.functions
        if (each.vendor, each.product)
        in (offered.get(each.address), offered.get(each.physfn or ""))
    )


def write(directory: pathlib.Path, name: str, *texts: str) -> list[str]:
    """Write texts to files; their names."""
    names = []
    for number, text in enumerate(texts):
        path = directory / f"{name}-{number}.conf"
        path.write_text(text)
        names.append(str(path))
    return names


def render(published: publication.Publication, operator: str) -> str:
    """A controller's nova.conf: what was sent stands in front of what the operator has set."""
    lines = ["[DEFAULT]"]
    if published.payload:
        content = json.loads(published.payload)["nova"]["/etc/nova/nova.conf"]
        lines += [f"{key} = {value}" for key, value in content["sections"]["DEFAULT"]]
    return "\n".join([*lines, operator])


def test_nova_takes_whatever_is_accepted(nova: nova_client.NovaClient, tmp_path: pathlib.Path):
    accepted: list[tuple[Example, nova_offer.Offer, publication.Publication]] = []
    seen: collections.Counter[str] = collections.Counter()

    @hypothesis.settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    @hypothesis.given(examples())
    def collect(example: Example) -> None:
        try:
            accepted.append((example, *offer_of(example)))
            seen["accepted"] += 1
        except OptionError:
            seen["refused"] += 1

    collect()
    # A generator that makes nothing but one kind of example proves nothing.
    assert min(seen["accepted"], seen["refused"]) > EXAMPLES // 8, seen
    for number, (example, offer, published) in enumerate(accepted):
        names = {alias["name"] for alias in offer.aliases}
        flavors = [f"{name}:1" for name in sorted(names)]
        on_host = nova.ask(
            files=write(tmp_path, f"compute-{number}", example.operator, offer.content or ""),
            devices=[describe(each) for each in example.functions],
            flavors=flavors,
        )
        assert "error" not in on_host, (example, offer.content, on_host)
        assert on_host["assignable"] == expected(example, offer), (example, offer.content)
        assert names <= set(on_host["aliases"]), example
        # The library takes everything that the charm hands to it: anything else ends a hook.
        for alias in (*offer.aliases, *published.aliases):
            nova_pci.Alias(**alias)
        for device_spec in offer.device_specs:
            nova_pci.DeviceSpec(**device_spec)
        on_controller = nova.ask(
            files=write(tmp_path, f"controller-{number}", render(published, example.operator)),
            devices=[],
        )
        assert "error" not in on_controller, (example, published.payload, on_controller)
        sent = {alias["name"] for alias in published.aliases}
        assert sent <= set(on_controller["aliases"]), example
        seen["offered"] += len(on_host["assignable"]) > 0
        seen["scheduled"] += any(on_host["passes"].values())
        seen["problems"] += bool(offer.problems or is_blocked(example))
    assert min(seen["offered"], seen["scheduled"], seen["problems"]) > 10, seen


@hypothesis.settings(max_examples=200, derandomize=True, database=None, deadline=None)
@hypothesis.given(
    st.dictionaries(
        st.sampled_from(["alias", "id", "address", "traits", "resource-class", "numa-policy"]),
        st.one_of(HOSTILE, st.text(max_size=30)),
    ).map(lambda item: json.dumps([{"alias": "a", "id": CARD, **item}]))
)
def test_no_text_becomes_another_line_of_nova_conf(devices: str):
    """What is refused never gets as far as a text; what is accepted stays on its own line."""
    try:
        wanted = options.parse({"devices": devices})
    except OptionError:
        return
    aliases = nova_lines.aliases(wanted.devices)
    text = nova_lines.DropIn("pci-passthrough", Release(34), (), aliases, False).render(
        templates.Renderer()
    )
    keys = [(section, key) for section, key, _ in nova_conf.parse(text or "")]
    assert keys == [("pci", "alias")] * len(aliases)
    assert "$" not in (text or "")
