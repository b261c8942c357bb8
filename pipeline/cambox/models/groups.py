"""The user's classes as groups of the network's: 118 breeds are one dog.

The logit of a group is the log of the sum of its members' exponentials. So under a softmax its
probability is the sum of theirs, and under a sigmoid its odds are the sum of theirs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import yaml

from cambox.console import one_line
from cambox.errors import RequestError
from cambox.yaml_text import NotYamlError, compose_yaml, text_of

_SETTING = "model.class_groups"
_RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class ClassGroups:
    """Names of groups, and which of the network's K classes each is.

    >>> groups = ClassGroups(("cat", "dog"), ((0, 2), (1,)))
    >>> groups.logits(torch.tensor([[0.25, 0.5, 0.25]]).log()).exp().tolist()
    [[0.5, 0.5]]

    Attributes:
        names: of G groups, whose places are the user's class indices.
        members: of each group its class indices; one class may be in several groups.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]

    @cached_property
    def _padded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(G, M) members, the shorter lists filled with their first, and (G, M) 0 or -inf there."""
        most = max(map(len, self.members))
        ids = torch.tensor([[*some, *[some[0]] * (most - len(some))] for some in self.members])
        places = torch.arange(most)
        sizes = torch.tensor([len(some) for some in self.members])[:, None]
        absent = torch.where(places < sizes, 0.0, -torch.inf)
        return ids, absent

    def logits(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits of the network's classes (B, K) as those of the groups (B, G)."""
        ids, absent = (part.to(logits.device) for part in self._padded)
        return torch.logsumexp(logits[:, ids] + absent, dim=2)

    def shares(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """How much of each class is in the wanted groups, in each image.

        The derivative of the group's logit by its members', which adds up to 1. The sum of the
        members' maps, each times its share, is the map of the group: its mean, the same sum of the
        members' constants, and the entropy of the shares add up to the group's logit.

        Args:
            logits: (B, K) of the network's classes.
            wanted: (B, n) int64, groups.

        Returns:
            (B, n, K), 0 to 1.
        """
        ids, absent = (part.to(logits.device)[wanted] for part in self._padded)
        of_members = logits.gather(1, ids.flatten(1)).view(ids.shape) + absent
        shares = logits.new_zeros(*wanted.shape, logits.shape[1])
        return shares.scatter_add_(2, ids, of_members.softmax(dim=2))


def class_probabilities(
    logits: torch.Tensor, activation: Literal["softmax", "sigmoid"], groups: ClassGroups | None
) -> torch.Tensor:
    """The probabilities of the user's classes, 0 to 1.

    Args:
        logits: (B, K) of the network's classes.

    Returns:
        (B, K), or of groups (B, G); under a softmax over all K classes, those of no group too.
    """
    if groups is None:
        return logits.sigmoid() if activation == "sigmoid" else logits.softmax(dim=1)
    of_groups = groups.logits(logits)
    if activation == "sigmoid":
        return of_groups.sigmoid()
    return (of_groups - torch.logsumexp(logits, dim=1, keepdim=True)).exp()


def read_groups(path: str, class_names: Sequence[str]) -> ClassGroups:
    """Read groups from a YAML file: ``dog: [151-268, "African hunting dog"]``.

    Args:
        path: the file. A group's members are class indices, ranges ``a-b`` (both ends are in it)
            and names of the network's classes.
        class_names: of the network, K.

    Raises:
        RequestError: names the group and what is wrong with it.
    """
    try:
        # Composed, not loaded: a group named no or 1 stays a name, and one named twice is seen.
        root = compose_yaml(text_of(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{_SETTING}: {path} cannot be read: {error}") from error
    except NotYamlError as error:
        raise RequestError(f"{_SETTING}: {path}: not YAML: {one_line(error)}") from error
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise RequestError(f"{_SETTING}: {path}: expected one line a group, such as dog: [151-268]")
    groups: dict[str, tuple[int, ...]] = {}
    for key, value in root.value:
        where = f"{_SETTING}: {path}: {key.value}"
        if key.value in groups:
            raise RequestError(f"{where}: named twice; put all its members into one line")
        entries = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(entry, yaml.ScalarNode) and entry.value for entry in entries):
            raise RequestError(f"{where}: expected a list of indices, ranges and names")
        members = [
            member for entry in entries for member in _members(entry.value, class_names, where)
        ]
        if not members:
            raise RequestError(f"{where}: has no members; name one of the model's classes")
        groups[key.value] = tuple(dict.fromkeys(members))
    return ClassGroups(tuple(groups), tuple(groups.values()))


def _members(entry: str, class_names: Sequence[str], where: str) -> Sequence[int]:
    bounds = _RANGE.fullmatch(entry)
    if bounds or entry.isdecimal():
        first, last = map(int, bounds.groups() if bounds else (entry, entry))
        if not first <= last < len(class_names):
            raise RequestError(
                f"{where}: {entry} is no class, or range of classes, of the model's, which are 0 "
                f"to {len(class_names) - 1}"
            )
        return range(first, last + 1)
    named = [index for index, name in enumerate(class_names) if name == entry]
    if len(named) == 1:
        return named
    if named:
        raise RequestError(
            f"{where}: {entry!r} names several of the model's classes; take an index of "
            f"{', '.join(map(str, named))}"
        )
    near = difflib.get_close_matches(entry, class_names)
    hint = f"did you mean {' or '.join(near)}?" if near else "take indices"
    raise RequestError(f"{where}: the model has no class {entry!r}; {hint}")
