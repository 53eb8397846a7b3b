import json

from gen_jax import main


def test_the_trace_names_the_costliest_operations(tiny_run, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "config.json").symlink_to(tiny_run / "config.json")
    main.main([f"--workdir={copy}", "--mode=profile"])
    rows = json.loads((copy / "profile.json").read_text())
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
    kinds = " ".join(row["operation"] for row in rows)
    assert "conv" in kinds or "dot" in kinds
    assert "ms/step" in capsys.readouterr().out
