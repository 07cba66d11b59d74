"""Parameters as a YAML file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.config_file import applies_when, blank, read, written
from orchestrator.errors import InvalidInput
from worker_image.contract.jobs import JOB_TYPES, ContainerParams, JobType, TrainSaeParams

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)
SOME = TrainSaeParams(model="tiny", dataset="words", k=4, lr=1e-5)


def put(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def refused(path: Path, **overrides: object) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        read(path).parsed("train_sae", overrides)
    return caught.value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


def _trainings() -> st.SearchStrategy[JobType]:
    """Trainings as people may ask for them; combinations that are refused are left out."""

    def made(values: dict[str, object]) -> JobType | None:
        try:
            return TrainSaeParams.model_validate(values)
        except ValidationError:
            return None

    values = st.fixed_dictionaries(
        {"model": TEXT, "dataset": TEXT},
        optional={
            "text_field": TEXT,
            "network": st.booleans(),
            "expansion_factor": st.integers(1, 256),
            "k": st.integers(1, 4096),
            "lr": st.none() | st.floats(1e-6, 0.1),
            "eps": st.floats(1e-300, 1e-2),
            "beta2": st.floats(0, 0.999999),
            "seed": st.integers(0, 2**63 - 1),
            "checkpoint_every_steps": st.none() | st.integers(1, 10**6),
            "lr_schedule": st.sampled_from(["constant", "linear", "cosine"]),
        },
    )
    return values.map(made).filter(lambda params: params is not None)


@given(params=_trainings())
def test_a_training_written_and_read_is_the_same_training(folder: Path, params: JobType) -> None:
    assert read(put(folder, written(params))).parsed(None, {}) == params


@given(command=st.lists(TEXT, min_size=1, max_size=4), value=TEXT)
def test_a_container_written_and_read_is_the_same_container(folder: Path, command: list[str], value: str) -> None:
    params = ContainerParams(image="busybox", command=command, env={"A": value})
    assert read(put(folder, written(params))).parsed(None, {}) == params


@pytest.mark.parametrize("job_type", JOB_TYPES.values(), ids=JOB_TYPES)
def test_a_blank_file_explains_every_parameter(job_type: type[JobType]) -> None:
    lines = blank(job_type).splitlines()
    for name in job_type.model_fields:
        at = next(number for number, line in enumerate(lines) if line.startswith(f"{name}:"))
        assert lines[at - 1].startswith("#"), name


def test_a_blank_training_file_with_its_blanks_filled_in_is_the_default_training(tmp_path: Path) -> None:
    path = put(tmp_path, blank(TrainSaeParams))
    assert read(path).parsed(None, {"model": "m", "dataset": "d"}) == TrainSaeParams(model="m", dataset="d")


def test_what_is_wrong_is_told_with_its_line(tmp_path: Path) -> None:
    path = put(tmp_path, "type: train_sae\nmodel: m\ndataset: d\n\nk: many\n")
    error = refused(path)
    assert error.message.startswith(f"{path}:5: k: ")
    assert error.field == "k"


def test_what_several_fields_are_at_odds_about_is_told_with_the_line_of_the_one_to_change(tmp_path: Path) -> None:
    path = put(tmp_path, "model: m\ndataset: d\nsteps: 10\nwarmup_steps: 20\n")
    assert refused(path).message.startswith(f"{path}:4: warmup_steps: ")


def test_a_misspelt_field_is_told_with_its_line_and_the_right_spelling(tmp_path: Path) -> None:
    error = refused(put(tmp_path, "model: m\ndataset: d\nstep: 10\n"))
    assert ":3: step: there is no such parameter" in error.message
    assert error.suggestion == "did you mean 'steps'?"


def test_an_override_that_is_wrong_is_told_as_one(tmp_path: Path) -> None:
    path = put(tmp_path, "model: m\ndataset: d\nk: 4\n")
    assert refused(path, k=0).message.startswith("--set k: ")


def test_an_override_goes_before_the_file(tmp_path: Path) -> None:
    path = put(tmp_path, written(SOME))
    assert read(path).parsed(None, {"k": 9}) == SOME.model_copy(update={"k": 9})


def test_numbers_that_yaml_takes_for_words_are_numbers(tmp_path: Path) -> None:
    params = read(put(tmp_path, "model: m\ndataset: d\nlr: 1e-4\n")).parsed("train_sae", {})
    assert isinstance(params, TrainSaeParams)
    assert params.lr == 1e-4


def test_off_is_a_word_and_false_is_not(tmp_path: Path) -> None:
    params = read(put(tmp_path, "model: m\ndataset: d\ncache: off\nnetwork: false\n")).parsed("train_sae", {})
    assert isinstance(params, TrainSaeParams)
    assert (params.cache, params.network) == ("off", False)


def test_a_field_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r":3: k is given twice, first on line 1"):
        read(put(tmp_path, "k: 1\nmodel: m\nk: 2\n"))


@pytest.mark.parametrize("text", ["", "- a\n", "a: [\n", "just words\n"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInput, match=r"config\.yaml"):
        read(put(tmp_path, text))


def test_a_file_that_names_no_type_where_none_is_implied_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="names no job type"):
        read(put(tmp_path, "k: 1\n")).parsed(None, {})


def test_a_condition_is_told_in_a_sentence() -> None:
    assert applies_when({"x-when": {"family": ["topk", "batch_topk"]}}) == "Only with family topk or batch_topk."
    assert applies_when({}) == ""
