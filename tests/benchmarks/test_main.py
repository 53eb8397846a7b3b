"""The table of networks: every case is built, checks that its contenders compute the same, and runs."""

import pytest

pytest.importorskip("torch", reason="PyTorch is in the extra bench")

from benchmarks import __main__ as benchmarks

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", benchmarks.CASES)
def test_every_contender_of_every_case_runs(name, capsys):
    case = benchmarks.CASES[name]()
    assert all("parameters in both" in line for line in case.about)
    assert case.flops > 1e6
    assert {"gen_jax", "PyTorch, NCHW"} <= case.steps.keys()
    for call in (*case.steps.values(), *case.draws.values()):
        call()


def test_a_name_that_is_not_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "ddpm_mnits"])
    with pytest.raises(SystemExit):
        benchmarks.main()
    assert "there is no benchmark 'ddpm_mnits'; did you mean ddpm_mnist?" in capsys.readouterr().err
