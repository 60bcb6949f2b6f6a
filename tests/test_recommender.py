"""The library without Kafka: what a notebook does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import efficientrec
from efficientrec import Recommended, Recommender, read_dataset
from efficientrec.errors import ArtifactError, InteractionInvalid, SettingInvalid
from efficientrec.interactions import RULES, Rule
from efficientrec.recommend import recommend
from efficientrec.training.folder import train_folder
from efficientrec.training.recipe import Recipe
from tests.toy import like, names, rows_after, toy_model

TOY = Recommender(toy_model())


def listed(recommended: list[Recommended]) -> list[str]:
    return [each.item_id for each in recommended]


def test_a_user_gets_what_a_worker_would_give_him() -> None:
    model = toy_model()
    served = recommend(model, rows_after(model, like("anna", "a1"), like("anna", "a2")), 5)

    user = TOY.fold(["a1", "a2"])

    assert listed(TOY.recommend(user, 5)) == names(model, served)
    assert [each.score for each in TOY.recommend(user, 5)] == served.scores[0].tolist()
    assert TOY.recommend(user, 1) == [Recommended("a3", float(served.scores[0, 0]), because="a2", cluster=0)]


def test_folding_leaves_the_user_as_he_was_and_goes_on_from_there() -> None:
    before = TOY.fold(["a1"])
    then = listed(TOY.recommend(before))

    after = TOY.fold(["a2"], before)

    assert listed(TOY.recommend(before)) == then
    assert listed(TOY.recommend(after)) == listed(TOY.recommend(TOY.fold(["a1", "a2"])))
    assert after.folded == 2


def test_a_bad_rating_counts_against() -> None:
    assert listed(TOY.recommend(TOY.fold([("a1", 5.0)])))[0].startswith("a")
    assert listed(TOY.recommend(TOY.fold([("a1", 0.5), ("b1", 5.0)])))[0].startswith("b")


def test_of_nobody_and_of_demographics_alone_something_is_known() -> None:
    assert listed(TOY.recommend(size=2)) == ["a1", "b1"]
    assert listed(TOY.recommend(TOY.fold([], traits={"taste": "b"}), 2))[0] == "b1"


def test_time_passes_only_where_it_is_told() -> None:
    early = TOY.fold(["a1"], at=1_700_000_000)

    late = TOY.fold(["b1"], early, at=1_700_000_000 + 365 * 86_400)
    at_once = TOY.fold(["b1"], early)

    assert late.row.state[0, 0] < 0.01 < 0.9 < at_once.row.state[0, 0]


@pytest.mark.parametrize("act", [("a1", float("inf")), ""])
def test_what_cannot_be_meant_is_refused(act: str | tuple[str, float]) -> None:
    with pytest.raises(InteractionInvalid, match="expected an id and a finite number"):
        TOY.fold([act])


def test_it_is_saved_and_loaded_with_what_ratings_count(tmp_path: Path) -> None:
    ten_stars = Recommender(toy_model(), {**RULES, "rating": Rule(neutral=5, span=5)})
    ten_stars.save(str(tmp_path / "saved"))

    loaded = Recommender.load(str(tmp_path / "saved"))

    user = [("a1", 4.0), ("b1", 8.0)]
    assert loaded.policy.rules == ten_stars.policy.rules
    assert loaded.recommend(loaded.fold(user)) == ten_stars.recommend(ten_stars.fold(user))
    with pytest.raises(ArtifactError, match="exists already"):
        ten_stars.save(str(tmp_path / "saved"))


def test_what_the_command_line_has_trained_knows_the_scale_of_its_ratings(tmp_path: Path) -> None:
    rows = [
        f"u{user},i{item},{2 if (user + item) % 2 else 9},{user * 10 + item}" for user in range(12) for item in range(6)
    ]
    (tmp_path / "interactions.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *rows]) + "\n")
    train_folder(tmp_path, str(tmp_path / "out"), version="v", created_at="", recipe=Recipe(steps=5))

    loaded = Recommender.load(str(tmp_path / "out"))

    assert loaded.policy.rules["rating"] == Rule(neutral=5, span=5)


def test_an_encoder_that_does_not_exist_is_named() -> None:
    with pytest.raises(SettingInvalid, match=r"encoder is 'other'; expected one of efficientrec"):
        Recommender.fit(read_dataset("streams/data/ml-latest-small"), encoder="other")


def test_importing_the_package_is_quick_and_names_only_what_it_has() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "import efficientrec, sys; print('numba' in sys.modules, 'torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert shown.stdout.split() == ["False", "False"]
    assert all(hasattr(efficientrec, name) for name in efficientrec.__all__)
    assert not hasattr(efficientrec, "something_else")


def test_the_readme_does_what_it_says(tmp_path: Path) -> None:
    readme = Path("README.md").read_text(encoding="utf-8")
    (example,) = [code for code in readme.split("```python\n")[1:] if code.startswith("from efficientrec import")]
    code = example.split("```")[0].replace('"models/first"', repr(str(tmp_path / "first")))

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) >= 5
