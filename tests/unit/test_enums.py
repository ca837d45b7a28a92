"""Kinds are Enums in the code, and the same words as ever wherever they are printed or stored."""

from __future__ import annotations

import json

from passthrough import enums


def test_a_kind_is_its_word_in_text_and_in_json():
    word = enums.Rebuild.INITRAMFS
    assert (str(word), f"{word}", f"{word:>10}", " ".join([word])) == (
        "initramfs",
        "initramfs",
        " initramfs",
        "initramfs",
    )
    assert json.dumps({word: [word]}, indent=1, sort_keys=True) == (
        '{\n "initramfs": [\n  "initramfs"\n ]\n}'
    )


def test_a_kind_stands_for_what_was_stored_under_its_word():
    assert {"grub": 1}[enums.Rebuild.GRUB] == 1
    assert sorted([enums.Rebuild.INITRAMFS, "a", enums.Rebuild.GRUB]) == ["a", "grub", "initramfs"]


def test_the_initramfs_is_rebuilt_before_grub():
    """grub-mkconfig lists the images that it finds."""
    assert list(enums.Rebuild) == ["initramfs", "grub"]
