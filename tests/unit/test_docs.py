"""The documentation is complete and true: what exists is documented, and what is shown is real.

These tests fail when an option, an action or a field of its results, a file, a status, a refusal, a
check, an endpoint or a page is missing, when a link leads nowhere, or when a command of the README
is none of the Makefile's.
"""

from __future__ import annotations

import ast
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import reference
import yaml
from harness import hosttree, made, madenova, world
from lab import matrix

import cos
from passthrough import caretaker, enums, survey
from passthrough.config import devices, options
from passthrough.effects import handing, nrpe
from passthrough.host import exporter_files, initramfs, pci, watch
from passthrough.nova import lines as nova_lines
from passthrough.nova import publication
from passthrough.nova.release import Release
from passthrough.planning import boot_files, guards, health
from passthrough.reporting import (
    health_text,
    inventory,
    inventory_tree,
    metrics,
    plan_text,
    status,
    tables,
    taken,
)
from passthrough.reporting import leftovers as hand_made
from passthrough.reporting.verify import nova as nova_checks
from passthrough.reporting.verify import result
from passthrough.site import Site
from passthrough.state import look, record, retries, settled, stuck
from passthrough.system import lock, procfs

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "passthrough"

PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), ROOT / "tests/harness/standin/README.md"])
README = ROOT / "README.md"


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def plain(text: str) -> str:
    """A page's words: no marks, no line breaks."""
    return " ".join(re.sub(r"[`*\\|]", " ", text).split())


def find_marked(page: str, mark: str) -> list[str]:
    """The lines of the block behind ``<!-- checked: MARK -->``, a table or a fenced one."""
    lines = read(page).splitlines()
    start = lines.index(f"<!-- checked: {mark} -->") + 1
    if lines[start].startswith("```"):
        return lines[start + 1 : lines.index("```", start + 1)]
    end = next(
        (at for at, line in enumerate(lines[start:], start) if not line.startswith("|")), len(lines)
    )
    return lines[start + 2 : end]


def first_column(page: str, mark: str) -> list[str]:
    """The names in the first column of a marked table, without their backticks."""
    return [row.split("|")[1].strip().strip("`") for row in find_marked(page, mark)]


def headings(page: str) -> list[str]:
    return re.findall(r"(?m)^## (.+)$", read(page))


# What the code can say


def templates(tree: ast.AST) -> Iterator[str]:
    """Every sentence of a syntax tree: no docstring, no pattern; "…" stands for what is put in."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr):
                skipped.add(first.value)
        if isinstance(node, ast.JoinedStr):
            skipped.update(node.values)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "re.compile":
            skipped.update(ast.walk(node))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(each.value) if isinstance(each, ast.Constant) else "…" for each in node.values
            )
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def parts_of(template: str) -> list[str]:
    """The stretches of a template that are long enough to be looked for."""
    found = [plain(part).strip(" ;:,.()") for part in re.split("…|%s", template)]
    return [part for part in found if len(part.split()) >= 3]


def calls(tree: ast.AST, pattern: str) -> Iterator[ast.Call]:
    """Every call of something whose dotted name matches."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.search(pattern, ast.unparse(node.func)):
            yield node


def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


# All of their sentences can become a status, or of these their errors' alone.
SPEAKING = (
    "effects/images",
    "effects/turns",
    "host/grub",
    "nova/aliases",
    "nova/limits",
    "nova/offer",
    "planning/claims",
    "planning/plan",
    "planning/prerequisites",
    "planning/vfs",
    "planning/viability",
    "reporting/words",
    "reboot",
    "reporting/status",
)
RAISING = (
    "effects/apply",
    "effects/drivers",
    "effects/tools",
    "effects/vfs",
    "errors",
    "naming",
    "state/record",
    "state/stuck",
    "system/commands",
    "system/files",
    "system/lock",
)
# What these modules say elsewhere than in a status.
ELSEWHERE = {
    "a hook of",  # the purpose of a lock
    "is not the name of a Juju application",  # an argument of the command line
    "is not the name of a Juju unit",  # within the message about a damaged record
    "could not be put back",  # the log
    "holds cannot be told",  # the log
    "what the images hold cannot be told: there is none on /boot",  # the log
    "leave it out, or upgrade",
    "it is on",  # the log
    "is not the address of a function",  # within the message about a damaged record
    "has no fingerprint",
    "is not a function with a number of VFs",
    "is no value of sriov_drivers_autoprobe",
    "is no format",
    "is no number",
    "is not claimed on this host",  # an action
    "this unit leaves the host",  # an action
}


