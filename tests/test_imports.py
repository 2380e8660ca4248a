"""No module imports itself by way of others: not even where only types are needed."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("bkctl", exclude_type_checking_imports=False, cache_dir=None)
    imported = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    assert len(imported) > 200
    TopologicalSorter(imported).prepare()


def test_no_rooms_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("bkctl", exclude_type_checking_imports=False, cache_dir=None)
    rooms: dict[str, set[str]] = {}
    for module in graph.modules - {"bkctl"}:
        room = _room(module)
        others = {_room(other) for other in graph.find_modules_directly_imported_by(module)}
        rooms.setdefault(room, set()).update(others - {room, "bkctl"})
    assert {"backup", "store", "pool"} <= set(rooms)
    TopologicalSorter(rooms).prepare()


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else module
