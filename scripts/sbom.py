"""Print what a packed charm is made of: a software bill of materials, CycloneDX 1.6 in JSON.

usage: sbom.py CHARM      prints the document; a scanner such as trivy or grype reads it

It needs nothing but Python, so that a workflow can run it beside charmcraft. The same charm gives
the same bytes: there is no time of day in it, and its number is made of the charm's content.
Format: https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import argparse
import email.parser
import hashlib
import json
import pathlib
import re
import sys
import uuid
import zipfile
from typing import Any

_METADATA = re.compile(r"venv/lib/python3[^/]*/site-packages/[^/]+\.dist-info/METADATA")
_NAME = re.compile(r"(?m)^name: *(\S+)$")


def describe(charm: pathlib.Path) -> dict[str, Any]:
    """Describe the Python packages that a charm carries.

    Args:
        charm: the packed charm.

    Returns:
        The document, components by their names.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is no charm with packages.
    """
    content = hashlib.sha256(charm.read_bytes()).hexdigest()
    with zipfile.ZipFile(charm) as archive:
        name = _NAME.search(archive.read("metadata.yaml").decode("utf-8"))
        found = [
            _component(archive.read(each).decode("utf-8"))
            for each in archive.namelist()
            if _METADATA.fullmatch(each)
        ]
    if not (name and found):
        raise ValueError(f"{charm} is no charm that carries Python packages")
    found.sort(key=lambda each: each["bom-ref"])
    subject = {
        "type": "application",
        "bom-ref": f"charm:{name[1]}",
        "name": name[1],
        "hashes": [{"alg": "SHA-256", "content": content}],
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content)}",
        "version": 1,
        "metadata": {"component": subject},
        "components": found,
        "dependencies": [
            {"ref": subject["bom-ref"], "dependsOn": [each["bom-ref"] for each in found]}
        ],
    }


def _component(metadata: str) -> dict[str, Any]:
    """Describe one package by its core metadata."""
    fields = email.parser.HeaderParser().parsestr(metadata)
    name = re.sub(r"[-_.]+", "-", fields["Name"]).lower()
    place = f"pkg:pypi/{name}@{fields['Version']}"
    component = {
        "type": "library",
        "bom-ref": place,
        "name": name,
        "version": fields["Version"],
        "purl": place,
    }
    if fields["License-Expression"]:
        component["licenses"] = [{"expression": fields["License-Expression"]}]
    elif fields["License"] and "\n" not in fields["License"]:
        component["licenses"] = [{"license": {"name": fields["License"]}}]
    return component


def main() -> int:
    """Print the document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("charm", type=pathlib.Path)
    try:
        found = describe(parser.parse_args().charm)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
