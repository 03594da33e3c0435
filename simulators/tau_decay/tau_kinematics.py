"""The decay of a tau lepton to its final state: sequential two-body decays, four-momentum conserved at every vertex.

The twin of decay_table.hpp and decay.hpp: same draws, same order, same addresses, same arithmetic. Units are GeV.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

MAX_ATTEMPTS = 1000
"""Rejections in a row after which a draw is taken to be forced into a corner."""


class Random(Protocol):
    """Where random numbers come from."""

    def uniform(self, low: float, high: float, name: str) -> float: ...
    def normal(self, mean: float, sd: float, name: str) -> float: ...
    def categorical(self, probs: Sequence[float], name: str) -> int: ...
    def scope(self, name: str) -> AbstractContextManager[object]: ...
    def rejection(self, name: str) -> AbstractContextManager[object]: ...


class FourVector(NamedTuple):
    """Energy and momentum, GeV."""

    e: float
    x: float
    y: float
    z: float


class Particle(NamedTuple):
    """A line of the particle table; `kind` as explained in decay_table.inc."""

    name: str
    mass: float
    width: float
    kind: str


class State(NamedTuple):
    """A particle with its momentum."""

    particle: Particle
    momentum: FourVector


class Vertex(NamedTuple):
    """A decay, for display and checks."""

    parent: State
    daughters: tuple[State, ...]


class Mode(NamedTuple):
    """A way to decay: two daughters, or one where a state only gets another name (K0 -> KS)."""

    name: str
    daughters: tuple[Node, ...]


@dataclass
class Node:
    """A place in a decay tree: a particle, or what stands in brackets, with its modes (none if stable).

    Attributes:
        particle: Which one.
        modes: Its decay modes.
        fractions: Their branching fractions, sum 1.
        leaves: Number of daughters at the end of the brackets.
        low: Smallest mass, GeV; equal to `high` for a state of fixed mass.
        high: Largest mass, GeV.
        bound: Largest value of `spectral_weight` in tau decays.
    """

    particle: Particle
    modes: list[Mode] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)
    leaves: int = 1
    low: float = 0.0
    high: float = math.inf
    bound: float = 0.0

    @property
    def scope(self) -> str:
        """Where the draws of this state live."""
        return f"decay/{self.particle.name}"


def spectral_weight(mass: float, low: float, m_tau: float) -> float:
    """Density of the mass of the hadrons in tau -> nu + hadrons apart from resonances.

    (1 - x)^2 (1 + 2x), x = mass^2/m_tau^2, for a spin-1 current (Tsai, Phys. Rev. D 4 (1971) 2821), times the p-wave
    threshold (1 - low^2/mass^2)^(3/2).
    """
    x = mass * mass / (m_tau * m_tau)
    t = 1.0 - low * low / (mass * mass)
    return (1.0 - x) * (1.0 - x) * (1.0 + 2.0 * x) * t * math.sqrt(t)


class DecayTable:
    """Particles and their decay modes, from the text of decay_table.inc."""

    def __init__(self, text: str) -> None:
        self.particles: dict[str, Particle] = {}
        self._decays: dict[str, Node] = {}
        modes: dict[str, list[list[str]]] = {}
        for line in text.splitlines():
            fields = [f.strip() for f in line.split("|")]
            if line.startswith("#") or len(fields) < 4:
                continue
            name = fields[0]
            if name in self.particles:
                modes.setdefault(name, []).append(fields)
            else:
                self.particles[name] = Particle(
                    name, float(fields[1]) * 1e-3, float(fields[2]) * 1e-3, fields[3]
                )
        # Particles that later ones decay to come first; the tau is last.
        for name in ("pi0", "KS", "K0", "eta", "omega", "phi", "tau"):
            node = Node(self.particles[name])
            for _, percent, mode, daughters in modes[name]:
                node.modes.append(Mode(mode, self._parse_daughters(daughters)))
                node.fractions.append(float(percent))
            self._finish(node)
            self._decays[name] = node
        self.tau = self._decays["tau"]

    def _parse_daughters(self, text: str) -> tuple[Node, ...]:
        """Reads `rho[pi pi0] pi0`: names, each with the daughters in its brackets."""
        stack: list[list[Node]] = [[]]
        for token in text.replace("[", " [ ").replace("]", " ] ").split():
            if token == "[":
                stack.append([])
            elif token == "]":
                daughters = tuple(stack.pop())
                node = stack[-1][-1] = Node(stack[-1][-1].particle, [Mode("", daughters)], [1.0])
                self._finish(node)
            else:
                node = self._decays.get(token) or Node(self.particles[token])
                self._finish(node)
                stack[-1].append(node)
        return tuple(stack[0])

    def _finish(self, node: Node) -> None:
        """Sets what follows from the modes: fractions, leaves, mass window, bound of the spectral weight."""
        particle = node.particle
        total = sum(node.fractions)
        node.fractions = [f / total for f in node.fractions]
        if particle.kind != "system" and particle.width == 0.0:
            node.low = node.high = particle.mass
            return
        if not node.modes:
            return
        node.low = max(sum(d.low for d in mode.daughters) for mode in node.modes)
        node.leaves = max(sum(d.leaves for d in mode.daughters) for mode in node.modes)
        if particle.width > 0.0:  # a Breit-Wigner is cut five widths from its peak
            node.low = max(node.low, particle.mass - 5.0 * particle.width)
            node.high = particle.mass + 5.0 * particle.width
        m_tau = self.particles["tau"].mass
        top = min(node.high, m_tau)
        masses = (node.low + (top - node.low) * i / 1000.0 for i in range(1, 1000))
        # The scan misses the maximum by less than this factor.
        node.bound = max(spectral_weight(m, node.low, m_tau) for m in masses) * (1.0 + 1e-4)


DECAY_TABLE = DecayTable((Path(__file__).parent / "decay_table.inc").read_text())


@dataclass
class Decay:
    """What happened to one tau.

    Attributes:
        tau: The lepton in the laboratory.
        channel: Index of its decay mode.
        final_state: Stable particles, in order of the decays.
        vertices: The decays, in order.
    """

    tau: State
    channel: int
    final_state: list[State] = field(default_factory=list)
    vertices: list[Vertex] = field(default_factory=list)


def breakup_momentum(M: float, m1: float, m2: float) -> float:
    """Momentum of the daughters of a mass M at rest; zero below threshold."""
    product = (M - m1 - m2) * (M + m1 + m2) * (M - m1 + m2) * (M + m1 - m2)
    return math.sqrt(product) / (2.0 * M) if product > 0.0 else 0.0


def boost(p: FourVector, parent: FourVector, M: float) -> FourVector:
    """What has four-momentum `p` at rest with `parent` (of mass M), seen from the frame in which `parent` is given."""
    e = (parent.e * p.e + parent.x * p.x + parent.y * p.y + parent.z * p.z) / M
    k = (p.e + e) / (parent.e + M)
    return FourVector(e, p.x + k * parent.x, p.y + k * parent.y, p.z + k * parent.z)


def decay_tau(random: Random, table: DecayTable = DECAY_TABLE) -> Decay:
    """Draws the momentum, the channel and the kinematics."""
    tau = table.tau
    px = random.uniform(-3.0, 3.0, "px")
    py = random.uniform(-3.0, 3.0, "py")
    pz = random.uniform(43.0, 47.0, "pz")
    mass = tau.particle.mass
    momentum = FourVector(math.sqrt(mass * mass + px * px + py * py + pz * pz), px, py, pz)
    decay = Decay(State(tau.particle, momentum), random.categorical(tau.fractions, "channel"))
    _split(random, decay, tau, tau.modes[decay.channel], mass, momentum)
    return decay


def _follow(random: Random, decay: Decay, node: Node, mass: float, momentum: FourVector) -> None:
    """Lets a state decay by its modes; a stable one goes to the final state."""
    if not node.modes:
        decay.final_state.append(State(node.particle, momentum))
        return
    mode = 0
    if len(node.modes) > 1:
        with random.scope(node.scope):
            mode = random.categorical(node.fractions, "mode")
    _split(random, decay, node, node.modes[mode], mass, momentum)


def _split(random: Random, decay: Decay, node: Node, mode: Mode, mass: float, momentum: FourVector) -> None:
    parent = State(node.particle, momentum)
    first = mode.daughters[0]
    if len(mode.daughters) == 1:
        decay.vertices.append(Vertex(parent, (State(first.particle, momentum),)))
        _follow(random, decay, first, mass, momentum)
        return
    second = mode.daughters[1]
    from_tau = node.particle.name == "tau"
    m1 = _draw_mass(random, first, mass, second.low, from_tau)
    m2 = _draw_mass(random, second, mass, m1, from_tau)
    p = breakup_momentum(mass, m1, m2)
    with random.scope(node.scope):
        cos_theta = random.uniform(-1.0, 1.0, "cos_theta")
        phi = random.uniform(0.0, 2.0 * math.pi, "phi")
    sin_theta = math.sqrt((1.0 - cos_theta) * (1.0 + cos_theta))
    x, y, z = p * sin_theta * math.cos(phi), p * sin_theta * math.sin(phi), p * cos_theta
    p1 = boost(FourVector(math.sqrt(m1 * m1 + p * p), x, y, z), momentum, mass)
    p2 = boost(FourVector(math.sqrt(m2 * m2 + p * p), -x, -y, -z), momentum, mass)
    decay.vertices.append(Vertex(parent, (State(first.particle, p1), State(second.particle, p2))))
    _follow(random, decay, first, m1, p1)
    _follow(random, decay, second, m2, p2)


def _draw_mass(random: Random, node: Node, M: float, sister: float, from_tau: bool) -> float:
    """Mass of a daughter of a state of mass M, whose sister weighs `sister` at least."""
    if node.low == node.high:
        return node.low
    if node.particle.name == "neutrinos":
        return _michel(random, M, sister)
    high = min(node.high, M - sister)
    at_threshold = breakup_momentum(M, node.low, sister)
    with random.scope(node.scope), random.rejection("mass"):
        for _ in range(MAX_ATTEMPTS):
            mass = _propose_mass(node, high, from_tau, random.uniform(0.0, 1.0, "mass_quantile"))
            if from_tau:
                weight = spectral_weight(mass, node.low, M) / node.bound
            else:
                weight = breakup_momentum(M, mass, sister) / at_threshold
            if random.uniform(0.0, 1.0, "accept") < weight:
                return mass
    raise RuntimeError(
        f"tau_decay: no mass accepted for {node.scope} in {MAX_ATTEMPTS} attempts; are its draws forced?"
    )


def _propose_mass(node: Node, high: float, from_tau: bool, quantile: float) -> float:
    """The mass below which a fraction `quantile` of the proposal lies."""
    m0 = node.particle.mass
    scale = m0 * node.particle.width
    if scale > 0.0:  # relativistic Breit-Wigner: s = m0^2 + m0 Gamma tan(angle), angle uniform
        a = math.atan((node.low * node.low - m0 * m0) / scale)
        b = math.atan((high * high - m0 * m0) / scale)
        return math.sqrt(m0 * m0 + scale * math.tan(a + (b - a) * quantile))
    if from_tau:  # uniform: the spectral weight does the rest
        return node.low + (high - node.low) * quantile
    # n bodies near threshold have a phase space of (m - low)^((3n - 5)/2); the accept-reject adds that of the sister
    return float(node.low + (high - node.low) * quantile ** (1.0 / (1.5 * node.leaves - 1.5)))


def _michel(random: Random, M: float, m: float) -> float:
    """Mass of the neutrino pair in tau -> l nu nu.

    From the Michel spectrum 3x^2 - 2x^3 of the lepton energy E = x E_max, for a lepton of mass m.
    """
    e_max = (M * M + m * m) / (2.0 * M)
    with random.scope("decay/lepton"), random.rejection("michel"):
        for _ in range(MAX_ATTEMPTS):
            x = random.uniform(m / e_max, 1.0, "x")
            if random.uniform(0.0, 1.0, "accept") < x * x * (3.0 - 2.0 * x):
                return math.sqrt(max(2.0 * M * e_max * (1.0 - x), 1e-18))
    raise RuntimeError(
        f"tau_decay: no lepton energy accepted in {MAX_ATTEMPTS} attempts; are its draws forced?"
    )
