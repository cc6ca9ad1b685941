"""Archives of runs: what goes in comes out, and nothing else does."""

import shutil
import sys
import zipfile

import pytest

from maxentflow import agents, envs
from maxentflow.agents import RunFolder, Trainer, TrainerConfig
from maxentflow.agents.training.archive import opened, pack


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("archive") / "run")
    env = envs.make("Pendulum-v1")
    agent = agents.make("sac", env, hidden=(8,))
    config = TrainerConfig(
        total_steps=40, warmup_steps=32, batch_size=16, eval_every=40, eval_episodes=1
    )
    folder.create(agent, config, "Pendulum-v1")
    Trainer(agent, env, config, folder, progress=False).run()
    return folder


def test_an_archive_holds_the_policy_and_its_course_and_no_replay(folder, tmp_path):
    path = tmp_path / "shared.zip"
    pack(folder, path, card="# A card")
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == [
            "README.md",
            "checkpoints/best.pt",
            "checkpoints/latest.pt",
            "config.yaml",
            "metrics.csv",
        ]
    with opened(path) as again:
        assert again.config() == folder.config()
        place = again.path
    assert not place.exists()
    observation, _ = envs.make("Pendulum-v1").reset(seed=0)
    one, other = (agents.load(source).predict(observation) for source in (path, folder.path))
    assert (one == other).all()


@pytest.mark.slow
def test_a_folder_is_opened_as_it_is(folder):
    with opened(folder.path) as again:
        assert again.path == folder.path


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"config.yaml": "a: 1", "../escape.txt": "x"}, r"it holds '../escape.txt'"),
        ({"config.yaml": "a: 1", "/etc/passwd": "x"}, r"it holds '/etc/passwd'"),
        ({"config.yaml": "a: 1", "run.py": "x"}, r"it holds 'run.py'"),
        ({"config.yaml": "a: 1"}, r"it lacks 'checkpoints/latest.pt'"),
    ],
)
def test_other_archives_are_refused(entries, message, tmp_path):
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=message), opened(path):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["other.zip"]


def rewritten(folder, path, compression=zipfile.ZIP_DEFLATED, **changes):
    """An archive with other words in its configuration."""
    pack(folder, path.with_name("first.zip"), card="")
    first = zipfile.ZipFile(path.with_name("first.zip"))
    with first, zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("checkpoints/", "")
        for name in first.namelist():
            content = first.read(name)
            for old, new in changes.items() if name == "config.yaml" else ():
                content = content.replace(f"{old}:".encode(), f"{old}: {new} #".encode())
            archive.writestr(name, content)
    return path


def test_entries_of_folders_do_no_harm(folder, tmp_path):
    path = rewritten(folder, tmp_path / "again.zip")
    with opened(path) as again:
        assert again.config() == folder.config()


def test_a_task_that_imports_a_module_is_refused(folder, tmp_path):
    path = rewritten(folder, tmp_path / "foreign.zip", env="'antigravity:Pendulum-v1'")
    message = r"foreign.zip needs the module 'antigravity'.* trust it"
    with pytest.raises(ValueError, match=message), opened(path):
        pass
    assert "antigravity" not in sys.modules


def test_a_refusal_names_the_archive(folder, tmp_path):
    path = tmp_path / "named.zip"
    pack(folder, path, card="")
    message = r"^\S*named.zip/checkpoints/latest.pt is of no use"
    with pytest.raises(ValueError, match=message), opened(path) as again:
        raise ValueError(f"{again.checkpoint_path} is of no use")


def test_the_newest_whole_checkpoint_is_packed(folder, tmp_path):
    other = RunFolder(shutil.copytree(folder.path, tmp_path / "run"))
    shutil.copy(other.checkpoint_path, other.previous_path)
    other.checkpoint_path.write_bytes(b"PK half of it")
    pack(other, tmp_path / "shared.zip", card="")
    with opened(tmp_path / "shared.zip") as again:
        assert again.load_checkpoint()["step"] == 40


@pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_damage_in_other_compressions_is_refused(folder, tmp_path, compression):
    path = rewritten(folder, tmp_path / "packed.zip", compression)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 50] = bytes(50)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no archive of a run"), opened(path):
        pass


def test_a_damaged_archive_is_refused(folder, tmp_path):
    path = tmp_path / "shared.zip"
    pack(folder, path, card="")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no archive of a run"), opened(path):
        pass


def test_refusals(folder, tmp_path):
    with pytest.raises(ValueError, match=r"must be a file ending in .zip"):
        pack(folder, tmp_path / "shared.tar", card="")
    (tmp_path / "there.zip").write_text("")
    with pytest.raises(ValueError, match="There is a file"):
        pack(folder, tmp_path / "there.zip", card="")
    with pytest.raises(ValueError, match="Cannot write the archive"):
        pack(folder, tmp_path / "none" / "shared.zip", card="")
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        pack(RunFolder(tmp_path / "empty"), tmp_path / "shared.zip", card="")