def spoken() -> Iterator[tuple[str, str]]:
    """Where and what: every sentence that a status can hold."""
    lasting = [each for each in map(health.Finding, health.Kind) if each.lasts and each.verdict]
    yield from (("planning/health", f"{each.verdict}: … {each.fact}") for each in lasting)
    for name in SPEAKING:
        for template in templates(parse(SOURCE / f"{name}.py")):
            yield name, template
    for name in RAISING:
        tree = parse(SOURCE / f"{name}.py")
        constants = [node for node in tree.body if isinstance(node, ast.Assign)]
        for source in (*calls(tree, r"Error$"), *constants):
            for template in templates(source):
                yield name, template
    for name, pattern in (
        ("summary", r"(Status|Error)$"),
        ("roles", r"Error$"),
        ("ownership", r"(__init__|Error)$"),
    ):
        for call in calls(parse(ROOT / f"src/{name}.py"), pattern):
            for template in templates(call):
                yield name, template


def test_every_status_is_documented():
    page = plain(read("reference/statuses.md"))
    missing = {
        f"{module}: {part}"
        for module, template in spoken()
        for part in parts_of(template)
        if part not in page and part not in ELSEWHERE
    }
    assert sorted(missing) == []


def test_documented_statuses_are_spoken():
    """The other way round: nothing is documented that the code does not say any more."""
    said = " ".join(plain(template) for _, template in spoken())
    options_ = ("devices", "host_exceptions", "kernel_options", "options")
    for name in (f"config/{each}.py" for each in options_):
        said += " ".join(plain(text) for text in templates(parse(SOURCE / name)))
    table_rows = re.findall(r"(?m)^\| .+ \|$", read("reference/statuses.md"))
    messages = []
    for row in table_rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        messages.append(cells[1] if len(cells) == 3 else cells[0])
    unsaid = {
        part
        for message in messages
        if message not in ("message", "---") and "](" not in message
        for part in parts_of(re.sub(r"[;:.,()] |\.$|: ?$", "…", message))
        if part not in re.sub(r"[;:.,()] ", " ", said) and part not in said
    }
    assert sorted(unsaid) == []


# Reference


def test_options_and_actions_are_as_the_yaml_says():
    assert reference.find_outdated() == [], "make reference"


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("reference/options.md", list(read_yaml("config.yaml")["options"])),
        ("reference/actions.md", list(read_yaml("actions.yaml"))),
        ("reference/action-results.md", list(read_yaml("actions.yaml"))),
    ],
)
def test_each_has_its_section(page: str, names: list[str]):
    assert headings(page) == names


def test_keys_of_devices_are_documented():
    assert first_column("reference/devices.md", "keys") == list(devices.KEYS)


def test_refusals_are_documented():
    rules = {
        guards.Rule[argument.attr]
        for module in ("claims", "viability")
        for call in calls(parse(SOURCE / f"planning/{module}.py"), r"^guards\.Objection$")
        for argument in call.args[:1]
        if isinstance(argument, ast.Attribute)
    }
    rules |= {
        guards.Rule[each.attr]
        for each in ast.walk(parse(SOURCE / "planning/vfs.py"))
        if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "guards.Rule"
    }
    documented = first_column("reference/devices.md", "refusals")
    assert set(documented[:-1]) == {*rules, guards.Rule.GROUP_NOT_VIABLE}
    assert "guards.md" in documented[-1]


def test_guards_are_documented():
    page = read("reference/guards.md")
    assert [guard.name for guard in guards.GUARDS if f"`{guard.name}`" not in page] == []


