"""What is shipped for deploying the charm fits the charm: the bundle overlay, the Terraform module.

Neither juju nor terraform runs here; the overlay is checked against a schema of Juju's bundle keys,
and both against the charm's own metadata.yaml and config.yaml.
"""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import hcl2
import jsonschema
import pytest
import yaml
from harness.standin import pages

from passthrough.config import options

HERE = pathlib.Path(__file__).resolve().parent
CHARM = "pci-passthrough"

# The ends that the overlay's relations have in the OpenStack charms' own metadata.yaml.
OTHER_ENDS = {
    ("nova-compute", "juju-info"): "juju-info",
    ("nova-cloud-controller", "nova-vmware"): "nova-vmware",
}


def read_yaml(path: pathlib.Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture
def schema() -> dict[str, Any]:
    return json.loads((HERE / "bundle.schema.json").read_text(encoding="utf-8"))


@pytest.fixture
def overlay(charm_root: pathlib.Path) -> dict[str, Any]:
    return read_yaml(charm_root / "overlays" / "pci-passthrough.yaml")


@pytest.fixture
def endpoints(charm_root: pathlib.Path) -> dict[str, str]:
    """The charm's endpoints and their interfaces."""
    metadata = read_yaml(charm_root / "metadata.yaml")
    declared = {**metadata.get("requires", {}), **metadata.get("provides", {})}
    return {name: endpoint["interface"] for name, endpoint in declared.items()}


def test_overlay_is_a_valid_overlay(overlay: dict[str, Any], schema: dict[str, Any]):
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(overlay, schema)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"application": {}}, id="unknown top key"),
        pytest.param({"applications": {CHARM: {"option": {}}}}, id="unknown key of an application"),
        pytest.param({"applications": {CHARM: {"num_units": "1"}}}, id="number as text"),
        pytest.param({"relations": [["a:b"]]}, id="relation with one end"),
        pytest.param({"applications": {"PCI": {}}}, id="name in capitals"),
        pytest.param({"machines": {"0": {"tags": "gpu"}}}, id="unknown key of a machine"),
    ],
)
def test_schema_refuses_what_juju_refuses(schema: dict[str, Any], change: dict[str, Any]):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"applications": {CHARM: {}}, **change}, schema)


@pytest.mark.parametrize("name", ["with-tags.yaml", "without-tags.yaml"])
def test_the_bundles_of_the_page_are_valid(
    charm_root: pathlib.Path, schema: dict[str, Any], endpoints: dict[str, str], name: str
):
    shown = dict(pages.files_of(charm_root / "docs/how-to/bundles-and-tags.md"))
    bundle = yaml.safe_load(shown[name])
    jsonschema.validate(bundle, schema)
    applications = bundle["applications"]
    placed = [each for given in applications.values() for each in given.get("to", [])]
    assert sorted(placed) == list(bundle["machines"])
    assert options.parse(applications[CHARM]["options"]).devices.aliases()
    assert applications[CHARM]["base"] == bundle["default-base"]
    ((ours, theirs),) = bundle["relations"]
    assert endpoints[ours.removeprefix(f"{CHARM}:")] == theirs.partition(":")[2]
    assert theirs.partition(":")[0] in applications
    tagged = {
        number
        for number, machine in bundle["machines"].items()
        if "gpu" in machine.get("constraints", "")
    }
    beside = set(applications[theirs.partition(":")[0]]["to"])
    assert beside == (tagged or set(bundle["machines"]))


def test_overlay_deploys_a_subordinate(overlay: dict[str, Any]):
    application = overlay["applications"][CHARM]
    assert application["charm"] == CHARM
    assert not {"num_units", "to", "constraints"} & set(application)


def test_overlay_sets_options_that_exist_and_are_accepted(
    overlay: dict[str, Any], charm_root: pathlib.Path
):
    given = overlay["applications"][CHARM]["options"]
    assert set(given) <= set(read_yaml(charm_root / "config.yaml")["options"])
    assert options.parse(given).devices.aliases()


def test_overlay_relates_endpoints_that_exist(overlay: dict[str, Any], endpoints: dict[str, str]):
    for ours, theirs in overlay["relations"]:
        application, endpoint = ours.split(":")
        assert application == CHARM
        assert endpoints[endpoint] == OTHER_ENDS[tuple(theirs.split(":"))]


