"""What is read of Nova's configuration files, and what is not."""

import json
import pathlib

import pytest
from harness import made

from passthrough.nova import conf as nova_conf

GPU = made.function("0000:83:00.0")
ALIAS = '{"name": "gpu", "vendor_id": "10de", "product_id": "1bb0"}'


def write(root: pathlib.Path, name: str, text: str) -> None:
    path = root / "etc/nova" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read(root: pathlib.Path, *programs: str) -> nova_conf.Config:
    return nova_conf.read(root, programs or ("nova-compute",))


class TestParse:
    def parse(self, text: str) -> list[tuple[str, str, str]]:
        return list(nova_conf.parse(text))

    def test_sections_keys_and_both_separators(self):
        text = "a=1\n[pci]\nalias = x = y\nother: z\n"
        assert self.parse(text) == [
            ("default", "a", "1"),
            ("pci", "alias", "x = y"),
            ("pci", "other", "z"),
        ]

    def test_section_names_have_no_case(self):
        assert self.parse("[PCI]\na = 1\n[DEFAULT]\nb = 2\n") == [
            ("pci", "a", "1"),
            ("default", "b", "2"),
        ]

    def test_a_value_goes_on_over_indented_lines(self):
        text = '[pci]\nalias = {\n  "name":\n\t"gpu"}\nnext = 1\n'
        assert self.parse(text) == [("pci", "alias", '{\n"name":\n"gpu"}'), ("pci", "next", "1")]

    def test_comments_blank_lines_and_rubbish_are_passed_over(self):
        assert self.parse("# a = 1\n; b = 2\n\nrubbish\n[broken\nc = 3\n  \n") == [
            ("default", "c", "3")
        ]

    @pytest.mark.parametrize(
        ("written", "value"),
        [("'x'", "x"), ('"x"', "x"), ("'x", "'x"), ("'", "'"), ("", ""), ("''", "")],
    )
    def test_one_pair_of_quotes_is_dropped(self, written: str, value: str):
        assert self.parse(f"a = {written}") == [("default", "a", value)]