def owned_paths() -> list[str]:
    """Every path that the charm may write, in the names of the documentation."""
    app = "APPLICATION"
    paths = [file.path for file in boot_files.owned_files("x")]
    paths += [*watch.owned_files("x")[1:], *exporter_files.owned_files("x")[1:]]
    paths += [nova_lines.path_of("x"), *nrpe.owned_files("x"), nrpe._report_path("x")]
    named = [path.replace("pci-passthrough-x", "NAME") for path in paths]
    named = [path.replace("pci_passthrough_x", "NAME") for path in named]
    paths = [f"{record.DIRECTORY}/{app}.json", lock.PATH, initramfs.CACHE, stuck.PATH]
    paths += [watch.program_path(app), f"{caretaker.MEMORY}{app}", handing.rules_path("ADDRESS")]
    paths += [exporter_files.program_path(app), f"{look.FOLDER}/{app}.look"]
    rebuild = os.path.relpath(retries._path(Site(pathlib.Path("/"), "x")), "/")
    return [*named, *paths, settled._path("UNIT"), f"{rebuild[:-1]}{app}"]


def test_every_owned_file_is_documented_and_no_other():
    documented = {path.lstrip("/") for path in first_column("reference/files.md", "files")}
    assert documented == set(owned_paths())


def test_endpoints_are_documented():
    metadata = read_yaml("metadata.yaml")
    declared = {**metadata["requires"], **metadata["provides"]}
    rows = {}
    for row in find_marked("reference/relations.md", "endpoints"):
        name, interface, scope = (cell.strip() for cell in row.split("|")[1:4])
        rows[name.strip("`")] = (interface, scope)
    assert rows == {
        name: (endpoint["interface"], endpoint.get("scope", "global"))
        for name, endpoint in declared.items()
    }


def test_metrics_are_documented():
    assert first_column("reference/metrics.md", "metrics") == [each.name for each in metrics.TABLE]


def test_keys_of_the_collectors_databags_are_documented():
    page = read("reference/relations.md")
    names = ("model", "model_uuid", "application", "unit", "charm_name")
    topology: dict[str, str] = dict.fromkeys(names, "x")
    agent = cos.agent_unit(topology, 1)
    told = {**agent, **json.loads(agent["config"]), **cos.scrape_application(topology, 1)}
    told |= cos.scrape_unit("x/0", "192.0.2.1")
    assert [key for key in told if f"`{key}`" not in page] == []


