"""Options of a command: defaults < recipe < flags."""

import dataclasses
import json
import math
import os
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, Namespace
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from transformers import HfArgumentParser

from tutorkd.errors import UserError, nearest
from tutorkd.options.recipes import check_keys, load_recipe, recipe_names
from tutorkd.options.trainer_options import COMMON, REFUSED
from tutorkd.settings import own_fields
from tutorkd.words import one_line

_CHOICES_SHOWN = 6


class OptionParser(HfArgumentParser):
    """argparse over dataclasses: one option for each of their fields, errors as ours.

    Args:
        command: name, as in ``tutorkd COMMAND``.
        description: shown by ``--help``.
        classes: dataclasses; ``_argument_group_name`` on one gives its options a heading.
        defaults: where they differ from the dataclasses', on this command or on this machine.
        takes_recipe: whether ``--config`` names a recipe for these options.
        first: names of options that nearly every run sets, which ``--help`` shows ahead of the others.
        seldom: names of those that it shows behind them.
        elsewhere: names of options that this command has with other options, and what has them.
        sections: keys of a recipe beside these options, which the command reads by itself; ``told_sections`` has what
            the recipe that was read last says under them.
    """

    def __init__(
        self,
        command: str,
        description: str,
        classes: Sequence[Any],
        defaults: Mapping[str, Any],
        takes_recipe: bool = True,
        first: Sequence[str] = (),
        seldom: Sequence[str] = (),
        sections: Sequence[str] = (),
        elsewhere: Mapping[str, str] = MappingProxyType({}),
    ):
        super().__init__(
            prog=f"tutorkd {command}",
            usage=f"tutorkd {command} [options]",
            description=description,
            formatter_class=lambda prog: _Formatter(prog, max_help_position=36, width=110),
            allow_abbrev=False,
        )
        self.command, self.takes_recipe, self.sections = command, takes_recipe, sections
        self.elsewhere = elsewhere
        self.told_sections: dict[str, Any] = {}
        self.rare: dict[Action, str] = {}  # options that only --help-all shows
        if takes_recipe:
            self.add_argument(
                "--config",
                metavar="RECIPE",
                help=f"YAML recipe: {', '.join(['a path', *recipe_names(command)])}. Flags override it.",
            )
        self.dataclass_types = list(classes)
        for dataclass in classes:
            self._add_dataclass_arguments(dataclass)
        for action in self._actions:
            if action.nargs == "+":
                action.__class__ = _Repeatable
            if action.option_strings[0].startswith("--no_"):
                action.help = SUPPRESS  # says in another way what --NAME false says
        for dataclass in classes:
            if inherited := {field.name for field in dataclasses.fields(dataclass)} - own_fields(dataclass):
                self._sort_trainer_options(inherited)
        if first:
            loose = {action.dest for action in self._optionals._group_actions} - {"help", "config", "help_all", *first}
            self._gather("other options", [field for field in self.keys if field in loose], ahead=True)
            self._gather("what is set first", first, ahead=True)
        self._gather("seldom needed", seldom)
        self.set_defaults(**defaults)
        self._source = self.prog

    def _gather(self, title: str, names: Sequence[str], ahead: bool = False) -> None:
        """Show these options together under a heading, behind or ahead of those of the dataclasses."""
        group = self.add_argument_group(title)
        for action in [action for name in names for action in self._actions if action.dest == name]:
            for other in self._action_groups:
                if action in other._group_actions:
                    other._group_actions.remove(action)
            group._group_actions.append(action)
        if ahead:
            self._action_groups.remove(group)
            self._action_groups.insert(self._action_groups.index(self._optionals) + 1, group)

    def _sort_trainer_options(self, inherited: set[str]) -> None:
        """Show some of ``TrainingArguments``' options, leave most to --help-all, refuse a few."""
        for action in self._actions:
            if action.dest in REFUSED:
                action.__class__, action.help = _Refused, SUPPRESS
            elif action.dest in COMMON:
                action.help = COMMON[action.dest]
            elif action.dest in inherited:
                self.rare[action], action.help = action.help or "", SUPPRESS
        self.add_argument(
            "--help-all", action=_HelpAll, nargs=0, default=SUPPRESS, help="show the rarer options of Trainer as well"
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self._source}: {message}")

    @property
    def keys(self) -> list[str]:
        """What a recipe may set."""
        return [
            field.name for dataclass in self.dataclass_types for field in dataclasses.fields(dataclass) if field.init
        ]

    @property
    def recipe_keys(self) -> list[str]:
        """The same with the sections that the command reads by itself."""
        return [*self.keys, *self.sections]

    def read(self, argv: Sequence[str], recipe: Mapping[str, Any] | None = None, where: str = "the recipe") -> tuple:
        """Instances of the dataclasses.

        Args:
            argv: flags; ``--config`` among them names the recipe.
            recipe: the recipe's content, where it isn't a file of its own.
            where: what messages call ``recipe``.

        Raises:
            UnknownKey: if a recipe that is named in ``argv`` has a key that isn't an option.
            UserError: for an unknown key or flag, named with the nearest valid one, or a value of the wrong type.
        """
        flags = self._parse(argv, Namespace(bf16=None))
        if self.takes_recipe and flags.config:
            recipe, where = load_recipe(flags.config, self.command), flags.config
            check_keys(recipe, self.recipe_keys, where, self.elsewhere)
        self.told_sections = {key: (recipe or {})[key] for key in self.sections if key in (recipe or {})}
        recipe = {key: value for key, value in (recipe or {}).items() if key not in self.sections}
        self._source = where
        namespace = self._parse(self._tokens(recipe), Namespace())
        self._source = self.prog
        namespace.__dict__.pop("_started", None)
        values = vars(self._parse(argv, namespace))
        if values.get("fp16") and recipe.get("bf16") is None and flags.bf16 is None:
            values["bf16"] = False  # bfloat16 is a default here where the machine has it; an explicit fp16 replaces it
        read = []
        for dataclass in self.dataclass_types:
            names = [field.name for field in dataclasses.fields(dataclass) if field.init]
            try:
                read.append(dataclass(**{name: values[name] for name in names}))
            except UserError as error:
                if argv:
                    raise
                raise UserError(f"{where}: {error}") from error  # in a recipe, which nothing else names
            except Exception as error:  # what TrainingArguments raises for a value that it can't take is of any kind
                self.error(one_line(error))
        return tuple(read)

    def _parse(self, argv: Sequence[str], namespace: Namespace) -> Namespace:
        namespace, unknown = self.parse_known_args(list(argv), namespace)
        if unknown:
            if not unknown[0].startswith("-"):
                self._refuse_value(unknown[0], argv)
            flag = unknown[0].split("=")[0]
            if what := self.elsewhere.get(flag.removeprefix("--").replace("-", "_")):
                self.error(f"{flag} is an option of {what}")
            options = [option for option in self._option_string_actions if option.startswith("--")]
            self.error(f"unknown option {unknown[0]}{nearest(flag, options)}")
        for name, value in vars(namespace).items():
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    self.error(f"{name} must be a finite number, not {number}")
        vars(namespace).update({name: _from_home(value) for name, value in vars(namespace).items()})
        return namespace

    def _refuse_value(self, value: str, argv: Sequence[str]) -> NoReturn:
        """Say of a value that no option takes which option it follows, if there is one."""
        flags = [word.split("=")[0] for word in argv[: list(argv).index(value)] if word.startswith("-")]
        if not flags:
            self.error(f"{value!r} stands behind no option: write the name of its option before it")
        self.error(f"{flags[-1]} takes one value, so {value!r} is too much; a value with spaces needs quotes")

    def _tokens(self, recipe: Mapping[str, Any]) -> list[str]:
        """A recipe as the flags that would say the same, so that one parser checks both."""
        tokens: list[str] = []
        for key, value in recipe.items():
            if key not in self.keys:
                self.error(f"unknown key {key!r}{nearest(str(key), self.keys)}")
            if value is None:
                continue  # what is left at its default
            action = self._option_string_actions[f"--{key}"]
            if isinstance(value, list) and not isinstance(action, _Repeatable):
                self.error(f"{key} takes one value, not the list {value}")
            if value is False and "no" in (action.choices or ()):
                value = "no"  # which YAML takes for false
            if value == []:
                self.error(f"{key} takes one value or more, not an empty list")
            items = value if isinstance(value, list) else [value]
            for item in items:
                self._check_written(key, action, item)
            tokens += [f"--{key}={json.dumps(item) if isinstance(item, dict) else item}" for item in items]
        return tokens

    def _check_written(self, key: str, action: Action, item: Any) -> None:
        """Refuse what YAML doesn't hand on as it is written, and what a flag can't say."""
        if item is None or isinstance(item, list):
            self.error(f"{key} takes values in a list, not {item} among them")
        if action.type is not str:
            return  # which its own parser checks
        if isinstance(item, dict) and not self._takes_mapping(key):
            self.error(f"{key} takes text, not a mapping")
        if isinstance(item, bool | float):
            self.error(f"{key} takes text, but YAML doesn't read {json.dumps(item)} as text; put it in quotes")

    def _takes_mapping(self, key: str) -> bool:
        """Whether a class of the options reads text of this key as a mapping, as ``TrainingArguments`` does."""
        return any(key in getattr(dataclass, "_VALID_DICT_FIELDS", ()) for dataclass in self.dataclass_types)


