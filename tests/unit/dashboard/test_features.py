"""The section about features: what it lists, and how examples are shown."""

from dashboard.features import histogram, in_full, share, spaced, tokens
from orchestrator.views import Feature
from worker_image.contract.feature_file import Effect, Example, FeatureBody, Group, Histogram


def made(**body: object) -> Feature:
    example = Example(tokens=[5, 6], acts=[0.0, 2.0], peak=1, sequence=0)
    defaults: dict[str, object] = {
        "firings": 3,
        "histogram": Histogram(width=0.5, counts=[0, 2, 0, 1, 0, 0]),
        "groups": [Group(name="top", examples=[example])],
        "promoted": [Effect(token=7, logit=1.5)],
    }
    return Feature(
        latent=4, density=0.25, mean=1, max=2, peak="<b>", body=FeatureBody.model_validate(defaults | body),
        texts={5: "<i>", 6: " six", 7: "seven"},
    )  # fmt: skip


def test_text_of_tokens_is_text_and_no_markup() -> None:
    html = in_full(made())
    assert "&lt;i&gt;" in html
    assert "<i>" not in html.replace("<i style", "")


def test_a_token_is_shaded_by_its_activation() -> None:
    assert [share(act, 2.0) for act in (0.0, 1.0, 2.0, 3.0)] == [0, 0.375, 0.75, 0.75]
    assert share(1.0, 0.0) == 0
    assert "var(--sf-accent) 75%" in tokens(["a"], [2.0], 2.0)


def test_words_are_apart_and_their_pieces_are_not() -> None:
    assert spaced(["play", "##ing", "now"]) == [" play", "ing", " now"]
    assert spaced(["play", "ing", " now"]) == ["play", "ing", " now"]


def test_a_histogram_ends_with_its_last_bar() -> None:
    assert histogram(made()).count("<i style") == 4
    assert histogram(made(histogram=Histogram(width=0, counts=[0, 0]))) == ""


def test_a_latent_that_was_never_active_says_so() -> None:
    assert "Never active" in in_full(made(groups=[]))
