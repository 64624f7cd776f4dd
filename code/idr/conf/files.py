"""Conf files: finding, reading, overriding and saving them, and resolving the classes that they name.

A conf is HOCON with the blocks `train`, `plot`, `loss`, `dataset` and `model`. Each component has a frozen
dataclass with the keys of its block as fields, which `blocks.read_block` fills.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyhocon import ConfigFactory, ConfigTree
from pyhocon.exceptions import ConfigException
from pyparsing import ParseBaseException

from idr.conf.blocks import did_you_mean, plain_value, read_block
from idr.errors import USER_ERRORS, InputError, MissingInputError
from idr.files import write_text_atomic
from idr.places import project_root, shipped_root

__all__ = [
    "BLOCKS", "find_conf", "load_conf", "project_root", "read_block", "resolve_class", "save_conf",
    "value_text",
]  # fmt: skip

log = logging.getLogger(__name__)

_KEY = re.compile(r"[\w-]+")
MAX_BYTES = 200_000
"""Largest conf that is read: the parser takes ten seconds for it, and the longest of ours has 4,000."""

BLOCKS = ("train", "plot", "loss", "dataset", "model")
"""The blocks of a conf; others are allowed, since a class of the user may read them, with a warning."""

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
"""Escapes that the HOCON parser decodes; it does not decode \\u."""

_PUBLISHED_CLASSES = (
    "datasets.scene_dataset.SceneDataset",
    "model.implicit_differentiable_renderer.IDRNetwork",
    "model.loss.IDRLoss",
)


def find_conf(path: str | Path) -> Path:
    """Returns the absolute path of `--conf`: in the working directory, the checkout, or else the package.

    Raises:
        MissingInputError: It is in none; the message lists the places and the existing confs.
    """
    path = Path(path).expanduser()
    if path.is_absolute() and path.is_file():  # also where the working directory was deleted
        return path.resolve()
    roots = (Path.cwd(), project_root(), shipped_root())
    places = list(dict.fromkeys((root / path).resolve() for root in roots))
    for place in places:
        if place.is_file():
            return place
    confs = (conf.relative_to(root) for root in roots for conf in sorted(root.glob("confs/**/*.conf")))
    existing = list(dict.fromkeys(conf.as_posix() for conf in confs))
    hint = did_you_mean(path.name, [Path(name).name for name in existing])
    raise MissingInputError(
        f"no conf at {' or '.join(map(str, places))}{hint}; there are {', '.join(existing)}; give --conf one "
        "of these or a path"
    )


def load_conf(path_or_text: str | Path, overrides: Sequence[str] = ()) -> ConfigTree:
    """Reads a conf and applies the overrides of `--set`.

    Args:
        path_or_text: File, found by `find_conf`; a string with a brace or a line break is HOCON text.
        overrides: `key=value` each, with the full key (`train.num_pixels=512`) and the value in HOCON.

    Returns:
        The tree, with substitutions resolved.

    Raises:
        MissingInputError: No such file, or no file that it includes.
        InputError: Not HOCON (the message names file and line), an include of a url, a value that is neither
            number, text, list nor block, or a malformed override.
    """
    if isinstance(path_or_text, str) and ("\n" in path_or_text or "{" in path_or_text):
        conf = _parse(path_or_text, "conf", None)
    else:
        path = find_conf(path_or_text)
        conf = _parse(_read_text(path), str(path), path.parent)
    for override in overrides:
        _put_override(conf, override)
    check_values(conf)
    for block in conf:
        if block not in BLOCKS:
            log.warning("conf: unknown block `%s`%s; it is ignored", block, did_you_mean(block, BLOCKS))
    return conf


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(f"{path}: has more than {MAX_BYTES:,} bytes; expected a conf in HOCON")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mistake = f"{path}: is not a text file in UTF-8 (byte {error.start}); expected HOCON"
        raise InputError(mistake) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _parse(text: str, source: str, folder: Path | None, resolve: bool = True) -> ConfigTree:
    try:
        with _includes_read_by(lambda path, is_url: _read_include(path, is_url, source)):
            conf = ConfigFactory.parse_string(text, str(folder) if folder else None, resolve)
    except USER_ERRORS:
        raise
    except ParseBaseException as error:
        line = text.splitlines()[error.lineno - 1].strip() if error.lineno <= len(text.splitlines()) else ""
        what = f"near `{line[:60]}`" if line else "at the end of the file"
        raise InputError(
            f"{source}, line {error.lineno}: not HOCON {what}; look there and just before it for a "
            "missing brace, bracket, quote or `=`"
        ) from error
    except RecursionError as error:
        raise InputError(f"{source}: brackets or includes are nested too deep; correct the conf") from error
    except (ConfigException, ValueError, OSError) as error:
        raise InputError(f"{source}: {error}; correct the conf") from error
    except Exception as error:  # the parser's own failures, such as for `+=` of a list to a text
        raise InputError(
            f"{source}: not HOCON that the parser can read ({type(error).__name__}: {error}); look for `+=`, "
            "substitutions and includes, and write the value out"
        ) from error
    if not isinstance(conf, ConfigTree):
        raise InputError(f"{source}: is a list; expected blocks such as `train {{ ... }}`")
    return conf


@contextmanager
def _includes_read_by(read: Callable[[str, bool], ConfigTree]) -> Iterator[None]:
    """Makes the parser read what a conf includes by a function of its path or url, and whether it is a url.

    The parser itself fetches urls from the network, and goes on without what it cannot read.
    """
    names = ("parse_file", "parse_URL")
    before = [ConfigFactory.__dict__[name] for name in names]
    for name in names:
        setattr(ConfigFactory, name, lambda path, is_url=name == names[1], **_: read(path, is_url))
    try:
        yield
    finally:
        for name, function in zip(names, before, strict=True):
            setattr(ConfigFactory, name, function)


def _read_include(name: str, is_url: bool, source: str) -> ConfigTree:
    if is_url:
        raise InputError(f"{source}: includes {name}: a conf includes files only; save it and give its path")
    path = Path(name)
    if not path.is_file():
        raise MissingInputError(f"{source}: includes {path}, which is no file; correct the path")
    return _parse(_read_text(path), str(path), path.parent, resolve=False)


def _refuse_include(name: str, is_url: bool) -> ConfigTree:
    raise InputError(f"includes {name}: only a conf can")


def check_values(conf: Mapping[str, Any], where: str = "") -> None:
    """Checks that a tree holds only what a conf can express: numbers, texts, lists and blocks.

    Raises:
        InputError: A duration, a number that is not finite, or a text that is not Unicode.
    """
    for key, value in conf.items():
        name = f"{where}{key}"
        if isinstance(value, Mapping):
            check_values(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            check_values({f"{name}[{i}]": item for i, item in enumerate(value)})
        else:
            _check_value(plain_value(value), name)


def _check_value(value: Any, name: str) -> None:
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(f"{name} = {value!r}: a conf is text in UTF-8; rename what it names")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} = {value}: expected a finite number")
    elif value is not None and not isinstance(value, (bool, int, float)):
        raise InputError(
            f"{name} = {value}: reads as a duration; expected a number, a text, a list or a block: leave the "
            "unit out, or put a text in double quotes"
        )


def _put_override(conf: ConfigTree, override: str) -> None:
    key, equals, value = override.partition("=")
    key = key.strip()
    names = key.split(".")
    if not equals or not all(_KEY.fullmatch(name) for name in names):
        raise InputError(f"--set {override}: expected KEY=VALUE, for example --set train.num_pixels=512")
    if names[0] not in BLOCKS and names[0] not in conf:
        near = [full for full in _leaf_keys(conf) if full.split(".")[-1] == key]
        hint = f" (did you mean {near[0]}?)" if near else did_you_mean(names[0], BLOCKS)
        raise InputError(
            f"--set {override}: there is no block `{names[0]}`{hint}; keys begin with {', '.join(BLOCKS)}"
        )
    if len(names) == 1:
        raise InputError(
            f"--set {override}: `{key}` is a whole block; name one key of it, such as {key}.<name>"
        )
    block: Any = conf
    for depth, name in enumerate(names[:-1], start=1):
        block = block.get(name, None)
        if block is None:
            break
        if not isinstance(block, ConfigTree):
            raise InputError(f"--set {override}: `{'.'.join(names[:depth])}` is a value and holds no keys")
    conf.put(key, _parse_value(override, value.strip()))


def _parse_value(override: str, text: str) -> Any:
    try:
        with _includes_read_by(_refuse_include):
            parsed = ConfigFactory.parse_string(f"value = {text}")
        if list(parsed) == ["value"]:
            return parsed["value"]
    except USER_ERRORS as error:
        raise InputError(f"--set {override}: {error}; give the value itself") from error
    except Exception:  # the parser fails in many ways on what is not HOCON
        pass
    raise InputError(
        f"--set {override}: the value is not HOCON; put it in double quotes, and the whole in single ones: "
        f"--set '{override.partition('=')[0]}=\"...\"'"
    )


def _leaf_keys(tree: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaf_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def resolve_class(dotted: str) -> type:
    """Returns the class of a path such as `model.loss.IDRLoss`: `idr.<path>`, or else the user's `<path>`.

    Raises:
        InputError: No such module or class, a module that cannot be imported, or a name that is not a class.
    """
    module_path, dot, name = str(dotted).rpartition(".")
    if not dot or not all(part.isidentifier() for part in str(dotted).split(".")):
        raise InputError(f"class path `{dotted}`: expected module.Class, such as {_PUBLISHED_CLASSES[-1]}")
    near: list[str] = []
    for full in (f"idr.{module_path}", module_path):
        module = _import_if_there(full, dotted)
        if module is None:
            continue
        found = getattr(module, name, None)
        if inspect.isclass(found):
            return found
        if found is not None:
            raise InputError(f"class path `{dotted}`: {full}.{name} is a {type(found).__name__}, not a class")
        near += [f"{module_path}.{cls}" for cls, _ in inspect.getmembers(module, inspect.isclass)]
    hint = did_you_mean(dotted, [*near, *_PUBLISHED_CLASSES])
    raise InputError(
        f"class path `{dotted}`: found neither as idr.{dotted} nor as {dotted}{hint}; the module "
        "of your own class must be importable (in code/, or on PYTHONPATH)"
    )


def _import_if_there(module: str, dotted: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            return None  # this module; any other is missing inside an existing module
        raise InputError(
            f"class path `{dotted}`: module {module} needs {error.name}, which is not installed"
        ) from error
    except (ImportError, SyntaxError) as error:
        raise InputError(f"class path `{dotted}`: module {module} cannot be imported: {error}") from error


def save_conf(conf: Mapping[str, Any], path: Path) -> None:
    """Writes a conf, with substitutions resolved, atomically as HOCON; `load_conf` reads an equal tree.

    Raises:
        InputError: A value that HOCON cannot represent.
        OutputError: The file cannot be written; an old one is unchanged.
    """
    write_text_atomic(path, "".join(_lines(conf, "", "")))


def _lines(block: Mapping[str, Any], indent: str, where: str) -> Iterable[str]:
    for key, raw in block.items():
        value = plain_value(raw)
        if isinstance(value, Mapping):
            yield f"{indent}{key} {{\n"
            yield from _lines(value, indent + "    ", f"{where}{key}.")
            yield f"{indent}}}\n"
        else:
            yield f"{indent}{key} = {value_text(value, where + str(key))}\n"


def value_text(value: Any, where: str) -> str:
    """Returns the HOCON from which `load_conf` reads an equal value; `where` names its key in messages."""
    if value is None or isinstance(value, (bool, int)):
        return json.dumps(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, (list, tuple)):
        if "" in value:
            # the parser drops it
            raise InputError(f"{where}: an empty text in a list cannot be written to a conf")
        return "[" + ", ".join(value_text(plain_value(item), where) for item in value) + "]"
    if isinstance(value, Mapping):
        items = (f"{key} = {value_text(plain_value(item), f'{where}.{key}')}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    raise InputError(f"{where}: a {type(value).__name__} ({value}) cannot be written to a conf")
