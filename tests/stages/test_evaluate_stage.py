"""Evaluate on real digits: honesty of the choices, pairing, and what it says of bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from gan_core import schemas
from gan_core.config import EvaluateConfig
from gan_core.errors import DataError, UnknownName
from gan_core.evaluation import scoring
from gan_core.probes.solver import dual as _dual
from gan_core.progress import silent
from gan_core.stages import evaluate, extract
from tests.stages.digits_artifacts import digits_crops, evaluate_request, extract_request, given

GRID = [1e-5, 1e-3, 1e-1]


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pixels")
    extract.run(
        extract_request(digits_crops(folder / "crops", 900), folder / "out", "pixels"), silent
    )
    return folder / "out"


def rewrite(source: Path, target: Path, change: dict[str, object]) -> Path:
    """A copy of a features artifact with some columns changed by functions of the table."""
    target.mkdir()
    for path in source.glob("features-*.parquet"):
        table = pq.read_table(path)
        for name, make in change.items():
            table = table.set_column(
                table.schema.get_field_index(name), table.schema.field(name), make(table)
            )  # type: ignore[operator]
        pq.write_table(table, target / path.name)
    return target


def shuffled_test_labels(table: pa.Table) -> pa.Array:
    labels = table["label"].to_numpy().copy()
    test = np.flatnonzero(table["split"].to_numpy(zero_copy_only=False) == "test")
    labels[test] = np.random.default_rng(0).permutation(labels[test])
    return pa.array(labels, pa.int32())


def test_scores_of_pixels_are_far_above_chance_and_tables_agree(
    pixels: Path, tmp_path: Path
) -> None:
    outcome = evaluate.run(
        evaluate_request(pixels, tmp_path, grid=GRID, draws=3, labels_per_class=[10, "all"]), silent
    )
    scores = pq.read_table(tmp_path / "scores.parquet")
    assert scores.schema.equals(schemas.SCORES)
    assert scores["labels"].to_pylist() == ["10"] * 3 + ["all"]
    assert min(scores["test_accuracy"].to_pylist()) > 0.75
    predictions = pq.read_table(tmp_path / "predictions.parquet")
    assert predictions.schema.equals(schemas.PREDICTIONS)
    for row in scores.to_pylist():
        mine = predictions.filter(
            pc.and_(
                pc.equal(predictions["labels"], row["labels"]),
                pc.equal(predictions["draw"], row["draw"]),
            )
        )
        assert mine.num_rows == row["test_rows"]
        assert row["test_accuracy"] == pytest.approx(
            pc.mean(pc.equal(mine["label"], mine["predicted"]).cast("float64")).as_py()
        )
    table = outcome.summary["table"]
    assert table["10"]["label_count"] == 100 and table["10"]["draws"] == 3
    assert table["all"]["low"] < table["all"]["mean"] < table["all"]["high"]


@pytest.mark.parametrize("probe", ["linear_svm", "logistic"])
def test_shuffling_the_test_labels_changes_no_choice(
    pixels: Path, tmp_path: Path, probe: str
) -> None:
    """The test split is read once, at the end: nothing that is chosen can depend on it."""
    other = rewrite(pixels, tmp_path / "shuffled", {"label": shuffled_test_labels})
    for folder, work in ((pixels, "a"), (other, "b")):
        evaluate.run(
            evaluate_request(
                folder, tmp_path / work, probe, GRID, draws=2, labels_per_class=[10, "all"]
            ),
            silent,
        )
    assert pq.read_table(tmp_path / "a" / "choices.parquet").equals(
        pq.read_table(tmp_path / "b" / "choices.parquet")
    )
    ours, theirs = (pq.read_table(tmp_path / work / "scores.parquet") for work in "ab")
    assert ours["chosen"].equals(theirs["chosen"]) and ours["train_accuracy"].equals(
        theirs["train_accuracy"]
    )
    assert max(theirs["test_accuracy"].to_pylist()) < 0.4 < min(ours["test_accuracy"].to_pylist())


def test_test_features_are_not_looked_at_before_the_choice(pixels: Path, tmp_path: Path) -> None:
    """A planted fault would show: with the test rows' features set to zero every choice stays, only
    the test accuracy falls.
    """

    def zeroed(table: pa.Table) -> pa.Array:
        column = table["pixels"].combine_chunks()
        values = column.to_numpy_ndarray().copy()
        values[table["split"].to_numpy(zero_copy_only=False) == "test"] = 0
        return pa.FixedShapeTensorArray.from_numpy_ndarray(values)

    other = rewrite(pixels, tmp_path / "zeroed", {"pixels": zeroed})
    for folder, work in ((pixels, "a"), (other, "b")):
        evaluate.run(
            evaluate_request(folder, tmp_path / work, grid=GRID, draws=2, labels_per_class=[10]),
            silent,
        )
    assert pq.read_table(tmp_path / "a" / "choices.parquet").equals(
        pq.read_table(tmp_path / "b" / "choices.parquet")
    )
    assert max(pq.read_table(tmp_path / "b" / "scores.parquet")["test_accuracy"].to_pylist()) < 0.3


def test_row_order_of_the_features_moves_nothing(pixels: Path, tmp_path: Path) -> None:
    """Draws hang on ids, not on the order of rows: other features of the same images are compared
    on the same labels.
    """
    (tmp_path / "turned").mkdir()
    for number, path in enumerate(sorted(pixels.glob("features-*.parquet"))):
        table = pq.read_table(path)
        order = np.random.default_rng(number).permutation(table.num_rows)
        pq.write_table(
            table.take(order), tmp_path / "turned" / f"features-{9 - number:05d}.parquet"
        )
    for folder, work in ((pixels, "a"), (tmp_path / "turned", "b")):
        evaluate.run(
            evaluate_request(folder, tmp_path / work, grid=GRID, draws=2, labels_per_class=[10]),
            silent,
        )
    for name in ("choices", "scores", "predictions"):
        assert pq.read_table(tmp_path / "a" / f"{name}.parquet").equals(
            pq.read_table(tmp_path / "b" / f"{name}.parquet")
        )


def test_the_same_cell_gives_the_same_bytes(pixels: Path, tmp_path: Path) -> None:
    for work in "ab":
        evaluate.run(
            evaluate_request(
                pixels, tmp_path / work, "logistic", GRID, draws=1, labels_per_class=[10]
            ),
            silent,
        )
    for name in ("scores.parquet", "predictions.parquet", "choices.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_chance_is_the_most_frequent_training_label(pixels: Path, tmp_path: Path) -> None:
    evaluate.run(evaluate_request(pixels, tmp_path, "chance", labels_per_class=["all"]), silent)
    predictions = pq.read_table(tmp_path / "predictions.parquet")
    assert pc.count_distinct(predictions["predicted"]).as_py() == 1
    assert 0.02 < pq.read_table(tmp_path / "scores.parquet")["test_accuracy"][0].as_py() < 0.2


def test_only_kept_rows_train_when_asked(pixels: Path, tmp_path: Path) -> None:
    def half_kept(table: pa.Table) -> pa.Array:
        return pa.array(np.arange(table.num_rows) % 2 == 0)

    other = rewrite(pixels, tmp_path / "half", {"kept": half_kept})
    every = evaluate.run(
        evaluate_request(other, tmp_path / "a", "chance", labels_per_class=["all"]), silent
    ).summary
    kept = evaluate.run(
        evaluate_request(
            other, tmp_path / "b", "chance", labels_per_class=["all"], train_rows="kept"
        ),
        silent,
    ).summary
    assert kept["test_rows"] == every["test_rows"]
    assert abs(kept["train_rows"] / every["train_rows"] - 0.5) < 0.05


def test_too_few_labels_per_class_are_said_and_used(pixels: Path, tmp_path: Path) -> None:
    outcome = evaluate.run(
        evaluate_request(
            pixels, tmp_path, grid=[1e-3], draws=2, labels_per_class=[58, 5000, "all"]
        ),
        silent,
    )
    counts = {
        row["labels"]: row["label_count"]
        for row in pq.read_table(tmp_path / "scores.parquet").to_pylist()
    }
    assert set(counts) == {"58", "all"} and counts["58"] < 580
    assert any("58 labels per class were asked for; class" in line for line in outcome.warnings)
    assert any(
        "5000 labels per class were asked for and no class has more than" in line
        for line in outcome.warnings
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"label": lambda t: pa.nulls(t.num_rows, pa.int32())},
            "No row of this source has a label",
        ),
        ({"label": lambda t: pa.array([3] * t.num_rows, pa.int32())}, "are of one class"),
        ({"split": lambda t: pa.array(["train"] * t.num_rows)}, "0 labelled test rows"),
        ({"split": lambda t: pa.array(["test"] * t.num_rows)}, "0 labelled training rows"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_a_remedy(
    pixels: Path, tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    other = rewrite(pixels, tmp_path / "bad", change)
    with pytest.raises(DataError, match=sentence) as caught:
        evaluate.run(evaluate_request(other, tmp_path / "work"), silent)
    assert caught.value.remedy


def test_a_best_value_at_the_end_extends_the_grid(
    pixels: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every step is logged and in choices.parquet; no warning where the grid then suffices."""
    monkeypatch.setattr(scoring, "EXTENSIONS", 3)
    grid = [1e-6, 1e-5, 1e-4]
    with caplog.at_level("INFO", logger=scoring.__name__):
        outcome = evaluate.run(
            evaluate_request(pixels, tmp_path, grid=grid, draws=1, labels_per_class=[10]), silent
        )
    tried = pq.read_table(tmp_path / "choices.parquet")["value"].to_pylist()
    assert tried[:3] == grid and len(tried) > 3
    assert tried[3:] == pytest.approx([1e-3, 1e-2, 1e-1][: len(tried) - 3])
    assert sum("the end of the grid" in line for line in caplog.messages) == len(tried) - 3
    assert outcome.summary["table"]["10"]["chosen"] < max(tried)
    assert not any("wider grid" in line for line in outcome.warnings)


