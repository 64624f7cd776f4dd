from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyhocon import ConfigFactory

from idr import places
from idr.conf import files as config
from idr.conf.blocks import plain_value
from idr.conf.files import find_conf, load_conf, project_root, read_block, resolve_class, save_conf
from idr.errors import InputError, MissingInputError, OutputError

PUBLISHED = (Path(__file__).parents[1] / "parity" / "golden" / "a" / "model.conf").read_text()


@dataclass(frozen=True)
class Inner:
    size: int = 3


@dataclass(frozen=True)
class Everything:
    whole: int
    number: float = 1.5
    flag: bool = True
    text: str = "t"
    path: Path = Path(".")
    mode: Literal["idr", "no_normal"] = "idr"
    dims: tuple[int, ...] = ()
    res: tuple[int, int] | None = None
    rates: list[float] = field(default_factory=list)
    scan: int | str | None = None
    inner: Inner = Inner()
    block: Mapping[str, Any] = field(default_factory=dict)
    anything: Any = None

    def __post_init__(self) -> None:
        if self.whole < 0:
            raise ValueError(f"whole = {self.whole}: expected 0 or more")


def read(text: str, **options: Any) -> Everything:
    return read_block(Everything, ConfigFactory.parse_string(text), "model.x", **options)


# ---- the tree


def test_published_conf_reads_unchanged() -> None:
    conf = load_conf(PUBLISHED)
    assert list(conf) == ["train", "plot", "loss", "dataset", "model"]
    assert conf["train"]["alpha_milestones"] == [10, 20, 30, 40, 50]
    assert conf["model"]["implicit_network"]["geometric_init"] is True
    assert conf["model"]["ray_tracer"]["sdf_threshold"] == 5e-5


def test_overrides_replace_and_add() -> None:
    overrides = [
        "train.num_pixels=512",
        "dataset.img_res=[12, 16]",
        "train.expname=a b",
        "model.new.deep=1e-3",
    ]
    overrides += [
        "dataset.data_dir=/x/y-1",
        'train.note="k=v"',
        "train.learning_rate_cam=null",
        "train.empty=",
    ]
    conf = load_conf(PUBLISHED, overrides)
    assert conf["train"]["num_pixels"] == 512 and conf["train"]["expname"] == "a b"
    assert conf["dataset"]["img_res"] == [12, 16] and conf["dataset"]["data_dir"] == "/x/y-1"
    assert conf["model"]["new"]["deep"] == 1e-3
    assert conf["train"]["note"] == "k=v" and conf["train"]["empty"] == ""
    assert conf["train"]["learning_rate_cam"] is None
    assert conf["train"]["loss_class"] == "model.loss.IDRLoss"  # the rest is unchanged


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.num_pixels", r"expected KEY=VALUE"),
        ("=3", r"expected KEY=VALUE"),
        ("train..x=3", r"expected KEY=VALUE"),
        ("train.a{b=3", r"expected KEY=VALUE"),
        ("trian.num_pixels=3", r"no block `trian` \(did you mean train\?\)"),
        ("num_pixels=3", r"did you mean train\.num_pixels\?"),
        ("train=3", r"`train` is a whole block"),
        ("train.num_pixels.x=3", r"`train\.num_pixels` is a value"),
        ("train.dims=[1, 2", r"not HOCON; put it in double quotes"),
        ("train.note=k=v", r"not HOCON; put it in double quotes"),
        ("train.note=1\nloss.alpha=2", r"not HOCON"),
    ],
)
def test_invalid_overrides_are_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_conf(PUBLISHED, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train {\n a = 1\n b = [1, 2\n}\n", r"x\.conf, line \d+: not HOCON"),
        ("train {\n a = 1\n", r"x\.conf, line 3: not HOCON at the end of the file"),
        ("train { a = ${nowhere} }\n", r"x\.conf: Cannot resolve variable \$\{nowhere\}"),
        ("[1, 2]\n", r"x\.conf: is a list"),
    ],
)
def test_broken_conf_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.conf").write_text(text)
    with pytest.raises(InputError, match=message):
        load_conf(tmp_path / "x.conf")


def test_conf_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.conf").write_bytes(b"train { a = \xff\xfe }")
    with pytest.raises(InputError, match="not a text file in UTF-8"):
        load_conf(tmp_path / "x.conf")


def test_includes_and_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "base.conf").write_text("train { a = 1, b = 2 }\n")
    (tmp_path / "x.conf").write_bytes(b'\xef\xbb\xbfinclude "base.conf"\ntrain.b = 3\n')
    assert load_conf(tmp_path / "x.conf") == {"train": {"a": 1, "b": 3}}


def test_unknown_top_level_block_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="idr"):
        load_conf("modle { a = 1 }\n")
    assert "`modle`" in caplog.text and "did you mean model?" in caplog.text


