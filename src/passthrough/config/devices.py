"""The ``devices`` option: parse it, validate it, and hold it as values."""

from __future__ import annotations

import collections
import fnmatch
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from passthrough import frozen, pci_address
from passthrough.config import pasted, values, words
from passthrough.errors import OptionError
from passthrough.system.quoting import show

MAX_ITEMS = 256
MAX_LENGTH = 1 << 20

# The values of an item's ``quarantine``.
AUTO, MANUAL = values.QUARANTINES

_GRAMMAR = "[ALIAS=]VENDOR:PRODUCT[@ADDRESS]"


class Item(frozen.Value):
    """One item of ``devices``: a model, narrowed by addresses, and what to tell Nova of it.

    A field that is None was not given.

    Attributes:
        position: the item's place in the option, from 1.
        vendor: four lower-case hex digits.
        product: four lower-case hex digits.
        addresses: lower-case globs, as a shell has them, each with a domain; none of them means any
            address.
        exclude: lower-case globs of addresses that the item leaves out, companions too.
        vfs: how many VFs each of its functions shall have; the item then claims none of them.
        quarantine: ``auto``, or ``manual`` where what is sick stays offered until a person acts.
        alias: the name of Nova's alias; while one is renamed, both names with ``|`` between them.
        device_type: ``type-PCI``, ``type-PF`` or ``type-VF``: what the item claims, and what its
            alias asks for.
        numa_policy: Nova's numa_policy.
        resource_class: Placement's resource class, in upper case.
        traits: Placement's traits, in upper case, sorted.
        live_migratable: whether Nova may migrate a guest that has the device.
        managed: whether libvirt binds the device and gives it back.
        physical_network: Neutron's physical network that the device is on.
        trusted: whether a guest may be trusted with the VF's own settings.
        one_time_use: whether Nova reserves the device once a guest has had it.
        companions: whether the card's functions of other models are claimed, too.
        allow_in_use: whether the item overrides the guards that can be overridden.
        driver: the VFIO driver that it is claimed with; None for the one that the kernel names.
    """

    position: int
    vendor: str
    product: str
    addresses: tuple[str, ...] = ()
    alias: str | None = None
    device_type: str | None = None
    numa_policy: str | None = None
    resource_class: str | None = None
    traits: tuple[str, ...] = ()
    live_migratable: bool | None = None
    managed: bool | None = None
    physical_network: str | None = None
    trusted: bool | None = None
    one_time_use: bool | None = None
    companions: bool = True
    allow_in_use: bool = False
    exclude: tuple[str, ...] = ()
    driver: str | None = None
    vfs: int | None = None
    quarantine: str = AUTO

    @property
    def id(self) -> str:
        """``vendor:product``, the way lspci prints it."""
        return f"{self.vendor}:{self.product}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of Nova's aliases for the item; more than one while an alias is renamed."""
        return tuple(self.alias.split(values.ALIAS_BAR)) if self.alias else ()

    @property
    def alias_type(self) -> str:
        """The device type that the item's alias has; Nova takes none for ``type-PCI``."""
        return self.device_type or values.DEFAULT_DEVICE_TYPE

    @property
    def takes_vfs_alone(self) -> bool:
        """Whether the item asks for VFs and nothing else."""
        return self.device_type == "type-VF"

    @property
    def label(self) -> str:
        """The item's name in a message, such as ``item 2 gpu=10de:1bb0``."""
        return f"item {self.position} {self}"

    @property
    def exact_addresses(self) -> tuple[str, ...]:
        """The addresses that name one function, and are no pattern."""
        return tuple(address for address in self.addresses if pci_address.is_exact(address))

    def covers(self, address: str) -> bool:
        """Tell whether the item's addresses admit ``address``, whatever it excludes."""
        return not self.addresses or _fits(self.addresses, address)

    def excludes(self, address: str) -> bool:
        """Tell whether the item leaves out ``address``, whatever it asks for."""
        return _fits(self.exclude, address)

    def __str__(self) -> str:
        name = f"{self.alias}={self.id}" if self.alias else self.id
        if self.device_type:
            name += f"/{self.device_type.removeprefix(values.TYPE_PREFIX)}"
        return f"{name}@{','.join(self.addresses)}" if self.addresses else name


class Spec(frozen.Value):
    """The whole ``devices`` option, in the operator's order.

    ``excepted`` are the globs of addresses that one host leaves out, once the host is known.
    """

    items: tuple[Item, ...] = ()
    excepted: tuple[str, ...] = ()

    def excepts(self, address: str) -> bool:
        """Tell whether this host leaves out ``address``, whatever an item asks for."""
        return _fits(self.excepted, address)

    def aliases(self) -> dict[str, tuple[Item, ...]]:
        """Group the items that have an alias by each of its names, sorted by name."""
        found: dict[str, list[Item]] = {}
        for item in self.items:
            for name in item.names:
                found.setdefault(name, []).append(item)
        return {alias: tuple(found[alias]) for alias in sorted(found)}