def test_a_grid_that_stays_too_narrow_is_a_warning(
    pixels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "EXTENSIONS", 0)
    outcome = evaluate.run(
        evaluate_request(pixels, tmp_path, grid=[1e-6, 1e-5, 1e-4], draws=1, labels_per_class=[10]),
        silent,
    )
    assert any("wider grid" in line for line in outcome.warnings)


def test_neighbours_are_extended_down_to_one(pixels: Path, tmp_path: Path) -> None:
    for grid, expected in (([1, 100, 300], [1, 100, 300]), ([2, 100, 300], [2, 100, 300, 1])):
        work = tmp_path / str(grid[0])
        evaluate.run(evaluate_request(pixels, work, "knn", grid, labels_per_class=["all"]), silent)
        assert pq.read_table(work / "choices.parquet")["value"].to_pylist() == expected


def test_a_fit_that_stopped_early_is_said(
    pixels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dual, "MAX_STEPS", 1)
    outcome = evaluate.run(
        evaluate_request(pixels, tmp_path, grid=[1e-2], draws=1, labels_per_class=["all"]), silent
    )
    assert any("C = 0.01 stopped" in line for line in outcome.warnings)


def test_validation_split_is_used_where_there_is_no_test(pixels: Path, tmp_path: Path) -> None:
    def renamed(table: pa.Table) -> pa.Array:
        return pc.replace_substring(table["split"], "test", "validation").combine_chunks()

    other = rewrite(pixels, tmp_path / "renamed", {"split": renamed})
    summary = evaluate.run(
        evaluate_request(other, tmp_path / "work", "chance", labels_per_class=["all"]), silent
    ).summary
    assert summary["test_split"] == "validation"