# ---- finding


def test_conf_is_found_in_working_directory_then_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    for root in (checkout, elsewhere):
        (root / "confs").mkdir(parents=True)
    (checkout / "confs" / "x.conf").write_text("train {}")
    monkeypatch.setattr(config, "project_root", lambda: checkout)
    monkeypatch.chdir(elsewhere)
    assert find_conf("./confs/x.conf") == checkout / "confs" / "x.conf"
    (elsewhere / "confs" / "x.conf").write_text("train {}")
    assert find_conf("./confs/x.conf") == elsewhere / "confs" / "x.conf"
    assert find_conf(checkout / "confs" / "x.conf") == checkout / "confs" / "x.conf"


def test_absolute_conf_is_found_from_a_deleted_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.conf").write_text("a = 1")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert find_conf(tmp_path / "x.conf") == tmp_path / "x.conf"


def test_missing_conf_lists_both_places_and_the_existing_confs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingInputError) as error:
        find_conf("confs/dtu_fixed_camera.conf")
    message = str(error.value)
    assert str(tmp_path / "confs" / "dtu_fixed_camera.conf") in message
    assert str(project_root() / "confs" / "dtu_fixed_camera.conf") in message
    assert "did you mean dtu_fixed_cameras.conf?" in message and "confs/dtu_trained_cameras.conf" in message


def test_project_root_is_the_checkout() -> None:
    assert (project_root() / "code" / "idr" / "errors.py").is_file()


def test_conf_of_the_package_is_found_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipped" / "confs" / "ablation").mkdir(parents=True)
    shipped = tmp_path / "shipped" / "confs" / "ablation" / "x.conf"
    shipped.write_text("train {}")
    monkeypatch.setattr(places, "_PACKAGE", tmp_path)
    monkeypatch.setattr(places, "checkout", lambda: None)
    monkeypatch.chdir(tmp_path)
    assert project_root() == tmp_path and find_conf("confs/ablation/x.conf") == shipped
    with pytest.raises(MissingInputError, match=r"there are confs/ablation/x\.conf; .* these or a path"):
        find_conf("confs/y.conf")
    mine = tmp_path / "confs" / "ablation" / "x.conf"
    mine.parent.mkdir(parents=True)
    mine.write_text("train {}")
    assert find_conf("confs/ablation/x.conf") == mine


# ---- blocks


def test_block_is_converted() -> None:
    everything = read(
        "whole = 2e3\n number = 3\n flag = False\n text = 2020\n path = a/b\n mode = no_normal\n"
        "dims = [1, 2.0]\n res = [4, 5]\n rates = [1, .5]\n scan = abc\n inner { size = 7 }\n"
        "block { any { thing = 1 } }\n anything = [1]"
    )
    assert everything == Everything(
        2000, 3.0, False, "2020", Path("a/b"), "no_normal", (1, 2), (4, 5), [1.0, 0.5], "abc", Inner(7),
        {"any": {"thing": 1}}, [1],
    )  # fmt: skip
    assert isinstance(everything.whole, int) and isinstance(everything.number, float)
    assert isinstance(everything.dims[1], int)


def test_defaults_and_null() -> None:
    assert read("whole = 1, res = null, scan = null") == Everything(1)
    assert read_block(Inner, None, "x") == Inner()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("number = 3", r"^model\.x\.whole: missing; expected a whole number"),
        ("whole = 1.5", r"^model\.x\.whole: got 1\.5 \(a number\); expected a whole number"),
        ("whole = true", r"^model\.x\.whole: got True \(true/false\); expected a whole number"),
        ("whole = abc", r"^model\.x\.whole: got 'abc' \(a text\)"),
        ("whole = [1]", r"^model\.x\.whole: got \[1\] \(a list\)"),
        ("whole = null", r"^model\.x\.whole: got null; expected a whole number"),
        ("whole { a = 1 }", r"^model\.x\.whole: got a block; expected a whole number"),
        ("whole = -1", r"^model\.x\.whole = -1: expected 0 or more"),
        ("whole = 1, number = nan", r"^model\.x\.number: got 'nan'"),
        ("whole = 1, flag = 1", r"^model\.x\.flag: got 1 \(a number\); expected true or false"),
        ("whole = 1, text = true", r"^model\.x\.text: got True"),
        ("whole = 1, text = 2 days", r"^model\.x\.text: got .*; expected a text"),
        ("whole = 1, mode = no_norml", r"^model\.x\.mode: .*idr, no_normal \(did you mean no_normal\?\)"),
        ("whole = 1, dims = 4", r"^model\.x\.dims: got 4 .*a list \[\.\.\.\], each a whole"),
        ("whole = 1, dims = [1, x]", r"^model\.x\.dims\[1\]: got 'x'"),
        ("whole = 1, res = [1]", r"^model\.x\.res: got 1 values; .*a list of 2: \[a whole number, a whole"),
        ("whole = 1, scan = [1]", r"^model\.x\.scan: got \[1\].*expected a whole number or a text or null"),
        ("whole = 1, inner = 3", r"^model\.x\.inner: expected a block \{ \.\.\. \}, got 3"),
        ("whole = 1, inner { siz = 3 }", r"^model\.x\.inner\.siz: unknown key \(did you mean size\?\)"),
        ("whole = 1, block = 3", r"^model\.x\.block: got 3 \(a number\); expected a block"),
        ("whole = 1, numbr = 3", r"^model\.x\.numbr: unknown key \(did you mean number\?\); keys of"),
    ],
)  # fmt: skip
def test_wrong_blocks_name_the_key(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(text)


def test_unknown_keys_may_warn_or_be_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="idr"):
        assert read("whole = 1, numbr = 3", unknown="ignore") == Everything(1)
        assert caplog.text == ""
        assert read("whole = 1, numbr = 3", unknown="warn") == Everything(1)
    assert "model.x.numbr is unknown (did you mean number?)" in caplog.text


