"""How far a pull is, from what engines say of its layers."""

from orchestrator.executors.pulling import Pull

MIB = 1 << 20


def said(*lines: dict[str, object]) -> str:
    pull = Pull("far/away:latest")
    for line in lines:
        pull.take(line)
    return str(pull)


def layer(name: str, status: str, current: int | None = None, total: int | None = None) -> dict[str, object]:
    return {"id": name, "status": status, "progressDetail": {"current": current, "total": total} if total else {}}


def test_nothing_is_known_before_the_first_layer() -> None:
    opening = {"status": "Pulling from far/away", "id": "latest"}
    assert said(opening) == "pulling image far/away:latest"


def test_layers_and_what_was_loaded_of_them_are_counted() -> None:
    assert (
        said(
            layer("a", "Already exists"),
            layer("b", "Pulling fs layer"),
            layer("c", "Pulling fs layer"),
            layer("b", "Downloading", 3 * MIB, 10 * MIB),
            layer("c", "Downloading", 20 * MIB, 20 * MIB),
            layer("c", "Download complete"),
        )
        == "pulling image far/away:latest: 2 of 3 layers, 23 of 30 MiB"
    )


def test_unpacking_is_not_loading() -> None:
    lines = layer("a", "Downloading", 5 * MIB, 5 * MIB), layer("a", "Extracting", MIB, 5 * MIB)
    assert said(*lines).endswith("1 of 1 layers, 5 of 5 MiB")


def test_lines_of_another_kind_are_passed_over() -> None:
    assert said({}, {"status": "Digest: sha256:0"}, {"id": 7, "status": "odd"}) == "pulling image far/away:latest"
