"""Sentences of the program in the words of Python: options as arguments, commands as functions, files made for a call as what they hold."""

from __future__ import annotations

import json
import re
from typing import Any, Mapping

VALUE = r"""[A-Za-z_.]+="[^"]*"|"[^"]*"|'[^']*'|<[^>]*>|[^\s`'",;:()]+"""
OPTION = re.compile(rf"--(?P<flag>[a-z][a-z0-9-]*)(?:[ =](?P<value>{VALUE})(?P<others>(?:, [a-z]+)* or [a-z]+)?(?P<end>(?=\s*(?:--|$|[,;)`])))?)?")
"""An option, perhaps with its value, and others that it may have."""
NO_VALUE = ("or", "and", "to", "is", "of")
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_.|]*")
PAIRS = ("set", "input", "sweep")
"""Options that are dictionaries."""

HELD = (
    (re.compile(r", or say that the first line is a row of the table \(`\?header=no`[^)]*\)"), ""),
    (re.compile(r"\(`\?drop=([^`]*)`\)"), r'(`.drop(columns="\1")`)'),
    (re.compile(r"give the mark of decimals \(`\?decimal=comma` or `point`\)"), "convert the column to numbers"),
    (re.compile(r", or read all of them as texts \(`\?category=[^`]*`\)"), ""),
    (re.compile(r"`\?answers=classes`"), "labels that are texts (`y.astype(str)`)"),
)
"""What stands after the path of a file. Data in memory have no path, and are changed themselves."""


class Speaker:
    """Says sentences of a command."""

    def __init__(self, commands: Mapping[str, Mapping[str, Any]], command: str, files: Mapping[str, str] | None = None, held: bool = False) -> None:
        self._commands = commands
        self._own = commands[command]["arguments"]
        self._files = sorted((files or {}).items(), key=lambda f: -len(f[0]))
        self._held = held

    def __call__(self, sentence: str) -> str:
        for place, name in self._files:
            sentence = sentence.replace(place, name)
        if self._held:
            for what, instead in HELD:
                sentence = what.sub(instead, sentence)
        sentence = re.sub(r"`nnz ([^`]+)`", self._call, sentence)
        sentence = OPTION.sub(self._option, sentence)
        return self._refusal(sentence)

    def _find(self, flag: str) -> Mapping[str, Any] | None:
        """The argument of a flag: of this command, else of any."""
        for arguments in (self._own, *(c["arguments"] for c in self._commands.values())):
            for a in arguments.values():
                if a["option"] and a["flag"] == f"--{flag}":
                    return a
        return None

    def _option(self, m: re.Match[str]) -> str:
        a = self._find(m["flag"])
        if a is None:
            return m[0]
        name, value = a["name"], m["value"]
        rest = m[0][len(m["flag"]) + 2 :]
        if not a["value"]:
            return f"{name}=True{rest}"
        if value is None or value.startswith("<"):
            return str(name)
        if "=" in value and name in PAIRS:
            key, _, v = value.partition("=")
            return f"{name}={{{json.dumps(key)}: {v}}}"
        others = m["others"] or ""
        # A word may be a value or go on with the sentence: it is a value where the sentence ends or others follow it.
        last = a["kind"] == "text" and value not in NO_VALUE and (others or m["end"] is not None)
        if value in a["values"] or PLACEHOLDER.fullmatch(value) or re.match(r"[-+.\d'\"]", value) or "=" in value or last:
            return f"{name}={written(value)}" + (re.sub(r"(?<![a-z])(?!or )([a-z]+)", r'"\1"', others) if last else others)
        return f"{name}{rest}"

    def _call(self, m: re.Match[str]) -> str:
        """A line of the program as a call."""
        tokens = re.findall(rf"--[a-z][a-z0-9-]*|{VALUE}", m[1])
        command = next((" ".join(tokens[:n]) for n in (2, 1) if " ".join(tokens[:n]) in self._commands), None)
        if command is None or "…" in m[1]:
            return m[0]
        arguments, given, option = self._commands[command]["arguments"], [], None
        for token in tokens[len(command.split()) :]:
            if token.startswith("--"):
                option = self._find(token[2:])
                if option is None:
                    return m[0]
                if not option["value"]:
                    given.append(f"{option['name']}=True")
                    option = None
            elif option is not None:
                given.append(f"{option['name']}={written(token)}")
                option = None
            else:
                given.append(written(token))
        lone = sum("=" not in g for g in given)
        if option is not None or lone > sum(not a["option"] for a in arguments.values()):
            return m[0]
        return f"`nnz.{command.replace(' ', '.')}({', '.join(given)})`"

    def _refusal(self, sentence: str) -> str:
        """What the command line says of a value, said of an argument."""
        known = {a["name"] for a in self._own.values()}
        sentence = re.sub(r"'<([A-Z_]+)>'", lambda m: m[1].lower(), sentence)
        sentence = re.sub(r"'([a-z_]+)'(?: <[^>]*>)?", lambda m: m[1] if m[1] in known else m[0], sentence)
        sentence = re.sub(r"; tip: (?:a|some) similar \w+ exists?: ", "; did you mean ", sentence)
        sentence = re.sub(r"invalid value '(.*?)' for (\w+); \[possible values: (.*?)\]", r"\2: expected one of \3, got '\1'", sentence)
        sentence = re.sub(r"invalid value '(.*?)' for (\w+): \S+ is not in (\S+?)\.\.=?(\S+)", r"\2: expected \3 to \4, got \1", sentence)
        sentence = re.sub(r"invalid value '(.*?)' for (\w+): (?=.*\1)", r"\2: ", sentence)
        return re.sub(r"invalid value '(.*?)' for (\w+): (.*)", r"\2: \3, got '\1'", sentence)


def written(value: str) -> str:
    """A value as it is written in a call."""
    plain = PLACEHOLDER.fullmatch(value) or re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value) or value[0] in "'\""
    return value if plain else json.dumps(value, ensure_ascii=False)