# ---- classes


def test_class_paths_resolve_to_ours_first() -> None:
    assert resolve_class("errors.InputError") is InputError
    assert resolve_class("idr.errors.InputError") is InputError
    assert resolve_class("collections.OrderedDict").__name__ == "OrderedDict"


def test_user_class_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.py").write_text("class Net: pass\nvalue = 3\n")
    (tmp_path / "needs.py").write_text("import not_there_at_all\n")
    (tmp_path / "halfway.py").write_text("from math import not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "model"]:
        monkeypatch.delitem(sys.modules, name)
    assert resolve_class("model.mine.Net").__name__ == "Net"
    for path, message in [
        ("model.mine.Nett", r"did you mean model\.mine\.Net\?"),
        ("model.mine.value", r"is a int, not a class"),
        ("needs.Net", r"needs not_there_at_all, which is not installed"),
        ("halfway.Net", r"halfway cannot be imported: .*not_there"),
    ]:
        with pytest.raises(InputError, match=message):
            resolve_class(path)
    for name in ("model.mine", "model"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "model.loss.IDRLos",
            r"neither as idr\.model\.loss\.IDRLos nor as .*did you mean model\.loss\.IDRLoss\?",
        ),
        ("IDRLoss", r"expected module\.Class, such as model\.loss\.IDRLoss"),
        ("model..IDRLoss", r"expected module\.Class"),
        ("no.such.Thing", r"the module of your own class must be importable"),
    ],
)
def test_invalid_class_paths_are_refused(path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_class(path)


# ---- saving

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | texts
keys = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda key: key != "include")
trees = st.recursive(
    scalars | st.lists(scalars.filter(lambda value: value != ""), max_size=4),
    lambda inner: (
        st.dictionaries(keys, inner, max_size=4)
        | st.lists(inner.filter(lambda value: value != ""), max_size=3)
    ),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    left, right = plain_value(left), plain_value(right)
    if isinstance(left, Mapping):
        return (
            isinstance(right, Mapping)
            and list(left) == list(right)
            and all(same(left[k], right[k]) for k in left)
        )
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(same, left, right))
    return left == right and isinstance(left, bool) == isinstance(right, bool)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(keys, trees, min_size=1, max_size=4))
def test_saved_conf_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("conf") / "x.conf"
    conf = ConfigFactory.from_dict(tree)
    save_conf(conf, path)
    assert same(conf, ConfigFactory.parse_string(path.read_text(encoding="utf-8"))), path.read_text()


def test_saved_published_conf_is_readable_and_resolved(tmp_path: Path) -> None:
    conf = load_conf(PUBLISHED + "\nloss.alpha = ${train.alpha_factor}\n", ["train.num_pixels=7"])
    save_conf(conf, tmp_path / "runconf.conf")
    assert load_conf(tmp_path / "runconf.conf") == conf
    text = (tmp_path / "runconf.conf").read_text()
    assert "    num_pixels = 7\n" in text and "    alpha = 2\n" in text
    assert "        dims = [32, 32, 32, 32]\n" in text


def test_value_that_hocon_cannot_represent(tmp_path: Path) -> None:
    (tmp_path / "x.conf").write_text("old")
    for value in (math.inf, math.nan, object(), ["a", ""]):
        with pytest.raises(InputError, match=r"train\.a: an? .* cannot be written to a conf"):
            save_conf({"train": {"a": value}}, tmp_path / "x.conf")
    assert (tmp_path / "x.conf").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_conf_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*folder is needed"):
        save_conf({"train": {"a": 1}}, tmp_path / "file" / "x.conf")