@pytest.fixture
def terraform(charm_root: pathlib.Path) -> dict[str, Any]:
    """The whole module, read as one."""
    merged: dict[str, Any] = {}
    for path in sorted((charm_root / "terraform").glob("*.tf")):
        with path.open(encoding="utf-8") as file:
            for kind, blocks in _unquote(hcl2.load(file)).items():
                merged.setdefault(kind, []).extend(blocks)
    return merged


def _unquote(value: Any) -> Any:
    """Take away the quotes that the parser leaves around names and strings."""
    if isinstance(value, dict):
        return {_unquote(key): _unquote(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_unquote(each) for each in value]
    if isinstance(value, str) and value.startswith('"') and value.endswith('"'):
        return value[1:-1]
    return value


def test_terraform_has_the_files_that_charms_have(charm_root: pathlib.Path):
    names = {path.name for path in (charm_root / "terraform").glob("*.tf")}
    assert names == {"main.tf", "outputs.tf", "terraform.tf", "variables.tf"}
    (versions,) = _read_hcl(charm_root / "terraform/terraform.tf")["terraform"]
    assert versions["required_version"]


def _read_hcl(path: pathlib.Path) -> dict[str, Any]:
    with path.open(encoding="utf-8") as file:
        return _unquote(hcl2.load(file))


def test_terraform_is_in_alphabetical_order(charm_root: pathlib.Path):
    for name, kind in (("variables", "variable"), ("outputs", "output")):
        blocks = _read_hcl(charm_root / f"terraform/{name}.tf")[kind]
        named = [each for block in blocks for each in block]
        assert named == sorted(named)


def test_terraforms_page_has_every_input_and_output(
    terraform: dict[str, Any], charm_root: pathlib.Path
):
    page = (charm_root / "terraform/README.md").read_text(encoding="utf-8")
    inputs, outputs = page.split("## Inputs")[1].split("## Outputs")
    for table, kind in ((inputs, "variable"), (outputs, "output")):
        rows = re.findall(r"(?m)^\| `(\w+)`", table)
        assert rows == sorted(name for block in terraform[kind] for name in block)
    defaults = dict(re.findall(r"(?m)^\| `(\w+)` \| [\w()]+ \| (?:`(.*?)`)? *\|", inputs))
    for block in terraform["variable"]:
        for name, body in block.items():
            has_default = "default" in body and body["default"] is not None
            assert (defaults[name] not in ("", "null")) is has_default, name


def test_terraform_has_what_callers_expect(terraform: dict[str, Any]):
    variables = {name for block in terraform["variable"] for name in block}
    assert {"app_name", "base", "channel", "config", "model_uuid", "revision"} <= variables
    outputs = {name for block in terraform["output"] for name in block}
    assert outputs == {"application", "provides", "requires"}


def test_terraform_uses_every_variable_and_no_other(
    terraform: dict[str, Any], charm_root: pathlib.Path
):
    main = (charm_root / "terraform" / "main.tf").read_text(encoding="utf-8")
    declared = {name for block in terraform["variable"] for name in block}
    used = {word.split(".")[1] for word in main.replace("=", " ").split() if word[:4] == "var."}
    assert used == declared


def test_terraform_names_every_endpoint(
    terraform: dict[str, Any], charm_root: pathlib.Path, endpoints: dict[str, str]
):
    metadata = read_yaml(charm_root / "metadata.yaml")
    outputs = {name: block[name] for block in terraform["output"] for name in block}
    for side in ("provides", "requires"):
        value = outputs[side]["value"]
        named = {key: end for key, end in value.items() if not key.startswith("__")}
        assert set(named.values()) == set(metadata[side])
        assert all(key == end.replace("-", "_") for key, end in named.items())


def test_terraform_relates_endpoints_that_exist(
    terraform: dict[str, Any], endpoints: dict[str, str]
):
    relations = {
        name: [each["endpoint"] for each in body["application"]]
        for block in terraform["resource"]
        for name, body in block.get("juju_integration", {}).items()
    }
    assert relations
    for ours, theirs in relations.values():
        # The other ends are called as their interfaces are.
        assert endpoints[ours] == theirs


def test_terraform_variables_are_described(terraform: dict[str, Any]):
    for block in (*terraform["variable"], *terraform["output"]):
        for name, body in block.items():
            assert body["description"].endswith("."), name
