"""The rule registry: operations, module classes, entry points; what a wrong rule is told."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.compiler.aten.elementwise import tagged_rule
from paramgraph.errors import RuleError, TraceError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def log_factorial(n: int) -> float:
    return math.lgamma(n + 1)


class Untraceable(nn.Module):
    """A per-unit gain behind a branch on data."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(n) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain if float(x.sum()) > 0 else x * self.gain * 2


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), Untraceable(6), nn.Linear(6, 2))


@pytest.fixture
def gain_rule() -> Iterator[None]:
    @pg.rule(Untraceable)
    def rule(b, module, params, x):  # noqa: ANN001, ANN202
        return b.elementwise("mul", x, params["gain"])

    yield
    pg.unregister(Untraceable)


def test_without_a_rule_the_error_names_the_line_and_the_way_out(network: nn.Module) -> None:
    with pytest.raises(TraceError, match=r"test_rules\.py:\d+.*[\s\S]*paramgraph\.rule"):
        pg.compile(network, torch.randn(3, 4))


def test_module_rule_keeps_the_call_whole(network: nn.Module, gain_rule: None) -> None:
    graph = pg.compile(network, torch.randn(3, 4))
    assert graph.symmetry.log_order == pytest.approx(log_factorial(6))
    assert not [d for d in graph.diagnostics if d.kind == "unknown-operation"]
    assert "2.gain" in graph.symmetry.moved_by(0)
    assert pg.verify(graph, network, torch.randn(3, 4), elements=1, inputs=1).passed


def test_the_module_is_left_as_it_was(network: nn.Module, gain_rule: None) -> None:
    before = network(torch.ones(3, 4))
    pg.compile(network, torch.randn(3, 4))
    assert "forward" not in network[2].__dict__
    assert torch.equal(network(torch.ones(3, 4)), before)


def test_a_wrong_module_rule_is_refused(network: nn.Module) -> None:
    @pg.rule(Untraceable)
    def wrong(b, module, params, x):  # noqa: ANN001, ANN202
        return b.reduce(x, [1])

    try:
        with pytest.raises(RuleError, match="Untraceable returned shapes"):
            pg.compile(network, torch.randn(3, 4))
    finally:
        pg.unregister(Untraceable)


def test_an_unsound_module_rule_is_caught_by_verify(network: nn.Module) -> None:
    @pg.rule(Untraceable)
    def unsound(b, module, params, x):  # noqa: ANN001, ANN202
        return x  # forgets that the gain is aligned with the units

    try:
        graph = pg.compile(network, torch.randn(3, 4))
        assert not pg.verify(graph, network, torch.randn(3, 4), elements=1, inputs=1).passed
    finally:
        pg.unregister(Untraceable)


