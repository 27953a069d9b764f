"""Neutral names for machines and places in copies of sweeps, which then tell nothing of their authors.

What is replaced: hosts, actors, nodes and controllers; the folders of models, files of data and of chat
templates, in the sweep file's text also where they are relative to it; any other absolute path, and in
messages the numbers of networks. The same thing has the same name throughout a copy.
What is kept: the names of sweeps, pairs and rows, prompts and what was decoded, and the facts of hardware and
software.
"""

from __future__ import annotations

import posixpath
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from dyna_eval.sweeps.overrides import recorded_texts
from dyna_eval.yaml_source import WrittenText
from dyna_eval_db.models import (
    AttemptRow,
    Base,
    EnvironmentRow,
    EventRow,
    ImportedFileRow,
    ImportedRowRow,
    JobRow,
    ResultRow,
    SentinelRow,
    SweepRow,
)

_HOST_KEYS = frozenset({"host", "hostname", "holder", "actor", "node"})
"""Keys of event details, and of facts that files of other tools bring, under which a machine is named."""
_KEPT_KEYS = frozenset({"pair", "environment", "sha256", "format"})
"""Keys of event details whose values other rows name too."""
_MODEL_KEYS = frozenset({"target", "draft"})
_DATA_KEYS = frozenset({"dataset", "data_files"})
_TEMPLATE_KEY = "chat_template_file"

_PATH = re.compile(r"(?:(?<![\w/.~-])(?:~[\w.-]*)?|(?<=://)|(?<=:///))/(?!/)[^\s'\"`,;:()\[\]{}<>|#=]+")
"""An absolute path, or one in a home folder, within a text; what follows a blank in it is not seen."""
_NETWORK_NUMBER = re.compile(r"(?<![\w.])(?!127\.)\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")


def read_names(session: Session, sweep_ids: Sequence[int]) -> NeutralNames:
    """Read what is to be renamed in some sweeps. Actors keep their order, by which reports sum and list."""
    of_sweeps = JobRow.sweep_id.in_(sweep_ids)
    jobs = select(JobRow.id).where(of_sweeps)
    attempts = session.execute(
        select(AttemptRow.actor, AttemptRow.node).where(AttemptRow.job_id.in_(jobs)).distinct()
    ).all()
    results = session.execute(
        select(ResultRow.actor, ResultRow.node).where(ResultRow.job_id.in_(jobs)).distinct()
    ).all()
    sentinels = session.scalars(select(SentinelRow.actor).where(SentinelRow.sweep_id.in_(sweep_ids)))
    telling = or_(*(EventRow.detail[key].as_string().is_not(None) for key in ("host", "holder")))
    details = session.scalars(select(EventRow.detail).where(EventRow.sweep_id.in_(sweep_ids), telling)).all()
    holders = {str(detail["holder"]) for detail in details if "holder" in detail}
    hosts = {str(detail["host"]) for detail in details if "host" in detail}
    rows = session.execute(select(SweepRow.spec, SweepRow.pairs).where(SweepRow.id.in_(sweep_ids))).all()
    settings = [part for row in rows for part in row]
    return NeutralNames(
        actors={*(row.actor for row in [*attempts, *results]), *sentinels},
        nodes={row.node for row in [*attempts, *results] if row.node is not None},
        holders=holders,
        hosts={*hosts, *map(_host_of, holders), socket.gethostname()},
        models=_places(settings, _MODEL_KEYS),
        data=_places(settings, _DATA_KEYS),
    )


def _host_of(holder: str) -> str:
    """Return the host in a controller's name, `dyna_eval.holder.own_name`."""
    return holder.partition(":")[0].partition("/")[0]


def _places(value: object, keys: frozenset[str]) -> set[str]:
    """Return the paths and addresses that a specification names under some keys."""
    return {text for text in _texts(value, keys) if text.startswith(("/", "~")) or "://" in text}


def _texts(value: object, keys: frozenset[str], key: str = "") -> set[str]:
    if isinstance(value, Mapping):
        return set().union(*(_texts(part, keys, str(name)) for name, part in value.items()))
    if isinstance(value, list):
        return set().union(*(_texts(part, keys, key) for part in value))
    return {value} if key in keys and isinstance(value, str) else set()


def _written_places(source: str) -> list[WrittenText]:
    """Return what a sweep file's text and the overrides below it name under the keys of places, in order."""
    keys = {*_MODEL_KEYS, *_DATA_KEYS, _TEMPLATE_KEY}
    return [written for written in recorded_texts(source) if written.key in keys]


def _place_of(written: str, places: Iterable[str]) -> str | None:
    """Return the place that a relative path leads to, of several that may be it the shortest; or None."""
    relative = re.sub(r"^~[^/]*/|^/|^(?:\.\./)+", "", posixpath.normpath(written))
    found = [place for place in places if place.endswith(f"/{relative}")]
    return min(found, key=lambda place: (len(place), place), default=None)


