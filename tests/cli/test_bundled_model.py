"""Every command that takes a model knows the bundled one by its name. Oracle: exit status 0, and what they leave."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Invoke

NAME = "xlm-clm-ende-small"


def test_every_command_knows_it(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "en").write_text("The dog lay in front of the fire and slept.\n" * 40, encoding="utf-8")
    data, run = tmp_path / "data", tmp_path / "run"
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("tokenize", NAME, "--lang", "en", tmp_path / "en"),
        ("score", NAME, "--lang", "en", tmp_path / "en", "--by", "word"),
        ("perplexity", NAME, "--lang", "en", tmp_path / "en"),
        ("generate", NAME, "--lang", "en", "--prompt", "The dog", "--seed", "1", "--max-new-tokens", "3"),
        ("convert", NAME, tmp_path / "model"),
        ("prepare", data, "--model", NAME, "--train", f"en={tmp_path / 'en'}"),
    )
    for command in commands:
        done = invoke(*command)
        assert done.exit_code == 0, done.output
        assert done.stdout.strip()
    forgotten = invoke("convert", NAME, tmp_path / "model.pth")
    assert forgotten.exit_code == 2
    assert "add --to original" in forgotten.stderr
    done = invoke("convert", NAME, tmp_path / "model.pth", "--to", "original")
    assert done.exit_code == 1
    assert "max_position_embeddings = 256" in done.stderr
    config = tmp_path / "config.toml"
    config.write_text(
        f'[model]\nstart_from = "{NAME}"\n[batch]\nbatch_size = 2\nseq_len = 8\n[run]\nmax_steps = 1\n', "utf-8"
    )
    done = invoke("train", config, "--set", f"data={data}", "--set", f"output={run}")
    assert done.exit_code == 0, done.output
    assert (run / "last" / "model.safetensors").is_file()
