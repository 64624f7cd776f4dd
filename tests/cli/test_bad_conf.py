"""Training refuses invalid confs; the message names the full key and the nearest known one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def edit(project, old: str, new: str) -> None:
    """Replaces an existing part of the conf."""
    text = project.conf.read_text()
    assert old in text
    project.conf.write_text(text.replace(old, new, 1))


# ---- keys


@pytest.mark.parametrize(
    "old, new, texts",
    [
        ("img_res = ", "img_ers = ", ["dataset.img_ers", "did you mean img_res?"]),
        ("resolution = 8", "resolutoin = 8", ["plot.resolutoin", "did you mean resolution?"]),
        ("mask_weight = ", "mask_wieght = ", ["loss.mask_wieght", "did you mean mask_weight?"]),
        ("bias = 0.6", "biass = 0.6", ["model.implicit_network.biass", "did you mean bias?"]),
        ("mode = idr", "mod = idr", ["model.rendering_network.mod", "did you mean mode?"]),
        ("n_steps = 8", "n_step = 8", ["model.ray_tracer.n_step", "did you mean n_steps?"]),
    ],
)
def test_typo_in_a_checked_block(project, old, new, texts):
    edit(project, old, new)
    project.refuses_to_train(texts=texts)


def test_typo_in_a_lenient_block_of_a_file_is_only_a_warning(project):
    edit(project, "expname = tiny", "expname = tiny\n    alpha_factr = 2")
    edit(project, "    feature_vector_size = 8", "    feature_vector_size = 8\n    featrue_vector_size = 9")
    outcome = project.train("--nepoch", "0")
    assert outcome.status == 0, outcome.err
    assert "model.featrue_vector_size is unknown (did you mean feature_vector_size?)" in outcome.err
    assert "train.alpha_factr is unknown (did you mean alpha_factor?)" in outcome.err


MISTYPED = {
    "train.alpha_factr=2": "did you mean alpha_factor?",
    "train.cameras.pose=orbit": "did you mean poses?",
    "train.schedule.param_groups.encodin.factor=2": "did you mean encoding?",
    "train.schedule.alpha.strat=0.1": "keys of `train.schedule.alpha`: final, begin, end",
    "plot.plot_nimg=2": "did you mean plot_nimgs?",
    "loss.mask_wieght=2": "did you mean mask_weight?",
    "loss.patch.ray=2": "did you mean rays?",
    "loss.normal.weight=2": "did you mean normals?",
    "dataset.img_ers=[3,4]": "did you mean img_res?",
    "model.featrue_vector_size=8": "did you mean feature_vector_size?",
    "model.implicit_network.encodng.levels=3": "did you mean encoding?",
    "model.rendering_network.mod=idr": "did you mean mode?",
    "model.ray_tracer.n_step=9": "did you mean n_steps?",
}


@pytest.mark.parametrize("override", MISTYPED)
def test_typo_in_an_override_is_refused_in_every_block(trained_project, override):
    from idr.cli import evaluate, run_scenes, summary

    texts = [f"--set {override.partition('.')[0]}.", MISTYPED[override]]
    trained_project.refuses_to_train("--set", override, texts=texts)
    conf = ["--conf", str(trained_project.conf), "--set", override]
    trained_project.refuses(evaluate.main, *conf, "--gpu", "ignore", "--device", "cpu", texts=texts)
    trained_project.refuses(summary.main, *conf, texts=texts)
    trained_project.refuses(run_scenes.main, "--scans", "3", *conf, texts=texts)


def test_typo_in_an_override_of_an_encoding_is_refused(project):
    flags = ["--set", "model.implicit_network.encoding.type=sinusoids"]
    mistyped = ["--set", "model.implicit_network.encoding.multire=3"]
    project.refuses_to_train(*flags, *mistyped, texts=["encoding.multire", "did you mean multires?"])


@pytest.mark.parametrize("block", ["train", "model"])
def test_an_override_of_a_conf_without_the_block_is_refused(project, block):
    project.conf.write_text(f"{block} = 5\n" + project.conf.read_text().replace(f"\n{block} {{", "\nother {"))
    project.refuses_to_train("--set", "loss.alpha=3", texts=[f"error: {block}", "expected a block { ... }"])


def test_keys_of_a_model_of_the_user_may_be_set(project, monkeypatch):
    import types

    from idr.model.implicit_differentiable_renderer import IDRNetwork

    class Mine(IDRNetwork):
        pass

    monkeypatch.setitem(sys.modules, "mine", types.SimpleNamespace(Mine=Mine))
    outcome = project.train("--nepoch", "0", "--set", "train.model_class=mine.Mine", "--set", "model.depth=3")
    assert outcome.status == 0, outcome.err


@pytest.mark.parametrize(
    "old, new, texts",
    [
        ("learning_rate = 1.0e-3", "", ["train.learning_rate", "missing", "a number"]),
        ("img_res = [12, 16],", "", ["dataset.img_res", "missing", "a list [...], each a whole number"]),
        (
            "object_bounding_sphere = 1.0,",
            "",
            ["model.ray_tracer.object_bounding_sphere", "missing", "a number"],
        ),
        ("feature_vector_size = 8", "", ["model.feature_vector_size", "missing", "a whole number"]),
        (
            "model_class = model.implicit_differentiable_renderer.IDRNetwork",
            "",
            ["train.model_class", "missing"],
        ),
        ("loss {", "losses {", ["the conf has no loss", "add it", "confs/dtu_fixed_cameras.conf"]),
        ("dataset {", "data {", ["the conf has no dataset", "add it"]),
        ("train {", "training {", ["the conf has no train", "add it"]),
        ("model {\n", "network {\n", ["the conf has no model", "add it"]),
    ],
)
def test_missing_key_or_block(project, old, new, texts):
    edit(project, old, new)
    project.refuses_to_train(texts=texts)


# ---- values


@pytest.mark.parametrize(
    "override, texts",
    [
        ("train.num_pixels=many", ["train.num_pixels", "got 'many' (a text)", "expected a whole number"]),
        ("train.num_pixels=1.5", ["train.num_pixels", "got 1.5 (a number)", "expected a whole number"]),
        ("train.num_pixels=0", ["train.num_pixels = 0", "expected 1 or more"]),
        ("train.plot_freq=0", ["train.plot_freq = 0", "expected 1 or more"]),
        ("train.learning_rate=true", ["train.learning_rate", "got True (true/false)", "expected a number"]),
        ("train.learning_rate=-1", ["train.learning_rate = -1", "above 0"]),
        ("train.learning_rate=null", ["train.learning_rate", "got null", "expected a number"]),
        ("train.sched_milestones=100", ["train.sched_milestones", "got 100 (a number)", "a list [...]"]),
        (
            "train.alpha_milestones=[1,two]",
            ["train.alpha_milestones[1]", "got 'two' (a text)", "a whole number"],
        ),
        (
            "train.pixel_sampling=sometimes",
            ["train.pixel_sampling", "'sometimes'", "one of per_image, per_epoch"],
        ),
        ("train.sampler.type=importence", ["train.sampler.type", "did you mean importance?"]),
        ("train.sampler.silhuette=0.1", ["train.sampler.silhuette", "did you mean silhouette?"]),
        ("train.schedule.level.start=1", ["train.schedule.level", "did you mean levels?"]),
        (
            "train.schedule.levels.start=1",
            ["train.schedule.levels: model.implicit_network has no encoding with levels"],
        ),
        (
            "train.schedule.param_groups.encoding.factor=2",
            ["param_groups.encoding: the model has no parameters implicit"],
        ),
        ("plot.resolution=1", ["plot.resolution = 1", "expected at least 2"]),
        ("loss.alpha=0", ["loss.alpha = 0", "expected a sharpness above 0"]),
        ("loss.mask_weight=[1]", ["loss.mask_weight", "got [1] (a list)", "expected a number"]),
        ("dataset.img_res=big", ["dataset.img_res", "got 'big' (a text)", "a list [...]"]),
        ("dataset.img_res=[12]", ["dataset.img_res = [12]", "expected [height, width]"]),
        ("dataset.img_res=[12,0]", ["dataset.img_res = [12, 0]", "expected [height, width]"]),
        ("dataset.scan_id=three", ["dataset.scan_id = 'three'", "expected a whole number such as 65"]),
        ("dataset.holdout=2", ["dataset.holdout = 2", "expected a list of images such as [0, 8]"]),
        ("dataset.split=test", ["split test", "expected one of train, holdout"]),
        (
            "model.implicit_network.dims=16",
            ["model.implicit_network.dims", "got 16 (a number)", "a list [...]"],
        ),
        (
            "model.implicit_network.dims=[]",
            ["model.implicit_network.dims = []", "one or more positive widths"],
        ),
        (
            "model.implicit_network.skip_in=[9]",
            ["model.implicit_network.skip_in = [9]", "choose from 1 to 2"],
        ),
        (
            "model.implicit_network.skip_in=[1] model.implicit_network.multires=3",
            ["model.implicit_network.skip_in = [1]", "make it wider or lower multires (3)"],
        ),
        ("model.implicit_network=5", ["model.implicit_network", "got 5 (a number)", "expected a block"]),
        (
            "model.rendering_network.mode=idrr",
            ["model.rendering_network.mode", "idrr", "idr, no_view_dir, no_normal"],
        ),
        ("model.rendering_network.d_in=6", ["model.rendering_network.d_in = 6", "mode idr", "9"]),
        ("model.ray_tracer.n_steps=1", ["model.ray_tracer.n_steps = 1", "expected at least 2"]),
        (
            "model.ray_tracer.object_bounding_sphere=0",
            ["model.ray_tracer.object_bounding_sphere = 0", "above 0"],
        ),
        (
            "model.ray_tracer.precision=bf16",
            ["model.ray_tracer.precision = bf16", "no measurement showed a benefit", "remove the key"],
        ),
        (
            "model.ray_tracer.strategy=magic",
            ["model.ray_tracer.strategy = magic", "expected one of accelerated, compiled, fixed, published"],
        ),
    ],
)
def test_wrong_value(project, override, texts):
    flags = [flag for text in override.split(" ") for flag in ("--set", text)]
    project.refuses_to_train(*flags, texts=texts)


@pytest.mark.parametrize(
    "override, key",
    [
        ("model.feature_vector_size=-1", "model.feature_vector_size"),
        ("model.implicit_network.d_in=2", "model.implicit_network.d_in"),
        ("model.implicit_network.d_out=2", "model.implicit_network.d_out"),
        ("model.implicit_network.multires=-1", "model.implicit_network.multires"),
        ("model.rendering_network.multires_view=-1", "model.rendering_network.multires_view"),
        ("model.rendering_network.dims=[0]", "model.rendering_network.dims"),
        ("model.rendering_network.d_out=4", "model.rendering_network.d_out"),
    ],
)
def test_wrong_size_of_a_network(project, override, key):
    project.refuses_to_train("--set", override, texts=[key, override.partition("=")[2], "expected"])


@pytest.mark.parametrize(
    "key, value, largest",
    [
        ("model.feature_vector_size", "1e9", "8,192"),
        ("model.implicit_network.dims", "[16, 1e9]", "8,192"),
        ("model.implicit_network.multires", "2000", "32"),
        ("model.rendering_network.multires_view", "33", "32"),
        ("model.ray_tracer.n_steps", "1e9", "10,000"),
        ("plot.resolution", "5000", "4,096"),
        ("train.num_pixels", "1e30", "10,000,000"),
        ("train.plot_freq", "1e30", "1,000,000,000"),
    ],
)
def test_sizes_beyond_reason(project, key, value, largest):
    project.refuses_to_train("--set", f"{key}={value}", texts=[key, f"expected at most {largest}"])


def test_largest_sizes_are_accepted():
    from idr.conf.blocks import read_block
    from idr.model.encodings.sinusoids import SinusoidsConfig

    assert read_block(SinusoidsConfig, {"multires": 32}, "x").multires == 32


@pytest.mark.parametrize(
    "override, texts",
    [
        ("train.learning_rate=10 seconds", ["reads as a duration", "leave the unit out"]),
        ("train.alpha_milestones=[1 day, 2]", ["train.alpha_milestones[0]", "reads as a duration"]),
        ("train.learning_rate=1e999", ["train.learning_rate = inf", "expected a finite number"]),
        ("dataset.data_dir=caf\udce9", ["dataset.data_dir", "a conf is text in UTF-8", "rename"]),
    ],
)
def test_value_of_another_kind(project, override, texts):
    project.refuses_to_train("--set", override, texts=texts)


# ---- classes


ABSENT = "has no forward of a torch.nn.Module"


@pytest.mark.parametrize(
    "key, path, texts",
    [
        ("loss", "subprocess.Popen", [ABSENT, "docs/training.md"]),
        ("model", "subprocess.Popen", [ABSENT]),
        ("dataset", "subprocess.Popen", ["has no __len__, __getitem__, collate_fn, change_sampling_idx"]),
        ("loss", "builtins.dict", [ABSENT]),
        ("model", "torch.nn.Module", [ABSENT]),
        ("loss", "torch.nn.ReLU", ["`forward`: too many positional arguments"]),
        ("loss", "torch.nn.L1Loss", ["train.loss_class = torch.nn.modules.loss.L1Loss: has no alpha"]),
        ("model", "own_part.Bare", ["own_part.Bare: has no implicit_network, rendering_network"]),
        ("dataset", "torch.utils.data.Dataset", ["has no __len__, collate_fn, change_sampling_idx"]),
    ],
)
def test_class_without_the_seam_is_not_called(project, monkeypatch, tmp_path, key, path, texts):
    (tmp_path / "own_part.py").write_text(
        "from torch import nn\nclass Bare(nn.Module):\n"
        "    def __init__(self, conf): super().__init__()\n    def forward(self, x): return x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "own_part", raising=False)
    mark = project.root / "was_called"
    block = f'args = ["touch", "{mark}"]' if path == "subprocess.Popen" else ""
    if key == "loss":
        edit(project, "eikonal_weight = 0.1, mask_weight = 100.0, alpha = 50.0", block)
    project.refuses_to_train("--set", f"train.{key}_class={path}", texts=texts)
    assert not mark.exists()


@pytest.mark.parametrize(
    "key, path, texts",
    [
        (
            "model",
            "model.implicit_differentiable_renderer.IDRNetwrk",
            ["IDRNetwrk", "did you mean", "IDRNetwork?"],
        ),
        (
            "loss",
            "model.los.IDRLoss",
            ["`model.los.IDRLoss`", "did you mean model.loss.IDRLoss?", "PYTHONPATH"],
        ),
        (
            "dataset",
            "nowhere.to.be.Found",
            ["found neither as idr.nowhere.to.be.Found", "must be importable"],
        ),
        ("loss", "IDRLoss", ["`IDRLoss`", "expected module.Class", "model.loss.IDRLoss"]),
        ("loss", "own_part.function", ["own_part.function", "is a function, not a class"]),
        ("loss", "own_part.Greedy", ["loss: the block's keys do not fit own_part.Greedy", "'gold'"]),
        ("dataset", "needy_part.Anything", ["module needy_part needs surely_not_installed", "not installed"]),
    ],
)
def test_unknown_class(project, monkeypatch, key, path, texts):
    folder = project.root / "own"
    folder.mkdir()
    (folder / "own_part.py").write_text(
        "from torch import nn\ndef function(): pass\nclass Greedy(nn.Module):\n"
        "    def __init__(self, gold): pass\n    def forward(self, outputs, truth): pass\n"
    )
    (folder / "needy_part.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(
        sys, "dont_write_bytecode", True
    )  # the command does not write the interpreter's cache
    for name in ("own_part", "needy_part"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    project.refuses_to_train("--set", f"train.{key}_class={path}", texts=texts)


# ---- the file


class TestFile:
    def test_missing(self, project):
        confs = project.root / "confs"
        confs.mkdir()
        (confs / "mine.conf").write_text("")
        texts = [
            f"no conf at {project.root / 'min.conf'}",
            "did you mean mine.conf?",
            "there are confs/mine.conf",
            "--conf",
        ]
        project.refuses_to_train("--conf", "min.conf", texts=texts)

    def test_a_folder(self, project):
        (project.root / "confs").mkdir()
        project.refuses_to_train("--conf", "confs", texts=[f"no conf at {project.root / 'confs'}"])

    def test_not_hocon(self, project):
        edit(project, "plot_freq = 1000", 'plot_freq = "1000')
        project.refuses_to_train(texts=["tiny.conf, line", "not HOCON", "missing brace, bracket, quote"])

    def test_truncated(self, project):
        text = project.conf.read_text()
        project.conf.write_text(text[: text.index("ray_tracer")])
        project.refuses_to_train(texts=["tiny.conf, line", "not HOCON"])

    def test_empty(self, project):
        project.conf.write_text("")
        project.refuses_to_train(texts=["the conf has no train"])

    def test_binary(self, project):
        project.conf.write_bytes(b"\xff\xfe\x00train")
        project.refuses_to_train(texts=["tiny.conf", "not a text file in UTF-8", "expected HOCON"])


class TestInclude:
    @pytest.mark.parametrize(
        "line, texts",
        [
            ('include url("http://127.0.0.1:9/x.conf")', ["includes http://127.0.0.1:9/x.conf"]),
            ('include "https://127.0.0.1:9/x.conf"', ["includes https://127.0.0.1:9/x.conf", "files only"]),
            ('include url("file:///etc/hostname")', ["includes file:///etc/hostname", "give its path"]),
            ('include required("nowhere.conf")', ["nowhere.conf, which is no file", "correct the path"]),
            ('include required(file("nowhere.conf"))', ["nowhere.conf, which is no file"]),
            ('include file("nowhere.conf")', ["nowhere.conf, which is no file"]),
            ('include "nowhere.conf"', ["nowhere.conf, which is no file"]),
            ('include "/dev/zero"', ["/dev/zero, which is no file"]),
            ('include "tiny.conf"', ["nested too deep"]),
            ('include package("nowhere:x.conf")', ["tiny.conf", "nowhere"]),
            ('include "*.nothing"', ["tiny.conf", "includes"]),
            ('include "broken.conf"', ["broken.conf, line 2: not HOCON"]),
        ],
    )
    def test_refused(self, project, line, texts):
        (project.root / "broken.conf").write_text("train {\n")
        project.conf.write_text(f"{line}\n{project.conf.read_text()}")
        project.refuses_to_train(texts=texts)

    def test_url_within_an_included_file(self, project):
        (project.root / "more.conf").write_text('include url("http://127.0.0.1:9/")\n')
        project.conf.write_text(f'include "more.conf"\n{project.conf.read_text()}')
        project.refuses_to_train(texts=["more.conf: includes http://127.0.0.1:9/"])

    @pytest.mark.parametrize("value", ['"tiny.conf"', 'required("x")', 'url("http://x/")'])
    def test_override(self, project, value):
        texts = ["--set train.x=include", "only a conf can"]
        project.refuses_to_train("--set", f"train.x=include {value}", texts=texts)


@pytest.mark.parametrize(
    "value", ["[" * 2000, "[" * 400 + "]" * 400, "x\ntrain.x += [1]", "${..}", "${train}"]
)
def test_override_that_the_parser_chokes_on(project, value):
    project.refuses_to_train("--set", f"train.x={value}", texts=["the value is not HOCON"])


def test_parser_chokes_on_the_file(project):
    project.conf.write_text("train.expname = a\ntrain.expname += [b]\n")
    project.refuses_to_train(texts=["tiny.conf: not HOCON that the parser can read", "look for `+=`"])
    project.conf.write_text("#" * 200_001)
    project.refuses_to_train(texts=["tiny.conf: has more than 200,000 bytes"])


@pytest.mark.parametrize(
    "override, texts",
    [
        ("train.num_pixels", ["--set train.num_pixels", "expected KEY=VALUE"]),
        ("num_pixels=8", ["no block `num_pixels`", "did you mean train.num_pixels?"]),
        ("trian.num_pixels=8", ["no block `trian`", "did you mean train?"]),
        ("train=8", ["`train` is a whole block"]),
        ("train.num_pixels.x=8", ["`train.num_pixels` is a value and holds no keys"]),
        ("train.alpha_milestones=[1,", ["the value is not HOCON"]),
    ],
)
def test_wrong_override(project, override, texts):
    project.refuses_to_train("--set", override, texts=[f"--set {override}", *texts])


@pytest.mark.parametrize(
    "flags, texts",
    [
        (("--batch_size", "0"), ["--batch_size 0", "expected 1 or more"]),
        (("--nepoch", "-1"), ["--nepoch -1", "expected 0 or more"]),
        (("--seed", "-3"), ["--seed -3", "expected 0 or more"]),
        (("--threads", "0"), ["--threads 0", "expected 1 or more"]),
        (("--gpu", "fastest"), ["--gpu fastest", "expected auto, ignore or a GPU number"]),
        (("--device", "tpu"), ["--device tpu", "this machine has cpu", "choose one of these"]),
        (("--checkpoint", "5"), ["--timestamp and --checkpoint", "add --is_continue"]),
    ],
)
def test_wrong_flags(project, flags, texts):
    project.refuses_to_train(*flags, texts=texts)


def test_unknown_flag_and_abbreviation(project):
    for flag in ("--scan", "--nepochs"):
        with pytest.raises(SystemExit) as stop:
            project.train(flag, "3")
        assert stop.value.code == 2
        assert f"unrecognized arguments: {flag} 3" in project.capsys.readouterr().err


def test_overrides_reach_the_run_and_too_many_pixels_warn(project):
    outcome = project.train("--set", "train.num_pixels=500", "--batch_size", "9")
    assert outcome.status == 0, outcome.err
    assert "warning: train.num_pixels 500 is more than an image has (192)" in outcome.err
    assert "warning: --batch_size 9 exceeds the 6 images" in outcome.err
    (saved,) = Path(project.root / "exps" / "tiny_3").glob("*/runconf.conf")
    assert "num_pixels = 500" in saved.read_text()