def test_fresh_draws_are_scored_after_the_choice(pixels: Path, tmp_path: Path) -> None:
    """The authors' way: C by some draws, the figure by others."""
    outcome = evaluate.run(
        evaluate_request(
            pixels, tmp_path, grid=GRID, draws=2, final_draws=5, labels_per_class=[10, "all"]
        ),
        silent,
    )
    scores = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert [row["draw"] for row in scores] == [0, 1, 2, 3, 4, 0]
    choices = pq.read_table(tmp_path / "choices.parquet").to_pylist()
    assert len(choices) == 2 * 3 + 3
    tried = {row["validation_accuracy"] for row in choices if row["labels"] == "10"}
    # Other draws; of 142 validation rows two draws may have equally many right.
    assert len({row["validation_accuracy"] for row in scores if row["labels"] == "10"} - tried) > 1
    assert outcome.summary["table"]["10"]["spread"] == pytest.approx(
        1.96 * outcome.summary["table"]["10"]["sd"], abs=1e-5
    )


def test_published_protocols_are_settings_that_a_recipe_can_change() -> None:
    from gan_core.recipes import load_recipe

    def protocol(*overrides: str) -> EvaluateConfig:
        return load_recipe("digits", overrides=overrides)[0].evaluate

    svhn = protocol("evaluate={protocol: svhn-1000, draws: 2}")
    assert (svhn.labels_per_class, svhn.draws, svhn.final_draws, svhn.validation_rows) == (
        [100],
        2,
        100,
        10_000,
    )
    assert svhn.probes[0].grid == [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2]
    assert EvaluateConfig.model_validate(svhn.model_dump(mode="json")) == svhn
    assert protocol("evaluate={protocol: bigbigan}").validation_rows == 10_000
    assert protocol("evaluate={protocol: cifar10}").labels_per_class == [400, "all"]
    with pytest.raises(UnknownName, match="did you mean 'svhn-1000'"):
        protocol("evaluate.protocol=svhn1000")


