"""The engines of minimum cuts against every labeling, against SciPy's maximum flow, and against each other."""

import itertools
from math import inf

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow as scipy_flow

from selflabel.kernels import memory
from selflabel.numerics.cuts import maximum_flow, minimum_cut
from selflabel.numerics.cuts.maximum_flow import Array, BoykovKolmogorov, Engine, PushRelabel
from selflabel.numerics.cuts.minimum_cut import sums

Graph = tuple[Array, Array, Array, Array]


def installed(engine: Engine) -> object:
    skip = pytest.mark.skipif(not engine.is_installed(), reason="not installed")
    return pytest.param(engine, marks=skip, id=type(engine).__name__)


EVERY_ENGINE = pytest.mark.parametrize("engine", [installed(BoykovKolmogorov()), installed(PushRelabel())])


@pytest.fixture
def _engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """`minimum_cut` with this engine."""
    monkeypatch.setattr(maximum_flow, "ENGINES", (engine,))


def graph(rng: np.random.Generator, nodes: int, share: float = 0.6, digits: int = 53) -> Graph:
    """Costs of both signs; capacities between some pairs of nodes; numbers of so many binary digits."""
    pairs = np.array(list(itertools.combinations(range(nodes), 2)))
    pairs = pairs[rng.random(len(pairs)) < share]
    scale = 2.0**digits
    cost = np.rint(rng.normal(0, 1, nodes) * scale) / scale
    capacity = np.ceil(rng.uniform(0.01, 0.8, len(pairs)) * scale) / scale
    return cost, pairs[:, 0], pairs[:, 1], capacity


def value(given: Graph, x: Array) -> float:
    cost, first, second, capacity = given
    return float(cost @ x + capacity @ (x[first] != x[second]))


def best_of_all(given: Graph) -> tuple[float, list[Array]]:
    """The minimum, and all that have it but for rounding."""
    every = [np.array(x, bool) for x in itertools.product([0, 1], repeat=len(given[0]))]
    values = np.array([value(given, x) for x in every])
    return float(values.min()), [every[i] for i in np.flatnonzero(values <= values.min() + 1e-12)]


def ones_first(given: Graph) -> Graph:
    cost, first, second, capacity = given
    return -cost, first, second, capacity


@EVERY_ENGINE
@pytest.mark.usefixtures("_engine")
def test_the_minimum_is_that_of_every_labeling_and_has_the_fewest_ones() -> None:
    rng = np.random.default_rng(48_311)
    for round_ in range(150):
        # with few digits many labelings are equally good
        given = graph(rng, 7, digits=53 if round_ % 2 else 1)
        least, minima = best_of_all(given)
        x = minimum_cut.minimum_cut(*given)
        assert value(given, x) == pytest.approx(least, abs=1e-9)
        assert np.array_equal(x, np.logical_and.reduce(minima))


@EVERY_ENGINE
def test_the_sides_are_those_of_every_minimum(engine: Engine) -> None:
    rng = np.random.default_rng(60_107)
    ties = 0
    for _ in range(120):
        given = graph(rng, 7, digits=1)
        _, minima = best_of_all(given)
        source, sink = engine.sides(*given)
        assert np.array_equal(sink, np.logical_and.reduce(minima))
        if isinstance(engine, PushRelabel):
            assert np.array_equal(source, ~np.logical_or.reduce(minima))
            ties += len(minima) > 1
        else:
            assert np.array_equal(source, ~sink)
    assert ties > 10 or isinstance(engine, BoykovKolmogorov)


@EVERY_ENGINE
@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_the_value_is_the_maximum_flow_of_scipy(strength: float) -> None:
    rng = np.random.default_rng(913)
    numbers = np.arange(40 * 50).reshape(40, 50)
    first = np.concatenate([numbers[:, :-1].ravel(), numbers[:-1].ravel()])
    second = np.concatenate([numbers[:, 1:].ravel(), numbers[1:].ravel()])
    cost = rng.integers(-1000, 1001, numbers.size).astype(float)
    capacity = np.ceil(rng.random(len(first)) * strength * 1000)
    size, nodes = numbers.size, numbers.ravel()
    source, sink = np.full(size, size), np.full(size, size + 1)
    flows = np.concatenate([np.maximum(cost, 0), np.maximum(-cost, 0), capacity, capacity]).astype(np.int32)
    rows, columns = (
        np.concatenate([source, nodes, first, second]),
        np.concatenate([nodes, sink, second, first]),
    )
    flow = scipy_flow(
        csr_array((flows, (rows, columns)), shape=(size + 2, size + 2)), size, size + 1
    ).flow_value
    x = minimum_cut.minimum_cut(cost, first, second, capacity)
    assert 0 < x.sum() < size
    assert value((cost, first, second, capacity), x) == flow + np.minimum(cost, 0).sum()


