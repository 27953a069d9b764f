"""The decoding methods a sweep may name, each with its parameters, their bounds and their defaults.

A new method is one more subclass of `MethodParameters` and its name in `jobs.Method`: the sweep file, its
JSON Schema and the merging of equal rows follow from the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dyna_eval.jobs import Method, Params, canonical_json

DEFAULT_MAX_NODES = 1024
"""The largest tree that grows whole unless `max_nodes` says otherwise, in draft nodes."""

Probability = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), AfterValidator(lambda p: p + 0.0)]
"""In [0, 1); -0.0 becomes 0.0, so that equal settings have equal digests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a configuration does, apart from how it was written: two with equal keys do the same.

    `notes` say why the written form may differ from the key; they are empty where it cannot.
    """

    key: str
    notes: tuple[str, ...] = ()


class MethodParameters(BaseModel):
    """The parameters of one method as a sweep file gives them; `resolved` fills in the defaults."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    method: ClassVar[Method]
    needs_draft: ClassVar[bool] = True

    def resolved(self) -> Params:
        """Return every parameter that decides what the decoder does, as plain scalars."""
        return self.model_dump()

    def meaning(self) -> Meaning:
        return _meaning(self.method, self.resolved())


class Ar(MethodParameters):
    """The target alone, one token per round."""

    method = Method.AR
    needs_draft = False


class Linear(MethodParameters):
    """A chain of `k` draft tokens per round."""

    method = Method.LINEAR

    k: int = Field(ge=1, le=1024, description="Draft tokens per round.")


class Tree(MethodParameters):
    """The draft's `branch` best children at every node, down to `depth`, pruned by cumulative probability."""

    method = Method.TREE

    depth: int = Field(ge=1, le=1024, description="Levels of draft nodes.")
    branch: int = Field(ge=1, le=1024, description="Children of every node.")
    threshold: Probability = Field(
        0.0, description="Nodes of a lower cumulative draft probability are pruned; 0 prunes nothing."
    )
    prune: Literal["node", "expansion"] = Field(
        "node", description="node: a pruned node is dropped; expansion: it stays as a leaf."
    )
    root_branch: int | None = Field(
        None, ge=1, le=1024, description="Children of the root; the same as branch unless given."
    )
    max_nodes: int | None = Field(
        None,
        ge=1,
        le=4096,
        description=f"Most draft nodes per round; unless given the whole tree, up to {DEFAULT_MAX_NODES}.",
    )

    def resolved(self) -> Params:
        return {
            "depth": self.depth,
            "branch": self.branch,
            "threshold": self.threshold,
            "prune": self.prune,
            "root_branch": self._root_branch,
            "max_nodes": self._resolved_max_nodes,
        }

    def meaning(self) -> Meaning:
        """Leave out of the key what provably changes nothing; a threshold above 0 may always prune."""
        params, notes = dict(self.resolved()), list[str]()
        size = self._size_up_to(self._resolved_max_nodes + 1)
        if self._resolved_max_nodes >= size:
            params["max_nodes"] = None
            if self._resolved_max_nodes != size:
                notes.append(
                    f"a cap of {self._resolved_max_nodes} cannot bind in a tree of {size} draft nodes"
                )
        if self.depth == 1:
            params["branch"] = None
            notes.append("at depth 1 only the root has children")
        if self.threshold == 0 or (self.depth == 1 and self.prune == "expansion"):
            params["threshold"] = params["prune"] = None
            if self.threshold > 0:
                notes.append("at depth 1 prune: expansion drops nothing")
            elif self.prune != "node":
                notes.append("threshold 0 prunes nothing")
        unpruned_chain = dict.fromkeys(params) | {"depth": self.depth, "root_branch": 1}
        if params == unpruned_chain or params == unpruned_chain | {"branch": 1}:
            notes.append(f"an unpruned tree of branch 1 is linear with k={self.depth}")
            return _meaning(Method.LINEAR, {"k": self.depth}, notes)
        return _meaning(self.method, params, notes)

    @property
    def _root_branch(self) -> int:
        return self.branch if self.root_branch is None else self.root_branch

    @property
    def _resolved_max_nodes(self) -> int:
        return self._size_up_to(DEFAULT_MAX_NODES) if self.max_nodes is None else self.max_nodes

    def _size_up_to(self, limit: int) -> int:
        """Return the draft nodes of the unpruned tree, or `limit` where there are more."""
        size, level = 0, self._root_branch
        for _ in range(self.depth):
            size += level
            if size >= limit:
                return limit
            level *= self.branch
        return size


def _meaning(method: Method, params: Params, notes: list[str] | None = None) -> Meaning:
    return Meaning(key=canonical_json([method, dict(params)]), notes=tuple(notes or ()))


METHODS: Mapping[Method, type[MethodParameters]] = {
    model.method: model for model in MethodParameters.__subclasses__()
}