def test_validation_rows_in_number(pixels: Path, tmp_path: Path) -> None:
    summary = evaluate.run(
        evaluate_request(pixels, tmp_path / "a", "chance", validation_rows=100), silent
    ).summary
    assert abs(summary["validation_rows"] - 100) <= 5  # rounded within each class
    summary = evaluate.run(
        evaluate_request(pixels, tmp_path / "b", "chance", validation_rows=10_000), silent
    ).summary
    assert abs(summary["validation_rows"] / summary["train_rows"] - 0.5) < 0.02


def leaked_images(features: Path, folder: Path) -> tuple[Path, set[str]]:
    """The features artifact with every fifth test image made a copy of a training image, and a
    leaked.parquet that says so.

    A fifth of the others is mislabelled: only training rows are memorised.
    """
    from gan_core.dedup.tables import PAIRS

    folder.mkdir()
    table = pa.concat_tables(
        [pq.read_table(path) for path in sorted(features.glob("features-*.parquet"))]
    )
    split = table["split"].to_numpy(zero_copy_only=False)
    copies, originals = np.flatnonzero(split == "test")[::5], np.flatnonzero(split == "train")
    rows = np.arange(len(table))
    rows[copies] = originals[: len(copies)]
    for name in ("pixels", "label"):  # what the copy shows; its id and split stay its own
        column = table[name].take(pa.array(rows))
        if name == "label":
            labels = column.to_numpy().copy()
            labels[np.flatnonzero(split == "test")[1::5]] = (
                labels[np.flatnonzero(split == "test")[1::5]] + 1
            ) % 10
            column = pa.array(labels, pa.int32())
        table = table.set_column(
            table.schema.get_field_index(name), table.schema.field(name), column
        )
    pq.write_table(table, folder / "features-00000.parquet")
    ids = [table["image_id"][int(row)].as_py() for row in copies]
    pairs = [
        {
            "image_id_a": one,
            "box_a": 0,
            "split_a": "test",
            "score": 1.0,
            "reason": "identical pixels",
        }
        for one in ids
    ]
    pq.write_table(pa.Table.from_pylist(pairs, schema=PAIRS), folder / "leaked.parquet")
    return folder, set(ids)


