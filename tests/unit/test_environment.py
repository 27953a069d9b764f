"""The facts that make two actors comparable."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from dyna_eval_workers import environment, native
from dyna_eval_workers.environment import capture_environment

from dyna_eval.reports.integrity import environment_difference

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("backend", "known"),
    [
        ("compile", True),
        ("eager (no kernels for this model), draft compile", True),
        ("compile, draft eager (no kernels for this model)", True),
        ("eager", False),
        ("eager (compile failed)", False),
    ],
)
def test_the_compiler_is_a_fact_where_it_built_what_runs(
    backend: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_compiler", lambda: "c++")
    monkeypatch.setattr(native, "_version", lambda _: "c++ (Debian) 12.2.0\nCopyright\n")
    facts = capture_environment(CPU, backend).facts
    assert facts.get("compiler") == ("c++ (Debian) 12.2.0" if known else None)


def test_another_compiler_is_another_environment_and_an_older_one_lacks_the_fact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "_compiler", lambda: "c++")
    found = []
    for version in ("12", "13"):
        monkeypatch.setattr(native, "_version", lambda _, told=version: told)
        found.append(capture_environment(CPU, "compile"))
    first, second = found
    assert first.digest != second.digest
    earlier = {name: fact for name, fact in first.facts.items() if name != "compiler"}
    environments = {"new": first.facts, "old": earlier}
    assert environment_difference("new", "old", environments) == "compiler: 12 instead of unknown"


def test_the_driver_is_a_fact_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel knows it, or as the driver's tool does where that is hidden."""
    properties = SimpleNamespace(name="NVIDIA H100", total_memory=2**36, uuid="22-b")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(environment, "gpu_driver", lambda _: "570.1")
    version = tmp_path / "version"
    monkeypatch.setattr(environment, "_DRIVER", version)
    hidden = capture_environment(GPU, "cudagraph")
    version.write_text("590.48\n")
    seen = capture_environment(GPU, "cudagraph")
    assert (hidden.facts["driver"], seen.facts["driver"]) == ("570.1", "590.48")
    assert hidden.digest != seen.digest
    assert "driver" not in capture_environment(CPU, "eager").facts
