"""What `doctor` finds on machines unlike this one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dyna_eval_workers import diagnosis
from dyna_eval_workers.conditions import GpuOthers


@pytest.mark.parametrize(
    ("setting", "told", "advised"),
    [
        ("always [madvise] never\n", "huge pages for the kernels' weights", False),
        ("[always] madvise never\n", "huge pages for the kernels' weights", False),
        ("always madvise [never]\n", "the system gives no huge pages", True),
    ],
)
def test_a_system_without_huge_pages_is_told_of_with_what_to_do(
    setting: str, told: str, advised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "enabled"
    file.write_text(setting)
    monkeypatch.setattr(diagnosis, "_HUGE_PAGES", file)
    (found,) = diagnosis._pages()
    assert found.told == told
    assert (
        found.advice == f"the kernels read weights more slowly; as root, write madvise into {file}"
    ) is advised
    assert not found.fatal


def test_a_gpu_on_which_the_kernels_do_not_run_is_told_of_with_what_to_do() -> None:
    assert diagnosis._gpu_kernels("").advice == ""
    found = diagnosis._gpu_kernels("its passes cannot run: no C compiler (cc)")
    assert found.told == "its passes cannot run: no C compiler (cc)"
    assert "install Triton and a C compiler" in found.advice


def test_the_packaged_pair_tells_what_runs_its_passes() -> None:
    fallback = diagnosis._fallback_of_packaged_pair("cpu")
    assert fallback == "" or fallback.startswith("no C++ compiler")


@pytest.mark.parametrize(
    ("seen", "told", "advised"),
    [
        ([GpuOthers(processes=0, mebibytes=0)], "no other process has a GPU open", False),
        (
            [GpuOthers(processes=0, mebibytes=0), GpuOthers(processes=2, mebibytes=5120)],
            "others have GPU 1 open (2 of them, with 5.0 GiB)",
            True,
        ),
        ([None, GpuOthers(processes=0, mebibytes=0)], "not known: the driver's tool does not list", False),
    ],
)
def test_others_on_a_gpu_are_told_of_with_what_to_do(
    seen: list[GpuOthers | None], told: str, advised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first GPU is one that this process has opened, and so would be listed on."""
    devices = [torch.device("cuda", index) for index in range(len(seen))]

    def looked(device: torch.device, *, own_is_there: bool) -> GpuOthers | None:
        assert own_is_there is (device.index == 0)
        return seen[device.index]

    monkeypatch.setattr(diagnosis, "gpu_others", looked)
    found = diagnosis._others_on_gpus(devices)
    assert found.told.startswith(told)
    assert ("CUDA_VISIBLE_DEVICES" in found.advice) is advised
    assert not found.fatal


def test_nothing_is_said_of_pages_where_the_system_has_no_such_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "_HUGE_PAGES", tmp_path / "none")
    assert list(diagnosis._pages()) == []