def test_accuracy_without_leaked_images_is_a_recount_of_the_same_answers(
    pixels: Path, tmp_path: Path
) -> None:
    """Planted leaks: counted again one prediction at a time; nothing that is chosen or answered
    depends on the list of leaks.
    """
    folder, leaked = leaked_images(pixels, tmp_path / "planted")
    request = evaluate_request(
        folder, tmp_path / "a", "knn", [1], draws=2, labels_per_class=[10, "all"]
    )
    request.inputs["leaked"] = [given("dedup", folder)]
    outcome = evaluate.run(request, silent)
    evaluate.run(
        evaluate_request(folder, tmp_path / "b", "knn", [1], draws=2, labels_per_class=[10, "all"]),
        silent,
    )
    for name in ("choices.parquet", "predictions.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    right: dict[tuple[str, int, str], list[bool]] = {}
    for row in pq.read_table(tmp_path / "a" / "predictions.parquet").to_pylist():
        for test_set in ("all", "without_leaked"):
            if test_set == "all" or row["image_id"] not in leaked:
                right.setdefault((row["labels"], row["draw"], test_set), []).append(
                    row["label"] == row["predicted"]
                )
    scores = pq.read_table(tmp_path / "a" / "scores.parquet").to_pylist()
    assert len(scores) == len(right) == 6
    for row in scores:
        counted = right[row["labels"], row["draw"], row["test_set"]]
        assert row["test_rows"] == len(counted) and row["test_accuracy"] == pytest.approx(
            sum(counted) / len(counted)
        )
    of_all, without = (
        next(r for r in scores if (r["labels"], r["test_set"]) == ("all", kind))
        for kind in ("all", "without_leaked")
    )
    assert of_all["test_accuracy"] > without["test_accuracy"], (
        "the nearest neighbour of a leaked image is its copy"
    )
    assert outcome.summary["leaked"] == len(leaked) == of_all["test_rows"] - without["test_rows"]
    clean = outcome.summary["table"]["all"]["without_leaked"]
    assert (
        clean["mean"] == pytest.approx(without["test_accuracy"], abs=1e-6)
        and clean["low"] < clean["mean"] < clean["high"]
    )
    assert {
        row["test_set"] for row in pq.read_table(tmp_path / "b" / "scores.parquet").to_pylist()
    } == {"all"}


def test_a_test_split_that_leaked_whole_has_no_accuracy_without(
    pixels: Path, tmp_path: Path
) -> None:
    from gan_core.dedup.tables import PAIRS

    ids = pq.read_table(sorted(pixels.glob("features-*.parquet")), columns=["image_id"])[
        "image_id"
    ].to_pylist()
    pairs = [{"image_id_a": one, "box_a": 0} for one in ids]
    pq.write_table(pa.Table.from_pylist(pairs, schema=PAIRS), tmp_path / "leaked.parquet")
    request = evaluate_request(pixels, tmp_path / "work", "chance", labels_per_class=["all"])
    request.inputs["leaked"] = [given("dedup", tmp_path)]
    outcome = evaluate.run(request, silent)
    assert pq.read_table(tmp_path / "work" / "scores.parquet")["test_set"].to_pylist() == ["all"]
    assert any("no accuracy without" in line for line in outcome.warnings)


def test_features_that_are_not_finite_are_refused_with_their_images(
    pixels: Path, tmp_path: Path
) -> None:
    wrong: list[str] = []

    def spoilt(table: pa.Table) -> pa.Array:
        values = table["pixels"].combine_chunks().to_numpy_ndarray().copy()
        if not wrong:
            values[3, 0, 5, 5] = np.nan
            wrong.append(table["image_id"][3].as_py())
        return pa.FixedShapeTensorArray.from_numpy_ndarray(values)

    other = rewrite(pixels, tmp_path / "spoilt", {"pixels": spoilt})
    with pytest.raises(DataError, match="features of 1 of 900 images are not finite") as caught:
        evaluate.run(evaluate_request(other, tmp_path / "work", "knn"), silent)
    assert wrong[0] in caught.value.message
