"""Dialogs held turn by turn by a tiny model: told on every turn or once, resumed, and as far as the context reaches."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from llama2_core.chat import Dialog, assistant, user
from llama2_core.config import ModelConfig, SamplingConfig
from llama2_core.errors import DataError
from llama2_core.model import Transformer, initialise
from llama2_core.rlhf.ghost_attention import Constraint, on_every_turn, on_first_turn
from llama2_core.seeding import generator
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from storage.schemas import DEMONSTRATIONS, GHOST, read_table, write_table
from tasks import ghost_stage
from tasks.attention_stage import answer_places, attention
from tasks.ghost_recipe import AttentionRecipe, ConstraintsRecipe, GhostRecipe, RetentionRecipe
from tasks.ghost_stage import by_turn, kept_row
from tasks.instructions import starter_constraints
from tasks.runtime import Execution
from tasks.stage import Stage
from tasks.tables import dialog_from_json, dialog_to_json, read_lessons, write_constraints
from tasks.talks import Instruct, Talk, hold

SHORT = SamplingConfig(max_new_tokens=4)
SAID = ["the cat", "the dog ran", "a mat", "seven apples", "the red house"]


@pytest.fixture
def parents(config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path) -> dict[str, Path]:
    shape = config.model_copy(update={"max_seq_len": 320})
    model = Transformer(shape)
    initialise(model, shape, generator(0, "test"))
    save_model(tmp_path / "chat", model, tokenizer)
    for folder in ("constraints", "dialogs", "stage"):
        (tmp_path / folder).mkdir()
    write_constraints(tmp_path / "constraints", starter_constraints())
    rows = [
        {
            "id": text,
            "kind": "plain",
            "safety": False,
            "quality": "",
            "dialog": dialog_to_json((user(text), assistant("a mat"))),
        }
        for text in SAID
    ]
    told = {"id": "told", "kind": "instructed", "safety": False, "quality": ""}
    rows.append({**told, "dialog": dialog_to_json((user("Act as Bach. nine pears"), assistant("Bach")))})
    write_table(tmp_path / "dialogs" / "demonstrations.parquet", rows, DEMONSTRATIONS)
    return {name: tmp_path / name for name in ("chat", "constraints", "dialogs")}


def stage(directory: Path, recipe: object, parents: dict[str, Path]) -> Stage:
    directory.mkdir(exist_ok=True)
    return Stage(directory, recipe.model_dump(mode="json"), 0, parents, Execution(threads=1))


def test_sampled_dialogs_are_told_once_and_learned_at_the_end(
    parents: dict[str, Path], tmp_path: Path
) -> None:
    recipe = GhostRecipe(dialogs=40, most_turns=4, sampling=SHORT)
    facts = ghost_stage.ghost(stage(tmp_path / "ghost", recipe, parents))
    rows = read_table(tmp_path / "ghost" / "ghost.parquet", GHOST)
    assert facts["dialogs"] == len(rows) == 40 and 8 <= facts["shortened"] <= 32
    for row in rows:
        dialog = dialog_from_json(row["dialog"])
        assert 2 <= row["turns"] <= 4 and len(dialog) == 2 * row["turns"]
        first, *later = (message.content for message in dialog[::2])
        assert any(first.endswith(f". {text}") for text in SAID)
        assert first.startswith(("Figure:", "Hobby:", "Language:")) == row["shortened"]
        assert set(later) < set(SAID), "instructed demonstrations do not supply what the user says"
        assert len({first.rpartition(". ")[2], *later}) == row["turns"], "nothing is asked twice"
    lessons = list(
        read_lessons({"base": tmp_path, "dialogs": parents["dialogs"], "ghost": tmp_path / "ghost"})
    )
    assert [lesson.learn for lesson in lessons] == ["all"] * 6 + ["last"] * 40


def test_a_stage_cut_off_goes_on_and_makes_the_same(
    parents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.sampling_stages.CHUNK", 4)
    of = stage(tmp_path / "ghost", GhostRecipe(dialogs=6, most_turns=3, sampling=SHORT), parents)
    facts, path = ghost_stage.ghost(of), tmp_path / "ghost" / "ghost.parquet"
    straight = read_table(path, GHOST)
    first, last = sorted(of.checkpoints.iterdir())
    path.unlink()
    last.unlink()
    written = first.stat().st_mtime_ns
    assert ghost_stage.ghost(of) == facts and read_table(path, GHOST) == straight
    assert first.stat().st_mtime_ns == written, "a finished chunk is not made again"


@pytest.mark.parametrize(("instruct", "shares"), [(on_first_turn, [1, 0, 0]), (on_every_turn, [1, 1, 1])])
def test_one_who_repeats_the_last_turn_keeps_to_what_it_says(instruct: Instruct, shares: list[float]) -> None:
    constraints = [Constraint(kind="figure", value=name) for name in ("Bach", "Plato", "Curie")]
    held = [Talk(index, (constraint,), SAID[:3]) for index, constraint in enumerate(constraints)]
    hold(held, instruct, lambda _, dialogs: [dialog[-1].content for dialog in dialogs])
    rows = [kept_row(talk, turn, None) for talk in held for turn in (1, 2, 3)]
    found = by_turn(rows, [1, 2, 3, 4])
    assert [found[f"turn {turn}"]["value"] for turn in (1, 2, 3)] == shares
    assert found["turn 2"] == found["by_kind"]["turn 2"]["figure"]
    assert found["turn 2"]["n"] == 3 and found["turn 4"]["n"] == 0


def test_a_talk_without_room_ends_and_the_others_go_on() -> None:
    held = [Talk(index, (Constraint(kind="hobby", value="chess"),), SAID[: 2 + index]) for index in range(3)]

    def say(talks: Sequence[Talk], dialogs: Sequence[Dialog]) -> list[str | None]:
        return [
            None if talk.index == 2 and len(dialog) == 5 else "sat"
            for talk, dialog in zip(talks, dialogs, strict=True)
        ]

    hold(held, on_first_turn, say)
    assert [len(talk.answers) for talk in held] == [2, 3, 2]


def test_a_dialog_ends_where_the_context_does(parents: dict[str, Path], tmp_path: Path) -> None:
    path = parents["chat"] / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_seq_len": 76}))
    recipe = RetentionRecipe(turns=(2, 5), dialogs=8, sampling=SHORT)
    found = ghost_stage.retention(stage(tmp_path / "r", recipe, {**parents, "model": parents["chat"]}))
    assert found["turn 1"]["n"] > found["turn 2"]["n"] > 0
    assert found["turn 5"] == {"value": 0, "low": 0, "high": 0, "n": 0}
    with pytest.raises(DataError, match="no dialog of 5 turns fits the context"):
        long = GhostRecipe(dialogs=8, least_turns=5, most_turns=5, sampling=SHORT)
        ghost_stage.ghost(stage(tmp_path / "g", long, parents))


def test_a_models_lists_become_constraints() -> None:
    found = ghost_stage.named_by(
        {"hobby": "1. Chess\n2. Rock climbing\n3. Golf", "figure": "- Bach\n- Plato"}, 2
    )
    named = ghost_stage.named([constraint for constraint in found if constraint.kind != "language"])
    assert named == ["hobby/Chess", "hobby/Rock climbing", "figure/Bach", "figure/Plato"]
    with pytest.raises(DataError, match=r"asked to list 30 of hobby, the chat model said 'I like chess\.'"):
        ghost_stage.named_by({"hobby": "I like chess."}, 30)


def test_a_model_is_asked_for_lists(parents: dict[str, Path], tmp_path: Path) -> None:
    recipe = ConstraintsRecipe(sampling=SamplingConfig(temperature=0, max_new_tokens=1))
    with pytest.raises(DataError, match="asked to list 30 of hobby, the chat model said"):
        ghost_stage.constraints(stage(tmp_path / "c", recipe, parents))


def test_a_language_with_a_code_is_recognised() -> None:
    french = Constraint(kind="language", value="French", language="fr")
    assert ghost_stage.kept([french], "Je ne sais pas où se trouve la gare.", None) == [french]
    assert ghost_stage.kept([french], "I do not know where the station is, in French.", None) == []


def test_attention_is_of_answers_to_the_instruction(
    parents: dict[str, Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    dialog = (user("Act as cat. a mat"), assistant("the dog"), user("on"), assistant("ran"))
    tokens, places, span = answer_places("Act as cat.", dialog, tokenizer)
    assert tokenizer.decode(tokens[span]).strip() == "Act as cat."
    assert len(places) == 2
    predicted = [tokenizer.decode([tokens[place + 1] for place in of]).strip() for of in places]
    assert predicted == ["the dog", "ran"]
    recipe = RetentionRecipe(turns=(3,), dialogs=3, sampling=SHORT)
    ghost_stage.retention(stage(tmp_path / "retention", recipe, {**parents, "model": parents["chat"]}))
    models = {"without": parents["chat"], "with": parents["chat"], "retention": tmp_path / "retention"}
    found = attention(stage(tmp_path / "attention", AttentionRecipe(dialogs=2), models))
    assert found["with"] == found["without"]
    assert list(found["with"]) == ["turn 1", "turn 2", "turn 3"]
    assert all(0 < value <= 1 for value in found["with"].values())
    drawn = json.loads((tmp_path / "attention" / "attention.json").read_text())
    assert len(drawn["maps"]["with"]) == len(drawn["maps"]["with"][0])
