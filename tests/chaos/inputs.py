"""What a training needs, in name only: the scripted worker reads none of it."""

from orchestrator.settings import Settings


def put_inputs(settings: Settings) -> None:
    """A model and a dataset under the home."""
    model = settings.models / "tiny"
    model.mkdir(parents=True, exist_ok=True)
    (model / "config.json").write_text('{"model_type": "bert"}')
    settings.datasets.mkdir(parents=True, exist_ok=True)
    (settings.datasets / "text.txt").write_text("some text")
