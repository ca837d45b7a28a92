"""The number of the JSON that programs get: docs/reference/output.schema.json describes it."""

from __future__ import annotations

# Another one when a field goes or means something else; a field that is new changes nothing.
NUMBER = 1
