"""Each command's help teaches with two examples, and the shell completes what it lists."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from maxentflow.agents import registry
from maxentflow.agents.cli import dispatch, help_texts, main
from maxentflow.agents.cli.examples import EXAMPLES

CONSTRAINTS = Path(__file__).parents[3] / "constraints.txt"


def options(text):
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", text))


def printed(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert not stop.value.code
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def test_each_command_has_examples():
    assert set(EXAMPLES) == set(dispatch._COMMANDS)
    assert all(len(set(examples)) == 2 for examples in EXAMPLES.values())


@pytest.mark.parametrize("command", [name for name in EXAMPLES if name != "train"])
def test_the_options_of_examples_exist(command, capsys):
    help_text = printed([command, "--help"], capsys)
    for example in EXAMPLES[command]:
        assert f"maxentflow {example}" in help_text
        for word in shlex.split(example):
            if word.startswith("--") and word != "--import":
                assert re.search(rf"^\W*{word}\b", help_text, re.M), word


@pytest.mark.parametrize("name", registry.registered())
def test_the_options_of_an_agents_examples_exist(name, capsys):
    help_text = printed(["train", name, "--help"], capsys)
    examples = re.findall(rf"^\W*maxentflow (train {name} .*?)\W*$", help_text, re.M)
    assert len(examples) == 2
    for word in shlex.split(" ".join(examples)):
        if word.startswith("--"):
            assert re.search(rf"^\W*{word}\b", help_text, re.M), word


def test_the_usage_has_examples(capsys):
    main(["--help"])
    assert capsys.readouterr().out.count("\n  maxentflow ") == 2


@pytest.fixture(scope="module")
def script():
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(["completion", "bash"])
    return out.getvalue()


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("maxentflow eval", {"evaluate"}),
        ("maxentflow train soft", {"soft-q"}),
        ("maxentflow train --res", {"--resume"}),
        ("maxentflow evaluate runs/a --st", {"--stochastic"}),
        ("maxentflow train meow --target-en", {"--target-entropy"}),
        ("maxentflow train sac --hea", set()),  # which is MEow's
        ("maxentflow train meow --hea", {"--heads"}),
        ("maxentflow export runs/a --f", {"--format"}),
    ],
)
def test_bash_completes(script, line, completed):
    words = line.split()
    array = " ".join(map(shlex.quote, words))
    shell = (
        f"COMP_WORDS=({array}) COMP_CWORD={len(words) - 1}; _maxentflow; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{shell}"], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == completed


def test_zsh_takes_the_script_of_bash(script, capsys):
    main(["completion", "zsh"])
    first, rest = capsys.readouterr().out.split("\n", 1)
    assert first == "autoload -U +X bashcompinit && bashcompinit"
    assert rest == script


@pytest.mark.parametrize("command", help_texts.COMMANDS, ids=" ".join)
@pytest.mark.quick_for("evaluate", "train meow", "train ppo", "sweep")
def test_a_help_that_is_written_is_the_one_that_is_made(command):
    """``make help-texts`` writes it, with the tyro of the tested set; others arrange the same
    options in another way."""
    path = help_texts._FOLDER / f"{'_'.join(command)}.txt"
    text, made = path.read_text(), help_texts.made(command)
    assert options(text) == options(made)
    if f"tyro=={tyro.__version__}" in CONSTRAINTS.read_text().split():
        assert text.split() == made.split()


@pytest.mark.parametrize("command", ["evaluate", "train meow"])
def test_a_help_is_shown_without_an_import_of_torch(command):
    code = (
        "import sys; from maxentflow.agents.cli import main\n"
        f"try: main({[*command.split(), '--help']})\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: maxentflow {command} [-h]")


def test_a_help_with_parts_of_ones_own_is_made(monkeypatch):
    """As is one for a task, whose defaults it shows."""
    monkeypatch.delitem(sys.modules, "torch")
    assert help_texts.written(["evaluate", "-h"]).startswith("usage: maxentflow evaluate")
    for words in (
        ["--import", "mine", "evaluate", "--help"],
        ["train", "meow", "--env", "Hopper-v4", "--help"],
        ["train", "mine", "--help"],
        ["evaluate", "run"],
        ["--help"],
        [],
    ):
        assert help_texts.written(words) is None
    monkeypatch.undo()
    assert help_texts.written(["evaluate", "-h"]) is None
