"""Profiles: every one validates, every field is described, every mistake names file and path."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from deployments.profiles import (
    FOLDER,
    ArenaProfile,
    Profile,
    RetrainProfile,
    RoundsProfile,
    TeachProfile,
    changed,
    load_profile,
    with_home,
)
from llama2_core.errors import ConfigError


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_profile_validates(name: str) -> None:
    assert load_profile(name, []).recipe.rlhf.second_comparisons.batch == "2"


@pytest.mark.parametrize("name", sorted(path.stem for path in (FOLDER / "teach").glob("*.yaml")))
def test_every_profile_of_teach_validates(name: str) -> None:
    assert load_profile(f"teach/{name}", [], TeachProfile).ghost_attention.retention.turns == (2, 4, 6, 20)


@pytest.mark.parametrize("name", sorted(path.stem for path in (FOLDER / "rlhf").glob("*.yaml")))
def test_every_profile_of_rounds_validates(name: str) -> None:
    assert load_profile(f"rlhf/{name}", [], RoundsProfile).recipe.comparisons.batch == "V"


@pytest.mark.parametrize("name", sorted(path.stem for path in (FOLDER / "retrain").glob("*.yaml")))
def test_every_profile_of_retraining_validates(name: str) -> None:
    assert load_profile(f"retrain/{name}", [], RetrainProfile).recipe.approval == (name == "laptop")


def test_a_command_with_home_takes_no_second_one(tmp_path: Path) -> None:
    home = tmp_path / "one: two"
    assert changed(ArenaProfile, {}, with_home(["seed=3"], home), "the command").runtime.home == home
    with pytest.raises(ConfigError, match="takes its home as --home DIR"):
        with_home(["runtime.home=elsewhere"], home)


def test_instructions_are_taught_by_known_constraints_and_an_sft() -> None:
    with pytest.raises(
        ConfigError, match="instructed teaches a base model: it needs sft, and constraints that"
    ):
        load_profile("teach/laptop", ["ghost_attention.sft=null"], TeachProfile)
    with pytest.raises(ConfigError, match="least_turns 9 is more than most_turns 6"):
        load_profile("teach/laptop", ["ghost_attention.ghost.least_turns=9"], TeachProfile)


def test_a_change_is_applied() -> None:
    profile = load_profile("laptop", ["recipe.seed=3", "recipe.pretrain.loop.steps=7"])
    assert (profile.recipe.seed, profile.recipe.pretrain.loop.steps) == (3, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recipe.sede=3", r"laptop.yaml.*\n  recipe.sede: Extra inputs"),
        ("recipe.pretrain.loop.steps=many", r"recipe.pretrain.loop.steps: .*integer.*'many'"),
        ("recipe.pretrain.loop.steps=0", r"recipe.pretrain.loop.steps: .*greater than 0"),
        (
            "recipe.rlhf.ppo.ppo.batch_rows=100",
            "recipe.rlhf.ppo.ppo: .*100 is not a multiple of mini_batch_rows 64",
        ),
        ("recipe.tokens.prose_share=0.5", r"recipe.tokens: .*add up to 1.25, expected 1"),
        ("recipe.tokens.row_tokens=200", r"recipe: .*row_tokens is 200: .*max_seq_len 128 takes 129"),
        ("recipe.tokenizer.vocab_size=2000", r"recipe: .*vocab_size is 1024, tokenizer.vocab_size 2000"),
        ("recipe.seed=[", r"--set 'recipe.seed=\['"),
        ("recipe.seed", "expected path=value"),
        ("recipe.seed.x=1", "seed is a value"),
    ],
)
def test_mistakes_name_file_and_path(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_profile("laptop", [change])


def test_a_file_that_is_not_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: expected fields"):
        load_profile(str(path), [])
    path.write_bytes(b"recipe: \xff\xfe")
    with pytest.raises(ConfigError, match=r"mine.yaml: not readable"):
        load_profile(str(path), [])
    path.write_text("recipe: {sft: {epoch: 3}}\n")
    with pytest.raises(ConfigError, match=r"mine.yaml(.|\n)*recipe.sft.epoch: Extra inputs"):
        load_profile(str(path), [])
    with pytest.raises(ConfigError, match=r"no such profile; there are ci, gpu-24gb-110m, .*laptop"):
        load_profile("desktop", [])


def records(model: type[BaseModel]) -> set[type[BaseModel]]:
    found = {model}
    for field in model.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel) and part not in found:
                found |= records(part)
    return found


def test_every_field_has_a_description() -> None:
    for record in records(Profile) | records(TeachProfile) | records(RoundsProfile):
        for name, field in record.model_fields.items():
            assert field.description, f"{record.__name__}.{name}"
