"""``maxentflow export``, ``package`` and ``watch``: policies that leave their run folder."""

import os
import re
import shutil
import zipfile

import imageio.v2 as imageio
import pytest
import torch
import yaml

from maxentflow.agents import load
from maxentflow.agents.cli import main, watch
from maxentflow.agents.training import RunFolder

from .tiny import PROBE


@pytest.fixture
def of_sac(finished, tmp_path):
    """A run whose policy takes a fifth of the time of meow's to export."""
    return shutil.copytree(finished("sac"), tmp_path / "run")


def test_export_writes_the_policy_and_says_what_it_takes(of_sac, tmp_path, capsys):
    out = tmp_path / "policy.pt2"
    main(["export", str(of_sac), "--out", str(out), "--stochastic"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        f"{out}: from observation, noise (rows, 1) normal to action, in the units of {PROBE}"
    )
    assert second == f"Inputs and output: {out}.json"
    main(["export", str(of_sac)])
    policy = torch.export.load(of_sac / "policy.pt2").module()
    observation = torch.randn(4, 2)
    expected = torch.from_numpy(load(of_sac).predict(observation.numpy()))
    torch.testing.assert_close(policy(observation), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_an_archive_is_exported_as_its_run_is(of_sac, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["package", str(of_sac), "--out", "shared.v1.zip", "--episodes", "1"])
    main(["export", "shared.v1.zip"])
    main(["export", str(of_sac)])
    observation = torch.randn(4, 2)
    one, same = (
        torch.export.load(path).module()(observation)
        for path in ("shared.v1.pt2", of_sac / "policy.pt2")
    )
    torch.testing.assert_close(one, same, rtol=0, atol=0)


def test_an_archive_is_shown(of_sac, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["package", str(of_sac), "--out", "shared.zip", "--episodes", "1"])
    capsys.readouterr()
    main(["show", "shared.zip"])
    assert capsys.readouterr().out.startswith(f"shared.zip: sac in {PROBE}, complete\n")


def test_export_refuses_other_suffixes(run, refused):
    assert "must be a file ending in .onnx" in refused(
        "export", run, "--format", "onnx", "--out", "policy.pt"
    )


def test_a_package_is_evaluated_as_its_run_is(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["evaluate", str(run), "--episodes", "3"])
    expected = capsys.readouterr().out
    main(["package", str(run), "--episodes", "3", "--video"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("run.zip: meow in probe/Line-v0, mode: return 20.0")
    assert said[-1] == "  maxentflow evaluate run.zip"
    main(["evaluate", "run.zip", "--episodes", "3"])
    assert capsys.readouterr().out == expected
    with zipfile.ZipFile("run.zip") as archive:
        card = archive.read("README.md").decode()
        archive.extract("video.mp4")
    assert sum(1 for _ in imageio.get_reader("video.mp4")) == 21
    metadata, text = re.fullmatch(r"---\n(.*?)---\n(.*)", card, re.DOTALL).groups()
    about = yaml.safe_load(metadata)
    (result,) = about["model-index"][0]["results"]
    assert about["library_name"] == "maxentflow"
    assert result["dataset"]["name"] == PROBE
    assert result["metrics"][0]["value"] == "20.00 +/- 0.00"
    assert text.startswith(f"# meow in {PROBE}\n")


def test_a_package_takes_the_newest_film_of_the_run(run, tmp_path):
    films = RunFolder(run).videos_path
    films.mkdir()
    (films / "step_20.mp4").write_bytes(b"newest")
    (films / "step_9.mp4").write_bytes(b"older")
    os.utime(films / "step_9.mp4", (0, 0))
    main(["package", str(run), "--episodes", "1", "--out", str(tmp_path / "a.zip")])
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("video.mp4") == b"newest"
        assert "[An episode](video.mp4)" in archive.read("README.md").decode()


def test_package_overwrites_nothing(run, tmp_path, refused):
    (tmp_path / "there.zip").write_text("")
    assert "There is a file" in refused("package", run, "--out", tmp_path / "there.zip")


def test_without_a_screen_watch_films(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(watch, "has_screen", lambda: False)
    main(["watch", str(run), "--episodes", "2", "--seed", "3"])
    assert capsys.readouterr().out.splitlines() == [
        "There is no screen; video: run-3.mp4",
        "There is no screen; video: run-4.mp4",
    ]
    assert sum(1 for _ in imageio.get_reader("run-4.mp4")) == 21


@pytest.mark.slow
def test_with_a_screen_watch_shows_the_episode(run, capsys, monkeypatch):
    monkeypatch.setattr(watch, "has_screen", lambda: True)
    main(["watch", str(run), "--seed", "3"])
    assert capsys.readouterr().out == "Episode from seed 3: return 20.0\n"


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {}, False),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("darwin", {}, True),
    ],
)
def test_screens(platform, environ, expected, monkeypatch):
    monkeypatch.setattr(watch.sys, "platform", platform)
    monkeypatch.setattr(watch.os, "environ", environ)
    assert watch.has_screen() is expected
