"""Features: what latents react to, a page of them and one in full."""

from html import escape
from uuid import UUID

import streamlit as st

from dashboard import connection, markup
from dashboard.quantities import measured
from orchestrator.errors import OrchestratorError
from orchestrator.views import Feature, FeatureList
from worker_image.contract.feature_file import FeatureSort

PAGE = 25
"""Latents listed at once."""
SORTS: dict[FeatureSort, str] = {
    "-density": "Most frequent",
    "density": "Rarest",
    "-max": "Strongest",
    "-mean": "Strongest on average",
    "latent": "Number",
}


def features(job_id: UUID) -> None:
    """Draw the section; nothing while the job has not left its file."""
    client = connection.client()
    with st.container(key="features"):
        st.html(markup.section("Features"))
        left, middle, right = st.columns([2, 1, 1])
        sort = left.selectbox("Order", list(SORTS), format_func=SORTS.__getitem__, key="feature-sort")
        page = middle.number_input("Page", min_value=1, value=1, step=1, key="feature-page")
        chosen = right.number_input(
            "Latent", min_value=0, value=None, step=1, key="feature-latent", placeholder="First of the page"
        )
        try:
            found = client.features(job_id, offset=(int(page) - 1) * PAGE, limit=PAGE, sort=sort)
            latent = chosen if chosen is not None else next((item.latent for item in found.items), None)
            feature = None if latent is None else client.feature(job_id, int(latent))
        except OrchestratorError as error:
            st.html(f'<div class="sf-note">{escape(markup.explained(error))}</div>')
            return
        listed, shown = st.columns([2, 3])
        listed.html(listing(found))
        if feature is not None:
            shown.html(in_full(feature))


def listing(found: FeatureList) -> str:
    """The page as a table."""
    if not found.items:
        return markup.empty("No latent here", f"There are {found.total:,} in all.")
    rows = [
        [
            str(item.latent),
            f"<code>{escape(item.peak.strip() or '–')}</code>",
            f"{item.density:.2%}",
            measured("mean", item.mean),
            measured("max", item.max),
        ]
        for item in found.items
    ]
    return markup.table(["#latent", "strongest at", "#density", "#mean", "#max"], rows, label="Features")


def in_full(feature: Feature) -> str:
    """One latent with its examples; tokens are shaded by how much they activate it."""
    near = ", ".join(f"{item.latent} ({item.cosine:.2f})" for item in feature.body.neighbours)
    facts = [
        ("density", f"{feature.density:.3%} of tokens, {feature.body.firings:,} in all"),
        ("mean, largest", f"{measured('mean', feature.mean)}, {measured('max', feature.max)}"),
        ("neighbours", near or "–"),
        ("promotes", effects(feature, promoted=True)),
        ("suppresses", effects(feature, promoted=False)),
    ]
    groups = "".join(
        f'<h3 class="sf-group">{escape(group.name)}</h3>'
        + "".join(
            tokens([feature.texts.get(token, "") for token in example.tokens], example.acts, feature.max)
            for example in group.examples
        )
        for group in feature.body.groups
    )
    never = markup.empty("Never active", "No token that was looked at activates it.")
    return (
        f'<div role="region" tabindex="0" aria-label="Latent {feature.latent}">'
        f"{markup.section(f'Latent {feature.latent}')}{markup.pairs(facts)}{histogram(feature)}{groups or never}</div>"
    )


def effects(feature: Feature, *, promoted: bool) -> str:
    """Tokens whose logits it moves."""
    found = feature.body.promoted if promoted else feature.body.suppressed
    return ", ".join(f"{feature.texts.get(item.token, '').strip()} {item.logit:+.2f}" for item in found) or "–"


def histogram(feature: Feature) -> str:
    """Its activations by size, as bars."""
    counts = feature.body.histogram.counts
    used = next((len(counts) - index for index, count in enumerate(reversed(counts)) if count), 0)
    if not used:
        return ""
    most = max(counts)
    bars = "".join(
        f'<i style="height:{max(100 * count / most, 2 if count else 0):.0f}%" '
        f'title="{index * feature.body.histogram.width:.3g} and more: {count}"></i>'
        for index, count in enumerate(counts[:used])
    )
    end = used * feature.body.histogram.width
    return f'<div class="sf-histogram" role="img" aria-label="Activations from 0 to {end:.3g}">{bars}</div>'


def tokens(texts: list[str], acts: list[float], most: float) -> str:
    """Some tokens in a row, each shaded by its activation."""
    spans = "".join(
        f'<span style="background:color-mix(in srgb, var(--sf-accent) {100 * share(act, most):.0f}%, transparent)" '
        f'title="{act:.3g}">{escape(text)}</span>'
        for text, act in zip(spaced(texts), acts, strict=True)
    )
    return f'<div class="sf-example">{spans}</div>'


def share(act: float, most: float) -> float:
    """How much of full shade: at most three quarters, which leaves the text readable."""
    return 0.75 * max(0.0, min(act / most, 1.0)) if most > 0 else 0.0


def spaced(texts: list[str]) -> list[str]:
    """With a space between tokens of tokenizers that write none into them."""
    if any(text.startswith(" ") for text in texts):
        return texts
    return [text.removeprefix("##") if text.startswith("##") else f" {text}" for text in texts]
