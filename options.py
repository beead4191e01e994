"""Reading options, from a command line or from a config.yaml, with errors that say in one line what would be valid."""

import re
from argparse import Action, ArgumentError
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def parse(parser: "ArgumentParser", given: Sequence[str] | Mapping[str, Any]) -> "Namespace":
    """The options that ``given`` holds: arguments of a command line, or a mapping of option to value.

    Raises:
        ValueError: an option that does not exist (with the nearest that does), is missing, or has a wrong type.
    """
    kinds = {action.dest: _kind(action) for action in parser._actions if action.dest != "help"}
    parts = {name.partition(".")[0] for name in kinds if "." in name}
    try:
        if not isinstance(given, Mapping):
            for argument in given:
                # jsonargparse would take a whole part as JSON.
                if argument.partition("=")[0] in {f"--{part}" for part in parts}:
                    raise ValueError(f"{argument}: there is no such option; options of this part have a dot")
                name, _, value = argument.partition(" ")
                if name.startswith("--") and "=" not in name and value:
                    raise ValueError(f"{name}: {argument!r} is one argument; the option and its value must be two")
            _check_digits(
                given, {flag: action.dest for action in parser._actions for flag in action.option_strings}, kinds
            )
            return parser.parse_args(list(given))
        _check(given, {name: kind for name, kind in kinds.items() if kind is not None})
        return parser.parse_object(dict(given))
    except (OverflowError, RecursionError) as error:
        raise ValueError(f"options: a value is too large ({error})") from None
    except ArgumentError as error:
        message = str(error)
    unknown = re.match(r"unrecognized arguments: (\S*)", message)
    if unknown:
        name = unknown[1].partition("=")[0] or "''"
        flags = [flag for action in parser._actions for flag in action.option_strings if action.dest not in parts]
        raise ValueError(f"{name}: there is no such option{nearest_option(name, flags)}")
    wrong = re.match(r'Parser key "(\S+)"(?: element \d+)?:.*(?:Got|Given) value: ([^\n]*)', message, flags=re.DOTALL)
    # jsonargparse takes what follows the name of an option for a part of it.
    inner = wrong and re.match(r"NestedArg\(key='([^']*)'", wrong[2])
    if wrong and inner:
        raise ValueError(f"--{wrong[1]}.{inner[1]}: there is no such option; nearest is '--{wrong[1]}'")
    if wrong and kinds.get(wrong[1]):
        raise ValueError(_not_valid(wrong[1], shown(wrong[2]), kinds[wrong[1]]))
    named = re.match(r'Parser key "(\S+)": (.*)', message, flags=re.DOTALL)
    if named:
        raise ValueError(f"{named[1]}: the value is not valid ({named[2]})")
    missing = re.match(r"the following arguments are required: ([^,]*)", message)
    raise ValueError(f"{missing[1]}: is missing" if missing else re.sub(r"^argument --(\S+): ", r"\1: ", message))


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of an error message: the valid name that is most like ``name``, if one is.

    Example:
        >>> nearest("rleu", ["relu", "gelu"]), nearest("x", ["relu", "gelu"])
        ("; nearest is 'relu'", '')
    """
    matches = get_close_matches(name, list(valid), n=1)
    return f"; nearest is {matches[0]!r}" if matches else ""


def nearest_option(name: str, valid: Collection[str]) -> str:
    """The end of an error message: the option of this name or most like it, or else the options of its part.

    Example:
        >>> options = ["--steps", "--task.p", "--model.d_head", "--optim.lr"]
        >>> [nearest_option(name, options) for name in ("--lr", "--model.lr", "--model.d_heads")]
        ["; nearest is '--optim.lr'", "; nearest is '--optim.lr'", "; nearest is '--model.d_head'"]
        >>> nearest_option("--task.length", options)
        '; this part has --task.p'
    """
    part, dot, last = name.rpartition(".")
    of_part = {_last(option): option for option in valid if dot and option.startswith(f"{part}.")}
    anywhere = {_last(option): option for option in valid}
    for options, cutoff in ((anywhere, 1.0), (of_part, 0.6), ({} if of_part else anywhere, 0.6)):
        if found := get_close_matches(_last(last), options, n=1, cutoff=cutoff):
            return f"; nearest is {options[found[0]]!r}"
    if len(of_part) > _FEW:
        return "; --help lists those of this part"
    return f"; this part has {', '.join(of_part.values())}" if of_part else ""


# So many options fit into the line of an error.
_FEW = 8


def _last(option: str) -> str:
    return option.rpartition(".")[2].removeprefix("--")


def shown(value: Any, most: int = 200) -> str:
    """Return a value for the line of an error, without line breaks, and cut where it is very long.

    Example:
        >>> shown("a", 7), shown("abcdefghij", 7)
        ("'a'", "'abc … (12 characters)")
    """
    text = re.sub(r"\s*\n\s*", " ", repr(value))
    return text if len(text) <= most else f"{text[: most // 2 + 1]} … ({len(text)} characters)"


def cut(text: str, most: int = 120) -> str:
    """Return a text for the line of an error, cut where it is longer than ``most``.

    Example:
        >>> cut("embed.W_E", 5)
        'embed …'
    """
    return text if len(text) <= most else f"{text[:most]} …"


def _check_digits(given: Sequence[str], flags: Mapping[str, str], kinds: Mapping[str, Any]) -> None:
    """A ValueError for a whole number in digits other than 0 to 9, or in more than Python reads."""
    for argument, following in zip(given, [*given[1:], ""], strict=False):
        flag, equals, inside = argument.partition("=")
        name, value = flags.get(flag, ""), inside if equals else following
        kind = kinds.get(name)
        if int in (kind, *get_args(kind)) and re.fullmatch(r"[+-]?\d+", value) and not _reads(value):
            raise ValueError(_not_valid(name, shown(value), kind))


def _reads(number: str) -> bool:
    return number.isascii() and len(number) < 1000


def _kind(action: Action) -> Any:
    """The type of an option's value; None for what is no option, such as a heading."""
    from jsonargparse import ActionYesNo

    return bool if isinstance(action, ActionYesNo) else getattr(action, "_typehint", None)


