"""The linear layers that adapters may change (projections), and their places in the bank.

The canonical path of a projection is its path in the keys of a package: `unet.…`,
`text_encoder.text_model.…`, `text_encoder_2.text_model.…`. It does not depend on the module names
of the installed version of transformers.
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
    """The components of a base that adapters can change."""

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
    """The projections of one component and shape, stacked in one pair of bank tensors."""

    component: str
    in_features: int
    out_features: int
    layers: int


@dataclass(frozen=True)
class Projection:
    """One linear layer: its place in the model and in the bank, and its bit in a mask."""

    path: str  # canonical
    module: str  # name within the component
    component: str
    group: int  # index in `Layout.groups`
    layer: int  # index within the group
    bit: int


@dataclass(frozen=True)
class Layout:
    """All projections of a base, grouped by component and shape."""

    groups: tuple[Group, ...]
    projections: tuple[Projection, ...]

    @cached_property
    def by_path(self) -> Mapping[str, Projection]:
        """The projections by canonical path."""
        return {projection.path: projection for projection in self.projections}

    def of(self, component: str) -> tuple[Projection, ...]:
        """Return the projections of one component."""
        return tuple(place for place in self.projections if place.component == component)

    def groups_of(self, component: str) -> tuple[int, ...]:
        """Return the indices in `groups` of the groups of one component, ascending."""
        return tuple(i for i, group in enumerate(self.groups) if group.component == component)

    def mask(self, component: str) -> int:
        """Return the bits of the projections of one component."""
        return sum(1 << place.bit for place in self.of(component))

    @property
    def text_mask(self) -> int:
        """The bits of the projections of both text encoders."""
        return self.mask("text_encoder") | self.mask("text_encoder_2")


def layout_of(base: Components) -> Layout:
    """Return the projections of a base, in the order of its modules."""
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
    """Yield name and layer of each projection of a component."""
    if component == "unet":
        endings = tuple(end for ends in UNET_TARGETS.values() for end in ends)
    else:
        endings = TEXT_TARGETS
    return linears(module, endings)


def linears(module: nn.Module, endings: Sequence[str]) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the name and module of each linear layer whose name ends in one of `endings`.

    The order is that of `named_modules`.
    """
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear) and f".{name}".endswith(
            tuple(f".{end}" for end in endings)
        ):
            yield name, child


def canonical_path(component: str, module: str) -> str:
    """Return the path of a module in the keys of a package.

    transformers 5 removed the level `text_model.` of CLIPTextModel, but packages contain it.
    """
    if component != "unet" and not module.startswith("text_model."):
        module = f"text_model.{module}"
    return f"{component}.{module}"