def parse(text: str) -> Spec:
    """Parse the ``devices`` option, in its short or its YAML form.

    Args:
        text: items ``[ALIAS=]VENDOR:PRODUCT[/TYPE][@ADDRESS]`` with commas, spaces or newlines
            between them; or a YAML list of such strings and of mappings, without its brackets where
            it begins with a mapping. Empty text asks for nothing.

    Returns:
        The items, in the operator's order.

    Raises:
        OptionError: when the option does not accept the text; names the item and the way out.
    """
    if len(text) > MAX_LENGTH:
        raise OptionError("devices", f"{len(text)} characters; at most {MAX_LENGTH} are accepted")
    entries = _split(text.removeprefix("\ufeff").replace("\t", " ").replace("\r\n", "\n"))
    if len(entries) > MAX_ITEMS:
        raise OptionError(
            "devices",
            f"there are {len(entries)}, and at most {MAX_ITEMS} are accepted. One item by id"
            " alone, or with an address glob such as 0000:8[34]:00.0, covers many devices",
            words.label(MAX_ITEMS + 1, entries[MAX_ITEMS]),
        )
    items = tuple(_parse_entry(entry, number) for number, entry in enumerate(entries, 1))
    _check_repeats(items)
    spec = Spec(items)
    _check_aliases(spec)
    return spec


def _split(text: str) -> list[object]:
    """Split the option into items, in either form; comments are blanks in both."""
    plain = words.without_comments(text).strip()
    is_yaml = plain.startswith(("-", "[", "{"))
    mistake = pasted.of_any(plain) or (None if is_yaml else pasted.of_text(plain, KEYS))
    if mistake:
        raise OptionError(
            "devices", mistake.fact, words.label(1, plain.split()[0]), mistake.way_out
        )
    if is_yaml:
        return _load_yaml(f"[{text}\n]" if plain.startswith("{") else text)
    return [entry for entry in re.split(r"[,\s]+", plain) if entry]


def text_of(item: Item, **changes: Any) -> str:
    """Write an item as it is pasted, alone or into a list: in the short form where that holds it.

    Args:
        item: the item.
        changes: fields that the text shall have otherwise.
    """
    changed = frozen.replace(item, **changes)
    short = Item(
        changed.position,
        changed.vendor,
        changed.product,
        changed.addresses,
        changed.alias,
        changed.device_type,
    )
    if changed == short and len(changed.addresses) <= 1:
        return str(changed)
    blank = Item(0, "", "")
    given: dict[str, object] = {}
    for key, (field, _) in KEYS.items():
        value = getattr(changed, field)
        if value != getattr(blank, field):
            given[key] = value
    if len(changed.addresses) == 1:
        given["address"] = changed.addresses[0]
    return json.dumps(given)


def _fits(patterns: Iterable[str], address: str) -> bool:
    return any(_matcher(pattern).fullmatch(address) for pattern in patterns)


@functools.lru_cache(maxsize=1024)
def _matcher(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def _load_yaml(text: str) -> list[object]:
    import yaml  # only the long form needs it

    class Loader(yaml.BaseLoader):
        # BaseLoader keeps every scalar a string; YAML 1.1 would read the address 0000:03:00.0 as a
        # number in base 60. It builds every mapping here, whatever the mapping's tag.
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            counts = collections.Counter(
                key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)
            )
            repeated = sorted(key for key, count in counts.items() if count > 1)
            if repeated:
                raise OptionError(
                    "devices",
                    f"the key {show(repeated[0])} stands twice; YAML would keep only one of them",
                    f"mapping at line {node.start_mark.line + 1}",
                )
            return super().construct_mapping(node, deep)

    try:
        loaded = yaml.load(text, Loader=Loader)  # noqa: S506 - BaseLoader builds only text
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = show(getattr(error, "problem", None) or str(error))
        raise OptionError("devices", f"not readable as YAML{where}: {problem}") from error
    except RecursionError as error:
        raise OptionError("devices", "not readable as YAML: nested too deeply") from error
    if not isinstance(loaded, list):
        raise OptionError("devices", "the YAML form is a list of items, each behind a dash")
    return cast("list[object]", loaded)


def _parse_entry(entry: object, number: int) -> Item:
    label = words.label(number, entry)
    try:
        if isinstance(entry, str):
            return _parse_short(entry, number)
        if isinstance(entry, Mapping):
            return _parse_mapping(cast("Mapping[object, object]", entry), number)
        raise values.NotAcceptedError(f"neither {_GRAMMAR} nor a mapping")
    except values.NotAcceptedError as error:
        raise OptionError("devices", error.fact, label, error.way_out) from error


