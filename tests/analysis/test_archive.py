"""Zips from strangers: two files come out by name, and everything a hostile one might try is refused."""

import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
from test_adapter_file import CONFIG_DATA, Payload, write

from lora_playground.analysis import archive
from lora_playground.analysis.adapter_config import CONFIG
from lora_playground.analysis.adapter_file import TENSORS, open_adapter
from lora_playground.analysis.archive import unpack
from lora_playground.errors import AdapterError


def zipped(tmp_path: Path, members: dict[str, bytes] | None = None, inside: str = "") -> Path:
    folder = write(tmp_path / "source")
    path = tmp_path / "adapter.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name in (CONFIG, TENSORS):
            made.write(folder / name, inside + name)
        for name, data in (members or {}).items():
            made.writestr(name, data)
    return path


def unzip_refused(path: Path, tmp_path: Path, match: str) -> None:
    target = tmp_path / "target"
    target.mkdir(exist_ok=True)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(AdapterError, match=match):
        unpack(path, target)
    assert set(tmp_path.rglob("*")) - before <= {target / CONFIG, target / TENSORS}


@pytest.mark.parametrize("inside", ["", "my adapter/"])
def test_a_zip_is_taken_with_and_without_its_folder(tmp_path, inside):
    target = tmp_path / "target"
    target.mkdir()
    unpack(zipped(tmp_path, {"README.md": b"hello"}, inside), target)
    assert sorted(p.name for p in target.iterdir()) == [CONFIG, TENSORS]
    assert len(open_adapter(target).shapes) == 2


@pytest.mark.parametrize(
    "name", ["../evil.txt", "a/../../evil.txt", "/etc/evil", "..\\evil.txt", "C:/evil.txt", "\\\\host\\evil"]
)
def test_zips_that_point_outside_are_refused(tmp_path, name):
    unzip_refused(zipped(tmp_path, {name: b"x"}), tmp_path, "points outside")


def test_links_doubles_and_many_members_are_refused(tmp_path):
    path = zipped(tmp_path)
    with zipfile.ZipFile(path, "a") as made:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        made.writestr(link, "/etc/passwd")
    unzip_refused(path, tmp_path, "symbolic link")
    path = zipped(tmp_path)
    with zipfile.ZipFile(path, "a") as made, pytest.warns(UserWarning):
        made.writestr(CONFIG, "{}")
    unzip_refused(path, tmp_path, "two files of one name")
    unzip_refused(zipped(tmp_path, {f"f{i}": b"" for i in range(300)}), tmp_path, "302 files")
    unzip_refused(zipped(tmp_path, {f"other/{TENSORS}": b""}), tmp_path, "holds 2 adapters")


def test_bombs_are_refused(tmp_path, monkeypatch):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(CONFIG, json.dumps(CONFIG_DATA))
        made.writestr(TENSORS, b"\0" * (64 * 2**20))
    unzip_refused(bomb, tmp_path, "zip bomb")
    target = tmp_path / "small"
    target.mkdir()
    with pytest.raises(AdapterError, match="at most 0 MiB"):
        unpack(zipped(tmp_path), target, limit=100)


def test_a_directory_that_understates_sizes_is_caught_while_reading(tmp_path):
    path = zipped(tmp_path)
    real = archive.zipfile.ZipFile(path).getinfo(TENSORS).file_size
    data = bytearray(path.read_bytes())
    data = data.replace(struct.pack("<I", real), struct.pack("<I", real - 100))
    path.write_bytes(bytes(data))
    unzip_refused(path, tmp_path, "no zip that can be read|zip bomb")


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.pt", "x.pkl"])
def test_zips_with_pickles_instead_of_tensors_are_refused(tmp_path, name):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(CONFIG, json.dumps(CONFIG_DATA))
        made.writestr(name, pickle.dumps(Payload()))
    unzip_refused(path, tmp_path, "a pickle")


def test_what_is_no_zip_or_is_damaged_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"this is no zip")
    unzip_refused(tmp_path / "a.zip", tmp_path, "no zip that can be read")
    path = zipped(tmp_path)
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(bytes(data))
    unzip_refused(path, tmp_path, "no zip that can be read")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as made:
        made.writestr("notes.txt", "hi")
    unzip_refused(tmp_path / "b.zip", tmp_path, "holds no adapter_config.json")
