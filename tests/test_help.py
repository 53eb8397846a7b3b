"""`--help`: what there is to run and to set."""

import pathlib
import re
import shlex

import pytest

from gen_jax import config as configs
from gen_jax import help, main, methods
from gen_jax.method import UserError

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


def test_help_names_the_exit_codes(capsys):
    main.main(["--help"])
    assert "75       stopped by a signal and saved" in capsys.readouterr().out


def test_help_lists_every_config(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.py").write_text('"""My own."""\n')
    (tmp_path / "configs" / "broken.py").write_text("def get_config(:")
    main.main(["-h"])
    lines = capsys.readouterr().out.splitlines()
    assert "  mine               My own." in lines
    listed = {line.split()[0] for line in lines[lines.index("configs:") + 1 :]}
    assert listed == {"mine", "broken"} | {path.stem for path in CONFIGS.glob("*.py")}


def test_help_of_a_config_lists_each_value_as_the_command_line_takes_it(capsys):
    main.main(["--config=latent_mnist:tiny", "--help"])
    text = capsys.readouterr().out
    _, _, config = methods.load("latent_mnist:tiny")
    lines = text.partition("Its values")[2].splitlines()[1:]
    words = [word for line in lines for word in shlex.split(f"--config.{line[2:].partition('  ')[0]}")]
    assert len(words) == len(configs.flatten(config))
    assert methods.override(config, words) == config
    assert re.search(r"optimizer.name=muon +one of adam, adamw, muon, sgd, rmsprop\n", text)


def test_help_of_a_config_shows_what_the_command_line_sets(capsys, tmp_path):
    (tmp_path / "bare.py").write_text(
        "from gen_jax.config import *\ndef get_config():\n    return load('flow_mnist')[2]"
    )
    main.main([f"--config={tmp_path / 'bare.py'}", "--config.optimizer=sgd", "-h"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Its values")
    assert any(line.startswith("  optimizer.name=sgd ") for line in lines)
    assert not any(line.startswith("  optimizer.b2=") for line in lines)
    with pytest.raises(UserError, match="did you mean seed"):
        main.main(["--config=flow_mnist", "--config.sed=1", "--help"])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_the_description_of_a_config_names_its_variants(path):
    with pytest.raises(UserError) as error:
        configs.load(f"{path}:none")
    variants = re.findall("`:[a-z_0-9]+`", str(error.value))
    assert variants
    assert all(variant in help.of_config(str(path)) for variant in variants)