def test_operation_rule_of_a_users_own_operation() -> None:
    @torch.library.custom_op("pgtest::scaled_tanh", mutates_args=())
    def scaled_tanh(x: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.tanh(x) * scale

    @scaled_tanh.register_fake
    def _(x: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.empty_like(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.ops.pgtest.scaled_tanh(self.a(x), 2.0))

    opaque = pg.compile(Net(), torch.randn(3, 4))
    assert opaque.symmetry.log_order == 0
    assert any(d.kind == "unknown-operation" and "scaled_tanh" in d.subject for d in opaque.diagnostics)
    assert any(d.kind == "pinned" and "scaled_tanh.default has no rule" in d.cause for d in opaque.diagnostics)

    @pg.rule("pgtest.scaled_tanh")
    def rule(b, x, scale):  # noqa: ANN001, ANN202
        return b.elementwise("scaled_tanh", x)

    try:
        assert pg.compile(Net(), torch.randn(3, 4)).symmetry.log_order == pytest.approx(log_factorial(5))
    finally:
        pg.unregister("pgtest.scaled_tanh")


def test_a_second_rule_for_one_target_is_an_error() -> None:
    with pytest.raises(RuleError, match=r"aten\.linear already has a rule"):
        pg.compile(nn.Linear(2, 2), torch.randn(3, 2))  # loads the built-in rules
        pg.rule("aten.linear")(lambda b, *a: None)


@pytest.mark.parametrize("target", ["linear", 3, None])
def test_targets_must_be_dotted_names_or_classes(target: object) -> None:
    with pytest.raises(RuleError, match="expected an operation"):
        pg.rule(target)(lambda b: None)  # type: ignore[arg-type]


def test_a_rule_that_fails_half_way_leaves_nothing_behind() -> None:
    """Typing undoes a failed operation: what it touched is pinned, the rest of the network is as without it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.a(x))
            y = h.view(-1, 2, 3).sum(1)  # fine
            z = h.view(-1, 3, 2).reshape(-1, 6)  # 2 × 3 against 3 × 2 does not align
            return self.c(torch.relu(self.b(z))) + y.sum()

    graph = pg.compile(Net(), torch.randn(5, 4))
    model = Net()
    assert pg.verify(graph, model, torch.randn(5, 4), elements=2, inputs=1).passed
    assert any(d.kind == "pinned" for d in graph.diagnostics)


def test_a_rule_that_raises_pins_its_operation() -> None:
    @torch.library.custom_op("pgtest::broken", mutates_args=())
    def broken(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @broken.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.relu(self.b(torch.ops.pgtest.broken(self.a(x)))))

    @pg.rule("pgtest.broken")
    def rule(b, x):  # noqa: ANN001, ANN202
        b.elementwise("relu", x)
        raise ValueError("no such form")

    try:
        graph = pg.compile(Net(), torch.randn(3, 4))
        assert graph.symmetry.log_order == pytest.approx(log_factorial(6))
        assert any("the rule of pgtest.broken.default failed" in d.cause for d in graph.diagnostics)
    finally:
        pg.unregister("pgtest.broken")


def test_entry_point_rules_are_loaded(tmp_path: Path) -> None:
    """A separate distribution, found by its metadata, adds a rule."""
    (tmp_path / "pgplugin.py").write_text(
        textwrap.dedent(
            """
            import torch
            from torch import nn
            import paramgraph as pg

            class Plugged(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.shift = nn.Parameter(torch.randn(n))
                def forward(self, x):
                    return x + self.shift * float(x.shape[0] and x.sum() > -1e9)

            @pg.rule(Plugged)
            def rule(b, module, params, x):
                return b.elementwise("add", x, params["shift"], role="bias")
            """
        )
    )
    info = tmp_path / "pgplugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pgplugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[paramgraph.rules]\npgplugin = pgplugin\n")
    script = textwrap.dedent(
        """
        import torch
        from torch import nn
        import paramgraph as pg
        from pgplugin import Plugged
        g = pg.compile(nn.Sequential(nn.Linear(3, 5), Plugged(5), nn.Linear(5, 2)), torch.randn(4, 3))
        print(round(g.symmetry.log_order, 4), len([d for d in g.diagnostics if d.kind == "unknown-operation"]))
        """
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=_env(tmp_path), check=False)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == [str(round(log_factorial(5), 4)), "0"]


def test_a_broken_entry_point_is_named(tmp_path: Path) -> None:
    info = tmp_path / "pgbroken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pgbroken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[paramgraph.rules]\nbroken = no_such_module_here\n")
    script = "import torch, paramgraph as pg\npg.compile(torch.nn.Linear(2, 2), torch.randn(3, 2))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=_env(tmp_path), check=False)
    assert out.returncode != 0
    assert "RuleError" in out.stderr and "broken" in out.stderr


def _env(path: Path) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(EXAMPLES.parent)])}


def test_the_example_works() -> None:
    out = subprocess.run([sys.executable, str(EXAMPLES / "custom_layer.py")], capture_output=True, text=True, env=_env(EXAMPLES), check=False)
    assert out.returncode == 0, out.stderr
    assert "S_6" in out.stdout and "S_8" in out.stdout


def test_a_rule_that_does_not_say_what_it_computes_promises_no_order_and_no_scale() -> None:
    """What is called an addition may weigh its operands, also between branches that are alike; and nothing is scaled through it there."""

    @torch.library.custom_op("paramgraph_test::weighted", mutates_args=())
    def weighted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + 2 * y

    @torch.library.custom_op("paramgraph_test::moved", mutates_args=())
    def moved(x: torch.Tensor) -> torch.Tensor:
        return x + 0.5

    weighted.register_fake(lambda x, y: torch.empty_like(x))
    moved.register_fake(lambda x: torch.empty_like(x))

    class Branches(nn.Module):
        def __init__(self, last: bool) -> None:
            super().__init__()
            self.a, self.b, self.o, self.last = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2), last

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.a(x), self.b(x)
            return self.o(torch.relu(moved(a)) + torch.relu(moved(b)) if self.last else weighted(torch.relu(a), torch.relu(b)))

    pg.rule("paramgraph_test.weighted")(lambda b, x, y: b.elementwise("add", x, y))
    pg.rule("paramgraph_test.moved")(lambda b, x: b.elementwise("neg", x))
    try:
        for last, order in ((False, log_factorial(6)), (True, log_factorial(6) + 6 * log_factorial(2))):
            model, x = Branches(last).eval(), torch.randn(5, 4)
            graph = pg.compile(model, x)
            assert graph.symmetry.log_order == pytest.approx(order)
            assert graph.symmetry.dimension == 0
            report = pg.verify(graph, model, x)
            assert report.passed, str(report)
    finally:
        pg.unregister("paramgraph_test.weighted")
        pg.unregister("paramgraph_test.moved")


def test_tagged_custom_operation_needs_no_rule() -> None:
    """A custom operation that its author tags as pointwise is one; without the tag it is unknown."""

    def build(name: str, tags: tuple[torch.Tag, ...]) -> nn.Module:
        op = torch.library.custom_op(f"paramgraph_test::{name}", lambda x: x.sin() * x, mutates_args=(), schema="(Tensor x) -> Tensor", tags=tags)
        op.register_fake(torch.empty_like)

        class Layer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.b(op(self.a(x)))

        return Layer().eval()

    x = torch.randn(7, 4)
    tagged, plain = build("tagged", (torch.Tag.pointwise,)), build("plain", ())
    graph = pg.compile(tagged, x)
    assert graph.symmetry.log_order == pytest.approx(log_factorial(5))
    assert pg.verify(graph, tagged, x).passed
    assert [d.subject for d in pg.compile(plain, x).diagnostics if d.kind == "unknown-operation"] == ["paramgraph_test.plain.default"]


@pytest.mark.parametrize(("schema", "tags"), [("(Tensor x) -> bool", ()), ("(Tensor x) -> (Tensor, Tensor)", ()), ("(Tensor[] x) -> Tensor", ()),
                                              ("(Tensor x) -> Tensor", (torch.Tag.nondeterministic_seeded,))])  # fmt: skip
def test_tags_that_do_not_make_one_value_of_elements(schema: str, tags: tuple[torch.Tag, ...]) -> None:
    """Results that are no tensor, lists of tensors, and random numbers need rules of their own, although they are tagged."""
    with torch.library._scoped_library("paramgraph_test", "FRAGMENT") as library:
        library.define(f"odd{schema}", tags=(torch.Tag.pointwise, *tags))
        assert tagged_rule(torch.ops.paramgraph_test.odd.default) is None