class NeutralNames:
    """Gives the same neutral name to the same thing, in every row of a copy."""

    def __init__(
        self,
        *,
        actors: Iterable[str],
        nodes: Iterable[str],
        holders: Iterable[str],
        hosts: Iterable[str],
        models: Iterable[str],
        data: Iterable[str],
    ) -> None:
        self._names = {
            **_numbered("host", {host.lower() for host in hosts if host} - {"localhost"}),
            **_numbered("node", nodes),
            **_numbered("controller", holders),
            **_numbered("actor", actors),
        }
        for name, neutral in list(self._names.items()):
            if neutral.startswith("host-") and not _NETWORK_NUMBER.fullmatch(name):
                self._names.setdefault(name.partition(".")[0], neutral)
        self._in_texts = _any_of(self._names)
        self._in_any_case = {name.lower(): neutral for name, neutral in self._names.items()}
        self._places = _numbered("model", models) | {
            place: f"{neutral}{PurePosixPath(place).suffix}"
            for place, neutral in _numbered("data", data).items()
        }
        self._further: dict[str, str] = {}

    def in_row(self, table: type[Base], row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row with neutral names in the columns that may name a machine or a place."""
        columns = self._columns().get(table, {})
        return dict(row) | {
            name: change(row[name]) for name, change in columns.items() if row[name] is not None
        }

    def _columns(self) -> dict[type[Base], dict[str, Callable[[Any], Any]]]:
        where = {"actor": self.name, "node": self.name}
        return {
            SweepRow: {"spec": self._specification, "pairs": self._settings},
            JobRow: {"error": self.text},
            AttemptRow: {**where, "error": self.text},
            ResultRow: {**where, "conditions": self._facts},
            SentinelRow: {"actor": self.name},
            EnvironmentRow: {"facts": self._facts},
            ImportedFileRow: {"content": self._facts},
            ImportedRowRow: {"content": self._facts},
            EventRow: {"detail": self._detail},
        }

    def name(self, name: str) -> str:
        """Return what stands for a machine, an actor, a node or a controller."""
        known = self._names.get(name) or self._in_any_case.get(name.lower())
        return known or self._further_name("machine", name)

    def text(self, text: str) -> str:
        """Return a message, or a file's text, with neutral names for what is known or looks like a path."""
        text = self._paths(text)
        text = self._in_texts.sub(lambda found: self.name(found[1]), text)
        return _NETWORK_NUMBER.sub(lambda found: self._further_name("address", found[0]), text)

    def _paths(self, text: str) -> str:
        for place in sorted(self._places, key=len, reverse=True):
            text = re.sub(re.escape(place) + r"(?![\w-])", self._places[place], text)
        return _PATH.sub(lambda found: self._further_name("path", found[0]), text)

    def _further_name(self, noun: str, what: str) -> str:
        of_noun = sum(name.startswith(f"{noun}-") for name in self._further.values())
        return self._further.setdefault(what, f"{noun}-{of_noun + 1}")

    def _specification(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Change models, data and the file's text in what a sweep was made of."""
        changed: dict[str, Any] = self._settings(spec)
        if "source" in spec:
            changed["source"] = self._source(spec["source"], spec)
        return changed

    def _source(self, source: str, spec: Mapping[str, Any]) -> str:
        """Change a sweep file's text; what it names relative to itself is called as in the specification."""
        parts, end = [], 0
        for written in _written_places(source):
            neutral = self._written(written, spec)
            if neutral is not None:
                around = source[written.start : written.end]
                found = around.rfind(written.value)  # behind an anchor or a quote; not there if folded
                before, after = (0, 0) if found < 0 else (found, len(around) - found - len(written.value))
                parts += [self.text(source[end : written.start + before]), neutral]
                end = written.end - after
        return "".join([*parts, self.text(source[end:])])

    def _written(self, written: WrittenText, spec: Mapping[str, Any]) -> str | None:
        """Return what stands for a place in a sweep file's text; None for what is none, such as a hub id."""
        text = written.value
        if written.key == _TEMPLATE_KEY:
            return self._further_name("template", text) + PurePosixPath(text).suffix
        own_keys = _MODEL_KEYS if written.key in _MODEL_KEYS else _DATA_KEYS
        if text in _texts(spec, own_keys):
            return self._places.get(text)
        place = _place_of(text, _places(spec, own_keys))
        if place is not None:
            return self._places[place]
        return self._further_name("path", text) if "/" in text else None

    def _settings(self, value: Any, key: str = "") -> Any:
        """Change models and data."""
        if isinstance(value, Mapping):
            return {name: self._settings(part, name) for name, part in value.items()}
        if isinstance(value, list):
            return [self._settings(part, key) for part in value]
        return self._places.get(value, value) if key in _MODEL_KEYS | _DATA_KEYS else value

    def _facts(self, value: Any, key: str = "") -> Any:
        """Change paths, and under their keys machines: a host may be called as what is a fact elsewhere."""
        if isinstance(value, Mapping):
            return {name: self._facts(part, name) for name, part in value.items()}
        if isinstance(value, list):
            return [self._facts(part, key) for part in value]
        if not isinstance(value, str):
            return value
        return self.name(value) if key in _HOST_KEYS else self._paths(value)

    def _detail(self, detail: Mapping[str, Any]) -> dict[str, Any]:
        """Change what an event tells."""
        changed = dict(detail)
        for key, value in detail.items():
            if isinstance(value, str) and key not in _KEPT_KEYS:
                changed[key] = self.name(value) if key in _HOST_KEYS else self.text(value)
        return changed


def _numbered(noun: str, names: Iterable[str]) -> dict[str, str]:
    """Name things `noun-01`, `noun-02` in their own order, with as many digits as keep it."""
    known = sorted(names)
    digits = len(str(len(known)))
    return {name: f"{noun}-{number:0{digits}}" for number, name in enumerate(known, start=1)}


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Return what finds any of some names as words, longest first, with the domain that may follow a host."""
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"(?<![\w-])({known or '(?!)'})(?![\w-])(?:\.[A-Za-z][\w-]*)*", re.IGNORECASE)