def _from_home(value: Any) -> Any:
    """A path, or those of a list, that a shell left as ~/path, as it does in recipes and behind an equals sign."""
    if isinstance(value, list):
        return list(map(_from_home, value))
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


class _Formatter(ArgumentDefaultsHelpFormatter):
    """Names an option once, though it may be written with - and with _, and its value shortly."""

    def _format_action_invocation(self, action):
        name = next(option for option in action.option_strings if option.startswith("--"))
        return name if action.nargs == 0 else f"{name} {self._format_args(action, 'VALUE')}"

    def _metavar_formatter(self, action, default_metavar):
        if action.choices is None or len(action.choices) <= _CHOICES_SHOWN:
            return super()._metavar_formatter(action, default_metavar)
        return lambda size: (default_metavar,) * size


class _HelpAll(Action):
    def __call__(self, parser, namespace, values, option_string=None):
        for action, text in parser.rare.items():
            action.help = text
        parser.print_help()
        parser.exit()


class _Refused(Action):
    """An option of Trainer that these commands can't honour; its default is taken, as a written-out recipe has it."""

    def __call__(self, parser, namespace, values, option_string=None):
        if values != self.default:
            parser.error(f"{self.dest} can't be set: {REFUSED[self.dest]}")


class _Repeatable(Action):
    """A list, given at once or by repeating the flag; its first use replaces what the recipe said."""

    def __call__(self, parser, namespace, values, option_string=None):
        started = namespace.__dict__.setdefault("_started", set())
        previous = getattr(namespace, self.dest) if self.dest in started else []
        started.add(self.dest)
        setattr(namespace, self.dest, [*previous, *values])