def test_every_alert_is_documented():
    rules = yaml.safe_load(cos.RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert first_column("how-to/monitor.md", "alerts") == [each["alert"] for each in rules]


def test_every_endpoint_is_optional():
    metadata = read_yaml("metadata.yaml")
    declared = {**metadata["requires"], **metadata["provides"]}
    assert [
        name for name, endpoint in declared.items() if endpoint.get("optional") is not True
    ] == []


@pytest.mark.parametrize("bag", ["application", "unit"])
def test_keys_of_nova_pci_are_documented(bag: str):
    text = (ROOT / "lib/charms/pci_passthrough/v0/nova_pci.py").read_text(encoding="utf-8")
    section = text[text.index(f"{bag} databag, written") :]
    keys = re.findall(r"(?m)^``(\w+)`` ", section.split("\n===")[0].split("databag, written")[1])
    assert first_column("reference/relations.md", f"nova-pci {bag}") == keys


SLOTS = (("83", 41), ("84", 42))  # each card's bus, and its IOMMU group once there are any


@pytest.fixture
def seed_host(tmp_path: pathlib.Path) -> hosttree.HostTree:
    """The Charm Guide's hardware, with the names that pci.ids has for it."""
    tree = hosttree.HostTree(tmp_path / "host", ubuntu="22.04")
    for number, (bus, _) in enumerate(SLOTS, 2):
        parent = f"0000:80:0{number}.0"
        tree.bridge(parent, numa=1)
        tree.function(
            f"0000:{bus}:00.0", "10de:1bb0", 0x030000, parent=parent, driver="nouveau", numa=1
        )
        tree.function(
            f"0000:{bus}:00.1", "10de:10f0", 0x040300, parent=parent, driver="snd_hda_intel", numa=1
        )
    tree.write(
        "usr/share/misc/pci.ids",
        "10de  NVIDIA Corporation\n\t10f0  GP104 High Definition Audio Controller\n"
        "\t1bb0  GP104GL [Quadro P5000]\n",
    )
    return tree


def decide(tree: hosttree.HostTree, devices: str) -> survey.Decision:
    return survey.decide(
        options.parse({"devices": devices}), survey.look(Site(tree.root, "pci-passthrough"))
    )


def test_fields_of_list_devices_are_documented(seed_host: hosttree.HostTree):
    described = list(inventory.describe(seed_host.root, pci.read(seed_host.root)))
    assert first_column("reference/action-results.md", "list-devices") == list(described[0])


def test_fields_of_plan_are_documented(seed_host: hosttree.HostTree):
    described = plan_text.describe_plan(decide(seed_host, "10de:1bb0"))
    assert first_column("reference/action-results.md", "plan") == list(described)


def test_fields_of_health_are_documented(seed_host: hosttree.HostTree):
    (judged, *_) = decide(seed_host, "10de:1bb0").health.values()
    described = health_text.describe(judged)
    assert first_column("reference/action-results.md", "health") == list(described)


def test_every_finding_is_documented():
    assert first_column("how-to/sick-device.md", "findings") == list(health.Kind)
    for finding in map(health.Finding, health.Kind):
        row = f"| `{finding.kind}` | {finding.fact} | {finding.verdict or 'a note'} |"
        assert row in read("how-to/sick-device.md")


def test_the_page_has_the_thresholds():
    text = read("how-to/sick-device.md")
    for name, most in (
        ("fatal", health.MOST_FATAL),
        ("nonfatal", health.MOST_NONFATAL),
        ("correctable", health.MOST_CORRECTABLE),
    ):
        assert f"`aer_dev_{name}` is above {most} |" in text


def list_cards(tree: hosttree.HostTree, devices_option: str = "gpu=10de:1bb0") -> list[str]:
    host, processes = pci.read(tree.root), procfs.Processes(tree.root)
    told = {"pci-passthrough": {"devices": devices_option}}
    found = taken.read(tree.root, host, processes, told)
    described = inventory.describe(tree.root, host, processes, taken=found)
    shown = [row for row in described if row["id"].startswith("10de:")]
    return inventory_tree.format_tree(shown).splitlines()


def test_tutorial_shows_the_real_lists(seed_host: hosttree.HostTree):
    assert find_marked("tutorial/first-gpu.md", "before") == list_cards(seed_host)
    reboot_with_groups(seed_host)
    # The two lines below the table were shown before.
    assert find_marked("tutorial/first-gpu.md", "after") == list_cards(seed_host)[:5]


def test_the_tutorial_shows_what_guests_need():
    cards = made.gpus("83", "84", group=41, driver=pci.VFIO_PCI, override=pci.VFIO_PCI)
    text = plan_text.plan_text(madenova.decision("gpu=10de:1bb0", *cards))
    shown = find_marked("tutorial/first-gpu.md", "guests")
    assert "\n".join(["", *shown, ""]) in text


def test_renaming_shows_the_real_answers():
    devices_option = "gpu|p5000=10de:1bb0"
    on_vfio = {"driver": pci.VFIO_PCI, "override": pci.VFIO_PCI}
    cards = made.gpus("83", "84", group=41, **on_vfio)
    host = status.summarize(madenova.decision(devices_option, *cards)).message
    wanted, memory = made.wanted(devices_option), publication.Memory()
    sent = publication.decide(wanted, Release(29), madenova.config(""), None, memory)
    controller = status.summarize_controller(wanted, sent).message
    assert find_marked("how-to/rename-an-alias.md", "both") == [host, controller]
    lines = [f"pci_alias = {nova_lines.to_line(each)}" for each in sent.aliases]
    lines += ["[filter_scheduler]", f"enabled_filters = ComputeFilter,{nova_lines.FILTER}"]
    rendered = madenova.config("\n".join(["[DEFAULT]", *lines]))
    found = publication.decide(wanted, Release(29), rendered, sent.payload, memory)
    checks = nova_checks.check_controller(found, nova_lines.aliases(wanted.devices))
    shown = [line.rstrip() for line in plan_text.checks_table(checks).splitlines()]
    assert find_marked("how-to/rename-an-alias.md", "verify") == shown


@pytest.fixture
def mixed_host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> world.World:
    """A P5000 and an A100 on Ubuntu 24.04, whose IOMMU is on by default."""
    tree = hosttree.HostTree(tmp_path / "host", ubuntu="24.04")
    for bus, identity, class_code, vfs in (
        ("83", "10de:1bb0", 0x030000, 0),
        ("84", "10de:20b5", 0x030200, 16),
    ):
        parent = f"0000:80:0{bus[1]}.0"
        tree.bridge(parent)
        tree.function(
            f"0000:{bus}:00.0",
            identity,
            class_code,
            parent=parent,
            driver="nouveau",
            total_vfs=vfs,
        )
    tree.function(
        "0000:83:00.1", "10de:10f0", 0x040300, parent="0000:80:03.0", driver="snd_hda_intel"
    )
    tree.iommu_on({"0000:83:00.0": 41, "0000:83:00.1": 41, "0000:84:00.0": 42})
    tree.write(
        "usr/share/misc/pci.ids",
        "10de  NVIDIA Corporation\n\t10f0  GP104 High Definition Audio Controller\n"
        "\t1bb0  GP104GL [Quadro P5000]\n\t20b5  GA100 [A100 PCIe 80GB]\n",
    )
    found = world.World.of(tree, monkeypatch)
    found.nova.install()
    return found


def test_the_second_tutorial_shows_the_real_answers(mixed_host: world.World):
    page, tree = "tutorial/sriov-gpu.md", mixed_host.tree
    commands = re.findall(r"(?m)^\$ juju config pci-passthrough devices='(.+)'$", read(page))
    (row,) = [
        each
        for each in inventory.describe(tree.root, pci.read(tree.root))
        if each["id"] == "10de:20b5"
    ]
    assert find_marked(page, "before") == list_cards(tree)
    assert (row["device-type"], find_marked(page, "item")) == ("type-PF", [row["devices"]])
    for mark, devices_option in zip(("refused", "ready"), commands, strict=True):
        said = mixed_host.hook(devices_option)
        text = tables.wrap(f"{said.kind}: {said.message}")
        assert find_marked(page, mark) == text.splitlines()
    assert find_marked(page, "nova") == mixed_host.nova.path.read_text().splitlines()
    # The two lines below the table were shown before.
    assert find_marked(page, "after") == list_cards(tree, commands[-1])[:4]
    red = {name for name, each in mixed_host.checks().items() if each.status != result.OK}
    assert red == {"console"}


def reboot_with_groups(tree: hosttree.HostTree) -> None:
    """Let the IOMMU be on, and the cards on vfio-pci."""
    cards = {f"0000:{bus}:00.{number}": group for bus, group in SLOTS for number in (0, 1)}
    tree.iommu_on(cards)
    for address in cards:
        tree.bind(address, pci.VFIO_PCI)
    with record.open(Site(tree.root, "pci-passthrough")) as ledger:
        ledger.enter(dict.fromkeys(cards), ())


def test_guide_shows_the_real_leftovers(seed_host: hosttree.HostTree):
    from unit.reporting import test_leftovers

    userdata = test_leftovers.GUIDE
    for name, text in (
        ("$BASE64_ENCODED_RC_LOCAL", test_leftovers.GUIDE_RC_LOCAL),
        ("$BASE64_ENCODED_DEFAULT_GRUB", test_leftovers.GUIDE_DEFAULT_GRUB),
    ):
        userdata = userdata.replace(name, test_leftovers.encode(text))
    test_leftovers.run_cloud_init(seed_host.root, userdata)
    leftovers = hand_made.find(seed_host.root)
    text = plan_text.plan_text(decide(seed_host, "gpu=10de:1bb0@0000:83:00.0"), leftovers)
    shown = text[text.index("left over") :].splitlines()
    assert find_marked("how-to/leave-cloudinit-userdata.md", "leftovers") == shown


def test_alert_rule_is_about_the_check():
    rules = yaml.safe_load("\n".join(find_marked("how-to/monitor.md", "rule")))
    (rule,) = rules["groups"][0]["rules"]
    checks = json.loads(nrpe.monitors("pci-passthrough"))["monitors"]["remote"]["nrpe"]
    commands = [check["command"] for check in checks.values()]
    assert f'command="{commands[0]}"' in rule["expr"]
    assert f"{nrpe.MAX_AGE // 60} minutes" in read("how-to/monitor.md")


def check_names(function: ast.FunctionDef) -> set[str]:
    """The first words of the names that a function gives its checks."""
    variables = {
        target.id: node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = set()
    for call in calls(function, r"^(check\.)?Check$"):
        name = call.args[0]
        if isinstance(name, ast.Name):
            name = variables.get(name.id, name)
        found |= {text.replace("…", " ").split()[0] for text in templates(name)}
    return found


def test_every_check_has_its_entry():
    """A check's name is a word, and perhaps what it is about: ``driver 0000:83:00.0``."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for function in ast.walk(parse(path)):
            if isinstance(function, ast.FunctionDef):
                found |= check_names(function)
    # What _rebuilt in checklist.py goes through.
    found |= {enums.Rebuild.INITRAMFS, enums.Rebuild.GRUB}
    assert sorted(found) == sorted(headings("how-to/verify-is-red.md"))


def test_supported_hosts_are_those_that_the_lab_shows():
    shown = [
        f"| {row.host} | {row.proves} | `{row.name}` | {'always' if row.always else 'nightly'} |"
        for row in matrix.ROWS
    ]
    assert find_marked("reference/supported-hosts.md", "matrix") == shown


# Links and commands


def test_links_resolve():
    """Of every page, also those that the documentation's own build does not see."""
    broken = []
    for page in PAGES:
        text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            if re.match(r"https?:", target):
                continue
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def anchors(page: pathlib.Path) -> set[str]:
    found = re.findall(r"(?m)^#+ (.+)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in found}


def test_every_page_is_in_the_navigation():
    def paths(entries: list[Any]) -> Iterator[str]:
        for entry in entries:
            (value,) = entry.values()
            if isinstance(value, str):
                yield value
            else:
                yield from paths(value)

    listed = list(paths(read_yaml("mkdocs.yml")["nav"]))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"(?m)^([a-z-]+):.*## ", text))


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "CONTRIBUTING.md",
        "tox.ini",
        ".github/workflows/tests.yaml",
        ".github/workflows/integration.yaml",
        ".github/workflows/nightly.yaml",
    ],
)
def test_commands_are_targets_of_the_makefile(path: str):
    text = (ROOT / path).read_text(encoding="utf-8")
    named = set(re.findall(r"(?m)(?:`|\$ |run: |commands = |^)make ([a-z-]+)", text))
    assert named, "names none"
    assert named <= make_targets()


def test_readme_is_shorter_than_two_screens():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 100
    assert max(map(len, lines)) <= 120


def test_tox_has_what_a_listing_asks_for():
    text = (ROOT / "tox.ini").read_text(encoding="utf-8")
    environments = set(re.findall(r"(?m)^\[testenv:([a-z]+)\]", text))
    assert {"format", "lint", "unit", "integration"} <= environments <= make_targets()


@pytest.mark.parametrize(
    "name", ["LICENSE", "CONTRIBUTING.md", "SECURITY.md", "README.md", "icon.svg"]
)
def test_what_a_listing_asks_for_is_there(name: str):
    assert (ROOT / name).stat().st_size > 200


def test_icon_is_a_hundred_by_a_hundred():
    text = (ROOT / "icon.svg").read_text(encoding="utf-8")
    assert 'width="100" height="100" viewBox="0 0 100 100"' in text
