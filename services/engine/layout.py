"""Which linear layers take adapters, and where each lies in the bank.

A projection's canonical path is that of the package's keys: `unet.…`, `text_encoder.text_model.…`,
`text_encoder_2.text_model.…`, whatever the installed transformers calls its modules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import nn

UNET_TARGETS: Mapping[str, tuple[str, ...]] = {
    "attn": ("to_q", "to_k", "to_v", "to_out.0"),
    "ff": ("ff.net.0.proj", "ff.net.2"),
    "proj": ("proj_in", "proj_out"),
    "time": (
        "time_embedding.linear_1",
        "time_embedding.linear_2",
        "add_embedding.linear_1",
        "add_embedding.linear_2",
    ),
}
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


class Components(Protocol):
    """The part of a base that adapters act on."""

    @property
    def unet(self) -> nn.Module:
        """The UNet2DConditionModel."""
        ...

    @property
    def text_encoder(self) -> nn.Module:
        """The CLIPTextModel."""
        ...

    @property
    def text_encoder_2(self) -> nn.Module:
        """The CLIPTextModelWithProjection."""
        ...


@dataclass(frozen=True)
class Group:
    """Projections of one component and shape, stacked: one pair of bank tensors."""

    component: str
    in_features: int
    out_features: int
    layers: int


@dataclass(frozen=True)
class Projection:
    """One linear layer: its place in the model, in the bank, and its bit in the slots' masks."""

    path: str  # canonical
    module: str  # within the component
    component: str
    group: int
    layer: int
    bit: int


@dataclass(frozen=True)
class Layout:
    """All projections of a base, grouped by component and shape."""

    groups: tuple[Group, ...]
    projections: tuple[Projection, ...]

    @cached_property
    def by_path(self) -> Mapping[str, Projection]:
        """Projections by canonical path."""
        return {p.path: p for p in self.projections}

    def of(self, component: str) -> tuple[Projection, ...]:
        """The projections of one component."""
        return tuple(p for p in self.projections if p.component == component)

    def groups_of(self, component: str) -> tuple[int, ...]:
        """The places in `groups` of one component's groups, ascending."""
        return tuple(i for i, group in enumerate(self.groups) if group.component == component)

    def mask(self, component: str) -> int:
        """The bits of one component's projections."""
        return sum(1 << p.bit for p in self.of(component))

    @property
    def text_mask(self) -> int:
        """The bits of both text encoders' projections."""
        return self.mask("text_encoder") | self.mask("text_encoder_2")


def layout_of(base: Components) -> Layout:
    """Finds the projections of a base, in the order of its modules."""
    shapes: dict[tuple[str, int, int], int] = {}
    layers: Counter[int] = Counter()
    projections: list[Projection] = []
    for component in COMPONENTS:
        for name, linear in projections_of(getattr(base, component), component):
            shape = (component, linear.in_features, linear.out_features)
            group = shapes.setdefault(shape, len(shapes))
            path, bit = canonical_path(component, name), len(projections)
            projections.append(Projection(path, name, component, group, layers[group], bit))
            layers[group] += 1
    groups = (Group(*shape, layers=layers[group]) for shape, group in shapes.items())
    return Layout(tuple(groups), tuple(projections))


def projections_of(module: nn.Module, component: str) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers of a component that adapters may change."""
    if component == "unet":
        endings = tuple(end for ends in UNET_TARGETS.values() for end in ends)
    else:
        endings = TEXT_TARGETS
    return linears(module, endings)


def linears(module: nn.Module, endings: Sequence[str]) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers whose names end in one of `endings`, in the order of the modules."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear) and f".{name}".endswith(tuple(f".{e}" for e in endings)):
            yield name, child


def canonical_path(component: str, module: str) -> str:
    """The path that a package's keys use for a module of a component.

    transformers 5 dropped CLIPTextModel's `text_model.` level; packages keep it.
    """
    if component != "unet" and not module.startswith("text_model."):
        module = f"text_model.{module}"
    return f"{component}.{module}"
