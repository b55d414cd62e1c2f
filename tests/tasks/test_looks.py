"""PPO's looks at prompts set aside: which is best, how long ago, and what a resumed run knows of them."""

from pathlib import Path

from tasks.ppo_stage import Looks


def seen(objective: float) -> dict[str, float]:
    return {"objective": objective, "reward": 0.5, "kl": 0.1, "helpfulness": 0.5, "safety": 0.5}


def test_the_first_of_the_best_looks_is_kept(tmp_path: Path) -> None:
    looks = Looks(tmp_path, resumed_iteration=0)
    assert looks.would_be_best(seen(1.0)), "there is none yet"
    for iteration, objective in ((0, 1.0), (4, 2.0), (8, 2.0)):
        assert looks.would_be_best(seen(objective)) == (iteration < 8)
        looks.record(iteration, seen(objective))
    assert looks.best()["iteration"] == 4
    assert looks.since_best() == 1


def test_a_resumed_run_forgets_looks_behind_its_checkpoint(tmp_path: Path) -> None:
    looks = Looks(tmp_path, resumed_iteration=0)
    for iteration, objective in ((0, 1.0), (4, 3.0), (8, 2.0)):
        looks.record(iteration, seen(objective))
    resumed = Looks(tmp_path, resumed_iteration=4)
    assert [row["iteration"] for row in resumed.rows] == [0, 4]
    assert Looks(tmp_path, resumed_iteration=0).rows[0]["objective"] == 1.0


def test_a_look_beyond_a_bound_is_never_the_best(tmp_path: Path) -> None:
    looks = Looks(tmp_path, resumed_iteration=0)
    looks.record(0, seen(1.0))
    looks.record(4, seen(9.0), trusted=False)
    assert looks.best()["iteration"] == 0 and looks.since_best() == 1
    assert looks.would_be_best(seen(2.0))