def _check(given: Mapping[str, Any], kinds: Mapping[str, Any], part: str = "") -> None:
    """A ValueError for what jsonargparse lets pass, or says without a name."""
    parts = {name.partition(".")[0] for name in kinds if "." in name}
    for key, value in given.items():
        name = f"{part}{key}"
        if not part and (key in parts or isinstance(value, Mapping)):
            if not isinstance(value, Mapping):
                raise ValueError(f"{name}: {value!r} is not valid; it must be a mapping of options")
            _check(value, kinds, f"{name}.")
        elif name not in kinds or "." in str(key):
            raise ValueError(f"{name}: there is no such option{nearest_option(name, [*kinds, *parts])}")
        elif value is None and NoneType not in get_args(kinds[name]):
            raise ValueError(_not_valid(name, "null", kinds[name]))
        elif kinds[name] is bool and not isinstance(value, bool):
            raise ValueError(_not_valid(name, shown(value), bool))
        elif int in (kinds[name], *get_args(kinds[name])) and isinstance(value, str):
            # jsonargparse would read the number in it.
            raise ValueError(_not_valid(name, shown(value), kinds[name]))


def _not_valid(name: str, value: str, kind: Any) -> str:
    options = [option for each in (kind, *get_args(kind)) if get_origin(each) is Literal for option in get_args(each)]
    return f"{name}: {value} is not valid; it must be {_in_words(kind)}{nearest(value, map(str, options))}"


def _in_words(kind: Any) -> str:
    """Describe a value of type ``kind`` in words.

    Example:
        >>> _in_words(tuple[int, ...]), _in_words(float | None)
        ('a list such as [3, 5]', 'a number, or null')
    """
    if get_origin(kind) in (Union, UnionType):
        some = [_in_words(each) for each in get_args(kind) if each is not NoneType]
        return " or ".join(some) + (", or null" if NoneType in get_args(kind) else "")
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is dict:
        return "a mapping to numbers, such as {'*.b_*': {weight_decay: 0}}"
    if get_origin(kind) is tuple:
        examples = {float: "[0.9, 0.95]", str: "[L0H3, L1H0]"}
        return f"a list such as {examples.get(get_args(kind)[0], '[3, 5]')}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))
