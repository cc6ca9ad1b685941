"""Archives of runs: what goes in comes out, and nothing else does."""

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


def test_a_damaged_archive_is_refused(folder, tmp_path):
    path = tmp_path / "shared.zip"
    pack(folder, path, card="")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no archive of a run"), opened(path):
        pass


def test_refusals(folder, tmp_path):
    with pytest.raises(ValueError, match=r"must be a .zip file"):
        pack(folder, tmp_path / "shared.tar", card="")
    (tmp_path / "there.zip").write_text("")
    with pytest.raises(ValueError, match="There is a file"):
        pack(folder, tmp_path / "there.zip", card="")
    with pytest.raises(ValueError, match="Cannot write to"):
        pack(folder, tmp_path / "none" / "shared.zip", card="")
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        pack(RunFolder(tmp_path / "empty"), tmp_path / "shared.zip", card="")