def _parse_short(text: str, number: int) -> Item:
    mistake = pasted.of_entry(text)
    if mistake:
        raise values.NotAcceptedError(*mistake)
    name, equals, rest = text.rpartition("=")
    identity, at, address = rest.partition("@")
    if at and not address:
        raise values.NotAcceptedError("no address behind the @", f"write {_GRAMMAR}")
    if equals and not name:
        raise values.NotAcceptedError("no alias before the =", f"write {_GRAMMAR}")
    identity, slash, kind = identity.partition("/")
    vendor, product = values.read_id(identity)
    return Item(
        position=number,
        vendor=vendor,
        product=product,
        addresses=(values.read_address(address),) if at else (),
        alias=values.read_aliases(name) if equals else None,
        device_type=values.read_short_type(kind) if slash else None,
    )


# A row for each key of the YAML form: the field of Item that it fills, and its reader.
KEYS: dict[str, tuple[str, Callable[[object], object]]] = {
    "alias": ("alias", values.read_aliases),
    "id": ("id", values.read_id),
    "address": ("addresses", values.read_addresses),
    "exclude": ("exclude", values.read_addresses),
    "device-type": ("device_type", values.read_device_type),
    "numa-policy": ("numa_policy", values.read_numa_policy),
    "resource-class": ("resource_class", values.read_custom_name),
    "traits": ("traits", values.read_traits),
    "live-migratable": ("live_migratable", values.read_bool),
    "managed": ("managed", values.read_bool),
    "physical-network": ("physical_network", values.read_physical_network),
    "trusted": ("trusted", values.read_bool),
    "one-time-use": ("one_time_use", values.read_bool),
    "driver": ("driver", values.read_vfio_driver),
    "quarantine": ("quarantine", values.read_quarantine),
    "companions": ("companions", values.read_bool),
    "allow-in-use": ("allow_in_use", values.read_bool),
    "vfs": ("vfs", values.read_count),
}
# What an item can say besides whose VFs it asks for: it claims nothing that the rest is about.
_BESIDE_VFS = ("id", "address", "exclude", "vfs")


def _parse_mapping(entry: Mapping[object, object], number: int) -> Item:
    unknown = sorted(show(key) for key in entry if key not in KEYS)
    if unknown:
        meant = pasted.of_keys(entry, KEYS)
        ways = [f"the keys are {', '.join(KEYS)}", *([meant] if meant else [])]
        raise values.NotAcceptedError(f"unknown key {unknown[0]}", "; ".join(ways))
    if "id" not in entry:
        raise values.NotAcceptedError(
            "no id; every item needs VENDOR:PRODUCT, so that a card that moved to another slot"
            " is never taken for another"
        )
    read: dict[str, Any] = {}
    for key, value in entry.items():
        field, reader = KEYS[str(key)]
        try:
            read[field] = reader(value)
        except values.NotAcceptedError as error:
            raise values.NotAcceptedError(f"{key}: {error.fact}", error.way_out) from error
    vendor, product = read.pop("id")
    strange = [str(key) for key in entry if "vfs" in read and key not in _BESIDE_VFS]
    if strange:
        raise values.NotAcceptedError(
            f"{strange[0]} beside vfs: the card stays with the host, and its VFs have their own id",
            f"write a second item for the VFs, with {strange[0]}",
        )
    return Item(position=number, vendor=vendor, product=product, **read)


def _check_repeats(items: tuple[Item, ...]) -> None:
    seen: dict[tuple[str, str | None, str], Item] = {}
    for item in items:
        for address in item.addresses or ("",):
            first = seen.setdefault((item.id, item.device_type, address), item)
            if first is not item:
                raise OptionError(
                    "devices",
                    f"repeats item {first.position} ({first}); a device can be claimed once",
                    words.label(item.position, str(item)),
                )


def _check_aliases(spec: Spec) -> None:
    """Refuse an alias whose items differ in device type or NUMA policy, as Nova does.

    Source: the alias schema and its checks in nova/pci/request.py.
    """
    for alias, items in spec.aliases().items():
        for item in items[1:]:
            for name in ("device_type", "numa_policy"):
                ours, theirs = getattr(item, name), getattr(items[0], name)
                if ours != theirs:
                    key = name.replace("_", "-")
                    raise OptionError(
                        "devices",
                        f"{key} is {ours or 'not set'}, but item {items[0].position} of the same"
                        f" alias says {theirs or 'not set'}; Nova wants one {key} per alias",
                        f"item {item.position} alias {alias}",
                    )
