"""Which operators a model consists of, in which version, in sub-graphs and functions too."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from edgekd.graph.traces import subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import onnx


class Operator(NamedTuple):
    """An operator as a model names it.

    Attributes:
        domain: Its domain; the standard one is `""`.
        name: Its name there.
        opset: The version of the domain that the model asks for; 1 where it names none.
    """

    domain: str
    name: str
    opset: int


def opsets(model: onnx.ModelProto) -> dict[str, int]:
    """Return by domain the version of its operators that a model asks for, its functions' included: the highest."""
    found: dict[str, int] = {}
    for owner in (model, *model.functions):
        for domain, version in _imports(owner.opset_import).items():
            found[domain] = max(version, found.get(domain, 0))
    return dict(sorted(found.items()))


def count_operators(model: onnx.ModelProto) -> Counter[Operator]:
    """Return how often a model uses each operator. Calls of its own functions do not count, what is in these does."""
    own = {(_domain(function.domain), function.name) for function in model.functions}
    counts = Counter(_operators(model.graph.node, _imports(model.opset_import)))
    for function in model.functions:
        counts.update(_operators(function.node, _imports(function.opset_import)))
    return Counter({found: count for found, count in counts.items() if found[:2] not in own})


def _operators(nodes: Iterable[onnx.NodeProto], versions: Mapping[str, int]) -> Iterator[Operator]:
    for node in nodes:
        domain = _domain(node.domain)
        yield Operator(domain, node.op_type, versions.get(domain, 1))
        for graph in subgraphs(node):
            yield from _operators(graph.node, versions)


def _imports(entries: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {_domain(entry.domain): entry.version for entry in entries}


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