class TestRead:
    def test_files_in_the_order_in_which_nova_reads_them(self, tmp_path):
        for name in (
            "nova.conf.d/b.conf",
            "nova.conf",
            "nova-compute.conf.d/c.conf",
            "nova.conf.d/a.conf",
            "nova-compute.conf",
        ):
            write(tmp_path, name, f"[pci]\nalias = {json.dumps({'name': name})}\n")
        write(tmp_path, "nova-api.conf", "[pci]\nalias = {}\n")
        write(tmp_path, "nova.conf.d/.hidden.conf", "[pci]\nalias = {}\n")
        write(tmp_path, "nova.conf.d/a.conf.dpkg-old", "[pci]\nalias = {}\n")
        assert [entry.name for entry in read(tmp_path).aliases()] == [
            "nova.conf",
            "nova-compute.conf",
            "nova.conf.d/a.conf",
            "nova.conf.d/b.conf",
            "nova-compute.conf.d/c.conf",
        ]

    def test_no_nova_is_no_configuration(self, tmp_path):
        assert read(tmp_path).values == ()

    def test_secrets_are_never_kept(self, tmp_path):
        write(
            tmp_path,
            "nova.conf",
            "[DEFAULT]\ntransport_url = rabbit://nova:hunter2@mq\n[keystone_authtoken]\n"
            f"password = hunter2\n[pci]\nalias = {ALIAS}\n",
        )
        found = read(tmp_path)
        assert "hunter2" not in repr(found)
        assert len(found.values) == 1

    def test_both_names_of_alias_and_all_of_device_spec(self, tmp_path):
        write(
            tmp_path,
            "nova.conf",
            f"[DEFAULT]\npci_alias = {ALIAS}\npci_passthrough_whitelist = {{}}\n"
            f"[pci]\nalias = {ALIAS}\npassthrough_whitelist = [{{}}, {{}}]\ndevice_spec = {{}}\n",
        )
        found = read(tmp_path)
        assert [str(entry.value) for entry in found.aliases()] == [
            "/etc/nova/nova.conf [DEFAULT] pci_alias",
            "/etc/nova/nova.conf [pci] alias",
        ]
        assert len(found.device_specs()) == 4

    def test_what_is_no_json_object_is_left_out(self, tmp_path):
        lines = ["{", "1", '"x"', "[1]", "[" * 100_000, '{"name": 1}', ALIAS]
        write(tmp_path, "nova.conf", "[pci]\n" + "".join(f"alias = {line}\n" for line in lines))
        assert [entry.name for entry in read(tmp_path).aliases()] == [None, "gpu"]

    def test_the_last_of_a_single_value_counts(self, tmp_path):
        option = nova_conf.REPORT_IN_PLACEMENT
        write(tmp_path, "nova.conf", "[pci]\nreport_in_placement = True\n")
        assert read(tmp_path).is_true(option)
        write(tmp_path, "nova.conf.d/z.conf", "[pci]\nreport_in_placement = off\n")
        assert not read(tmp_path).is_true(option)
        assert not nova_conf.Config().is_true(option)

    def test_one_file_and_the_others(self, tmp_path):
        write(tmp_path, "nova.conf", f"[pci]\nalias = {ALIAS}\n")
        write(tmp_path, "nova.conf.d/own.conf", "[pci]\nalias = {}\n")
        found = read(tmp_path)
        own = "/etc/nova/nova.conf.d/own.conf"
        assert [value.path for value in found.only(own).values] == [own]
        assert [value.path for value in found.without(own).values] == ["/etc/nova/nova.conf"]

    def test_bytes_that_are_no_text_do_no_harm(self, tmp_path):
        write(tmp_path, "nova.conf", "")
        (tmp_path / "etc/nova/nova.conf").write_bytes(b"a = \xff\n[pci]\nalias = {}\n")
        assert len(read(tmp_path).values) == 1


def entry(**content: object) -> nova_conf.Entry:
    return nova_conf.Entry(
        nova_conf.Value("/etc/nova/nova.conf", "pci", "device_spec", ""), content
    )


class TestOffers:
    @pytest.mark.parametrize(
        "content",
        [
            {},
            {"vendor_id": "10de"},
            {"vendor_id": "10DE", "product_id": "1BB0"},
            {"vendor_id": "*", "product_id": "1bb0"},
            {"address": "0000:83:00.0"},
            {"address": "*:83:00.*"},
            {"address": ":83:00."},
            {"address": "83:00.0"},
            {"address": "0:83:0.0"},
            {"address": {"bus": "8[34]", "function": "[0-3]"}},
            {"address": {"domain": ".*", "bus": "83", "slot": "00", "function": "0"}},
        ],
        ids=str,
    )
    def test_matches(self, content: dict):
        assert entry(**content).offers(GPU)

    @pytest.mark.parametrize(
        "content",
        [
            {"vendor_id": "10df"},
            {"product_id": "1bb1"},
            {"vendor_id": "junk"},
            {"address": "0000:84:00.0"},
            {"address": "*:83:00.1"},
            {"address": {"bus": "84"}},
            {"address": {"bus": "["}},
            {"devname": "eth0"},
        ],
        ids=str,
    )
    def test_does_not_match(self, content: dict):
        assert not entry(**content).offers(GPU)

    def test_the_exact_address_of_a_pf_stands_for_its_vfs(self):
        vf = made.function("0000:83:10.0", "8086:10ed", physfn="0000:83:00.0")
        assert entry(address="0000:83:00.0").offers(vf)
        assert not entry(address="*:83:00.0").offers(vf)
        assert not entry(address="0000:83:00.0", product_id="10fb").offers(vf)

    def test_tags_are_what_does_not_select(self):
        tagged = entry(vendor_id="10de", address="*", physical_network="net", managed="no")
        assert tagged.tags == {"physical_network": "net", "managed": "no"}