@EVERY_ENGINE
@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("spread", [0, 3, 8, 30])
def test_capacities_of_all_sizes(spread: int) -> None:
    """What decides may be 10^-30 of the largest number in the graph."""
    rng = np.random.default_rng(2_718 + spread)
    for _ in range(60):
        cost, first, second, capacity = graph(rng, 8, 0.4)
        cost *= 10.0 ** rng.uniform(-spread, 0, len(cost))
        capacity *= 10.0 ** rng.uniform(-spread, spread, len(capacity))
        given = cost, first, second, capacity
        least, minima = best_of_all(given)
        x = minimum_cut.minimum_cut(*given)
        assert value(given, x) == pytest.approx(least, rel=1e-9, abs=1e-12)
        if len(minima) == 1:
            assert np.array_equal(x, minima[0])


@EVERY_ENGINE
@pytest.mark.usefixtures("_engine")
def test_a_part_that_hardly_matters_is_decided_all_the_same() -> None:
    """Nodes 2 and 3 have no cost; one weak pair ties them to a 1, a weaker one to a 0."""
    for one in (0, 1):
        cost = np.array([5.0, -5.0, 0.0, 0.0]) * (1 if one == 1 else -1)
        first, second = np.array([0, 2, 1, 0]), np.array([2, 3, 3, 1])
        capacity = np.array([1e-25, 1.0, 2e-25, 0.5])
        x = minimum_cut.minimum_cut(cost, first, second, capacity)
        assert x.tolist() == [1 - one, one, one, one]


@EVERY_ENGINE
@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("nodes", [0, 1, 2])
def test_graphs_without_edges_and_without_costs(nodes: int) -> None:
    none, cost = np.zeros(0, np.int64), np.zeros(nodes)
    assert not minimum_cut.minimum_cut(cost, none, none, np.zeros(0)).any()
    assert minimum_cut.minimum_cut(cost - 1, none, none, np.zeros(0)).all()
    pairs = np.arange(nodes)[:1], np.arange(nodes)[-1:]
    assert not minimum_cut.minimum_cut(cost, *pairs, np.ones(min(nodes, 1))).any()


@pytest.mark.skipif(not BoykovKolmogorov().is_installed(), reason="compares the engines")
def test_engines_agree_on_large_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(77)
    numbers = np.arange(150 * 150).reshape(150, 150)
    first = np.concatenate([numbers[:, :-1].ravel(), numbers[:-1].ravel(), numbers[:-1, :-1].ravel()])
    second = np.concatenate([numbers[:, 1:].ravel(), numbers[1:].ravel(), numbers[1:, 1:].ravel()])
    for strength in (0.2, 1.0, 5.0):
        capacity = strength * rng.random(len(first)).astype(np.float32).astype(np.float64) ** 4
        cost = rng.normal(0, 1, numbers.size)
        found = []
        for engine in (BoykovKolmogorov(), PushRelabel()):
            monkeypatch.setattr(maximum_flow, "ENGINES", (engine,))
            found.append(minimum_cut.minimum_cut(cost, first, second, capacity))
        assert 0 < found[0].sum() < numbers.size
        assert np.array_equal(found[0], found[1])


@EVERY_ENGINE
@pytest.mark.usefixtures("_engine")
def test_a_graph_too_large_for_the_memory_is_refused_before_it_is_built(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = graph(np.random.default_rng(5), 8)
    assert (sums(*given[1:], 8) > np.abs(given[0])).mean() > 0.8  # there is a flow to search
    monkeypatch.setattr(memory, "SMALL_BYTES", 0)
    monkeypatch.setattr(memory, "available_memory", lambda: engine.nbytes(8, len(given[1])) - 1)
    with pytest.raises(
        MemoryError, match=r"a minimum cut of 8 pixels and \d+ pairs take .* free: label smaller"
    ):
        minimum_cut.minimum_cut(*given)
    monkeypatch.setattr(memory, "available_memory", lambda: engine.nbytes(8, len(given[1])))
    minimum_cut.minimum_cut(*given)


def test_an_engine_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(PushRelabel):
        def is_installed(self) -> bool:
            return False

    monkeypatch.setattr(maximum_flow, "ENGINES", (Missing(), PushRelabel()))
    assert maximum_flow.maximum_flow() == PushRelabel()
    monkeypatch.setattr(maximum_flow, "ENGINES", (Missing(),))
    with pytest.raises(ImportError, match=r"pip install PyMaxflow .*, or pip install ortools"):
        maximum_flow.maximum_flow()


def test_integers_keep_what_decides() -> None:
    cost, capacity = maximum_flow._integers(np.array([3.0, -1.5, inf]), np.array([1e300, 0.25]))
    assert (cost / cost[1]).tolist() == [-2, 1, -2]  # no more than twice the least sum
    assert (capacity / cost[1]).tolist() == [-2, -1 / 6]
    for scale in (1e-300, 1e-30, 1e30, 1e300):
        cost, _ = maximum_flow._integers(np.array([3.0, -3.0]) * scale, np.array([scale]))
        assert cost.tolist()[0] >= 2**50
        assert cost.tolist()[1] == -cost.tolist()[0]
