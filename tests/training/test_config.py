"""Configurations of training runs.

Oracle: what the error must name, listed here; the shipped files.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from xlm.errors import ConfigError, XLMWarning
from xlm.model.config import XLMConfig
from xlm.training.config import RENAMED, SHIPPED, TrainConfig, load_config

SMALL = """
data = "data"
output = "run"
[model]
emb_dim = 8
n_layers = 1
n_heads = 2
[optimiser]
lr = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(SMALL, "utf-8")
    return path


def test_file_and_changes(file: Path) -> None:
    changes = [
        "run.max_steps = 7",
        "batch.sampling_exponent=0.7",
        "data=some where",
        "run.compile=true",
        "model.n_layers=3",
    ]
    config = load_config(str(file), changes)
    assert (config.run.max_steps, config.batch.sampling_exponent, config.data) == (7, 0.7, "some where")
    assert (config.run.compile, config.model.n_layers) == (True, 3)
    assert config.optimiser.lr == 1.0
    assert isinstance(config.optimiser.lr, float)
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_a_coefficient_may_be_a_number(file: Path) -> None:
    changes = ["objectives=['ae:de', 'bt:de-en-de', 'mt:de-en']", "coefficients.bt=1", "coefficients.mt='0:1,9:0'"]
    config = load_config(str(file), [*changes, "coefficients.ae=0.5"])
    assert (config.coefficients.ae, config.coefficients.bt, config.coefficients.mt) == ("0.5", "1", "0:1,9:0")
    with pytest.raises(ConfigError, match=r"coefficients.ae: a number, or text such as"):
        load_config(str(file), [*changes, "coefficients.ae=true"])


def test_all_mistakes_at_once(file: Path) -> None:
    changes = ["run.max_step=7", "batch.batch_size=many", "optimiser.lr=true", "nothing=1", "model=3"]
    with pytest.raises(ConfigError) as caught:
        load_config(str(file), changes)
    for name in ("run.max_step", "batch.batch_size = 'many'", "optimiser.lr = True", "nothing = 1", "model = 3"):
        assert name in str(caught.value)


def test_wrong_types_and_wrong_values_come_together(file: Path) -> None:
    """Each key is named once, even if its default is wrong too."""
    changes = ["batch.batch_size=many", "batch.seq_len=1", "model.emb_dim=wide", "run.timeout=0", "seed=-1"]
    changes.append("objectives=clm")
    with pytest.raises(ConfigError) as caught:
        load_config(str(file), changes)
    assert sorted(str(caught.value.where).split("; ")) == [
        "batch.batch_size",
        "batch.seq_len",
        "model.emb_dim",
        "objectives",
        "run.timeout",
        "seed",
    ]


@pytest.mark.parametrize(
    ("objective", "change"),
    [
        ("clm", "model.encoder=a"),
        ("clm", "model.decoder=a"),
        ("clm", "batch.tokens_per_batch=9"),
        ("clm", "batch.max_batch_size=9"),
        ("clm", "coefficients.clm='0.5'"),
        ("bt:de-en-de", "coefficients.ae='0:1,1000:0'"),
        ("ae:de", "coefficients.mt='0'"),
        ("clm", "noise.word_blank=0.2"),
        ("mt:de-en", "noise.word_shuffle=0"),
        ("ae:de", "batch.shuffle=false"),
        ("ae:de", "batch.sampling_exponent=0.5"),
        ("ae:de", 'model.encoder="a\\u0000"'),
    ],
)
def test_keys_without_effect_are_refused(file: Path, objective: str, change: str) -> None:
    key = change.partition("=")[0]
    with pytest.raises(ConfigError, match=f"{key} = "):
        load_config(str(file), [f"objectives=['{objective}']", change])


@pytest.mark.parametrize("objective", ["ae:zh-min-nan", "clm:zh-yue", "bt:de-zh-yue-de"])
def test_a_hyphen_in_the_name_of_a_language_is_what_the_error_names(file: Path, objective: str) -> None:
    with pytest.raises(ConfigError, match=r"objectives: .*with languages whose names have no '-'"):
        load_config(str(file), [f"objectives=['{objective}']"])


def test_one_start_for_both_halves_or_one_for_each() -> None:
    translation = {"data": "data", "output": "run", "objectives": ["ae:de"]}
    TrainConfig.from_dict({**translation, "model": {"encoder": "a", "decoder": "b"}})
    TrainConfig.from_dict({**translation, "model": {"start_from": "a"}})
    with pytest.raises(ConfigError, match=r"model\.decoder: left out: model\.start_from starts both halves"):
        TrainConfig.from_dict({**translation, "model": {"start_from": "a", "decoder": "b"}})


def test_sentences_may_be_divided_unevenly(file: Path) -> None:
    changes = ["batch.batch_size=32", "batch.gradient_accumulation_steps=5"]
    assert load_config(str(file), ["objectives=['ae:de']", *changes]).batch.gradient_accumulation_steps == 5


@pytest.mark.parametrize(
    "change",
    [
        "seed=-1",
        "objectives=[]",
        "objectives=['clm', 'clm']",
        "objectives=['mlm']",
        "batch.batch_size=0",
        "batch.seq_len=1",
        "batch.gradient_accumulation_steps=5",
        "batch.sampling_exponent=-1",
        "optimiser.lr=0",
        "optimiser.lr=inf",
        "optimiser.lr=nan",
        "optimiser.beta1=1",
        "optimiser.warmup_steps=-1",
        "optimiser.eps=0",
        "optimiser.clip_norm=0",
        "optimiser.schedule=linear",
        "run.precision=float64",
        "run.device=tpu",
        "run.max_steps=0",
        "run.keep_last=0",
        "run.evaluate_every=-1",
        "run.patience=-1",
        "run.save_every=-1",
        "run.timeout=0",
        "run.sharding=some",
        "model.start_from=somewhere",
        'data=""',
    ],
)
def test_values(file: Path, change: str) -> None:
    key = change.partition("=")[0]
    with pytest.raises(ConfigError) as caught:
        load_config(str(file), [change])
    named = {"batch.gradient_accumulation_steps": "batch.batch_size", "model.start_from": "model.emb_dim"}.get(key, key)
    assert f"{named} = " in str(caught.value.found)
    assert f"{named}: " in str(caught.value.expected)


def test_two_wrong_values_come_together(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"where: optimiser.eps; run.max_steps"):
        load_config(str(file), ["run.max_steps=0", "optimiser.eps=0"])


def test_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("", "utf-8")
    with pytest.raises(ConfigError, match="where: data; output"):
        load_config(str(tmp_path / "empty.toml"))
    with pytest.raises(ConfigError, match=r"model.emb_dim; model.n_layers; model.n_heads"):
        load_config(str(tmp_path / "empty.toml"), ["data=d", "output=o"])
    with pytest.raises(ConfigError, match="one of clm_ende_1024"):
        load_config("no such name")
    (tmp_path / "broken.toml").write_text("a = = 1", "utf-8")
    with pytest.raises(ConfigError, match="not TOML"):
        load_config(str(tmp_path / "broken.toml"))
    with pytest.raises(ConfigError, match="key=value"):
        load_config(str(tmp_path / "empty.toml"), ["data"])
    with pytest.raises(ConfigError, match="not a table"):
        load_config(str(tmp_path / "empty.toml"), ["data=d", "data.x=1"])


OLD_NAMES = """
[batch]
rows = 6
width = 9
accumulation = 3
check = false
[optimiser]
warmup = 7
[run]
updates = 5
bad_steps = 4
"""


def test_old_names_of_keys_are_read_with_one_warning(file: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.toml"
    old.write_text(SMALL.partition("[optimiser]")[0] + OLD_NAMES, "utf-8")
    with pytest.warns(XLMWarning, match=r"batch.rows is now batch.batch_size, .* run.bad_steps is now") as caught:
        config = load_config(str(old))
    assert len(caught) == 1
    assert (config.batch.batch_size, config.batch.seq_len, config.batch.gradient_accumulation_steps) == (6, 9, 3)
    assert not config.batch.verify_checksums
    assert (config.optimiser.warmup_steps, config.run.max_steps, config.run.max_bad_steps) == (7, 5, 4)
    with pytest.warns(XLMWarning, match=r"run.updates is now run.max_steps$") as caught:
        assert load_config(str(file), ["run.updates=9"]).run.max_steps == 9
    assert len(caught) == 1
    with pytest.warns(XLMWarning, match="batch.rows"):  # an override changes an old name in the file
        assert load_config(str(old), ["batch.batch_size=12"]).batch.batch_size == 12
    assert all(f"\n{key.partition('.')[2]} = " in OLD_NAMES for key in RENAMED)


def test_a_key_under_both_names_is_a_mistake(file: Path) -> None:
    file.write_text(SMALL + "[batch]\nrows = 6\nbatch_size = 6\n", "utf-8")
    with pytest.raises(ConfigError, match=r"given twice(?s:.*)where: batch.rows, batch.batch_size\n"):
        load_config(str(file))


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_configurations_stand(path: Path) -> None:
    with pytest.raises(ConfigError, match="where: data; output"):  # that much is left to say
        load_config(path.stem)
    config = load_config(path.stem, ["data=d", "output=o"])
    if not config.model.start_from:
        XLMConfig(vocab_size=100, n_langs=2, lang2id={"de": 0, "en": 1}, **config.model.config_kwargs())


def test_the_published_settings() -> None:
    config = load_config("clm_ende_1024", ["data=d", "output=o"])
    published = XLMConfig.clm_ende_1024()
    built = XLMConfig(vocab_size=64699, n_langs=2, lang2id={"de": 0, "en": 1}, **config.model.config_kwargs())
    assert built == published
    # Facts: 64 GPUs with batches of 64, windows of 256, float16, Adam with a linear warm-up, 1e-4 to 5e-4.
    assert (config.batch.batch_size, config.batch.seq_len, config.run.precision) == (64 * 64, 256, "float16")
    assert 1e-4 <= config.optimiser.lr <= 5e-4
    assert config.optimiser.warmup_steps > 0


def test_every_key_is_documented() -> None:
    """Oracle: the dataclasses, with their defaults."""
    page = (REPOSITORY / "docs/training.md").read_text("utf-8")
    config = load_config("clm_ende_small", ["data=d", "output=o"])
    for part in dataclasses.fields(config):
        value = getattr(config, part.name)
        names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else [part.name]
        rows = page.partition(f"| `{part.name}.` |")[2].partition("\n\n")[0] if len(names) > 1 else page
        for name in names:
            assert f"`{name}`" in rows, f"{part.name}.{name}"
