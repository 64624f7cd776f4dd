"""Colored meshes as PLY, OBJ, GLB and USDZ files, bare ones as STL.

V vertices, T faces. Colors are sRGB in [0, 1].
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image
from trimesh.exchange.gltf import export_glb
from trimesh.exchange.obj import export_obj
from trimesh.exchange.stl import export_stl
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from idr.errors import InputError, MissingInputError
from idr.export.surface import Array, Surface, srgb_to_linear
from idr.files import write_atomic, write_text_atomic
from idr.meshing.meshes import needs_float64, ply_content

FORMATS = (".glb", ".obj", ".ply", ".stl", ".usdz")
TEXTURED_FORMATS = (".glb", ".obj", ".usdz")
UPRIGHT_FORMATS = (".glb", ".usdz")
"""Formats that define which axis is up."""
UNLIT = "KHR_materials_unlit"
DIGITS = 9
"""Digits after the decimal point in OBJ files."""


def import_mesh_package(name: str, user: str) -> Any:
    """Imports ``xatlas``, ``embreex`` or ``fast_simplification``, optional packages of ``idr-surface[mesh]``.

    Raises:
        MissingInputError: It is not installed; the message says what needs it, `user`.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingInputError(
            f"{user} needs {name}, which is not installed: pip install 'idr-surface[mesh]'"
        ) from error


def check_formats(paths: list[Path], textured: bool) -> None:
    """Raises `InputError` if a suffix is none of `FORMATS`, or its format cannot hold a texture."""
    for path in paths:
        if path.suffix.lower() not in FORMATS:
            raise InputError(f"--out {path}: expected a name ending in {', '.join(FORMATS)}")
        if textured and path.suffix.lower() not in TEXTURED_FORMATS:
            raise InputError(
                f"--out {path}: {path.suffix[1:].upper()} holds no texture; leave --texture out, or name a "
                ".glb, .obj or .usdz"
            )


def companions(path: Path, textured: bool) -> list[Path]:
    """Returns all files that `write_surface` writes for a name; a textured OBJ has an .mtl and an image."""
    if textured and path.suffix.lower() == ".obj":
        return [path.with_suffix(".png"), path.with_suffix(".mtl"), path]
    return [path]


def write_surface(surface: Surface, path: Path, lit: bool = False, upright: Array | None = None) -> None:
    """Writes a surface in the format of the suffix, each file atomically.

    Args:
        surface: The surface.
        path: The file; see `companions`.
        lit: GLB and USDZ: let viewers add their own lights. Without it, colors are shown as they are, since
            they contain the light of the photographs.
        upright: (3, 3) rotation to glTF's axes. Of a GLB, it is the node's matrix: viewers show the mesh
            upright while the vertices keep the surface's coordinates. If float32 is too coarse for these
            (`needs_float64`), the vertices are relative to the node's translation; PLY then has float64. Of a
            USDZ, see `usdz_content`.

    Raises:
        InputError: The suffix is unknown.
        OutputError: A file cannot be written.
    """
    check_formats([path], surface.texture is not None)
    ending = path.suffix.lower()
    if ending == ".obj":
        _write_obj(surface, path)
        return
    if ending == ".glb":
        content = glb_content(surface, lit, upright)
    elif ending == ".usdz":
        from idr.export.usdz import usdz_content

        content = usdz_content(surface, lit, upright)
    elif ending == ".stl":
        content = export_stl(_mesh(surface))
    else:
        content = ply_content(surface.vertices, surface.faces, surface.normals, _levels(surface.colors))
    write_atomic(path, lambda file: file.write(content))


def _mesh(surface: Surface, **visual: Any) -> trimesh.Trimesh:
    return trimesh.Trimesh(
        surface.vertices, surface.faces, vertex_normals=surface.normals, process=False, **visual
    )


def _levels(colors: Array | None) -> NDArray[np.uint8] | None:
    return None if colors is None else (np.clip(colors, 0, 1) * 255).round().astype(np.uint8)


def glb_content(surface: Surface, lit: bool, upright: Array | None = None) -> bytes:
    """Returns the content of a GLB file; see `write_surface` for the arguments.

    In glTF, vertex colors are linear and textures are sRGB. trimesh writes vertex colors with 8 bits, too few
    for linear values, so they are passed as a float32 attribute that is renamed afterwards.
    """
    center = np.round(surface.vertices.mean(axis=0)) if needs_float64(surface.vertices) else np.zeros(3)
    surface = replace(surface, vertices=surface.vertices - center)
    image = None if surface.texture is None else Image.fromarray(surface.texture)
    textured = image is not None and surface.uv is not None
    material = PBRMaterial(
        baseColorFactor=[255, 255, 255, 255], baseColorTexture=image, metallicFactor=0.0, roughnessFactor=1.0
    )
    uv = surface.uv if textured else None
    mesh = _mesh(surface, visual=trimesh.visual.TextureVisuals(uv=uv, material=material))
    if surface.colors is not None and not textured:
        mesh.vertex_attributes["_color"] = srgb_to_linear(surface.colors).astype(np.float32)

    def finish(tree: dict[str, Any]) -> None:
        for part in (p for entry in tree["meshes"] for p in entry["primitives"]):
            attributes = part["attributes"]
            if "_color" in attributes:
                attributes["COLOR_0"] = attributes.pop("_color")
        for entry in tree["materials"]:
            entry["doubleSided"] = True  # decimation may flip slivers, which would look like holes
            if not lit:
                entry["extensions"] = {UNLIT: {}}
        if not lit:
            tree["extensionsUsed"] = sorted({*tree.get("extensionsUsed", []), UNLIT})

    matrix = np.eye(4) if upright is None else np.pad(upright, (0, 1))
    matrix[3, 3] = 1.0
    matrix[:3, 3] = matrix[:3, :3] @ center
    scene = trimesh.Scene()
    scene.add_geometry(mesh, transform=matrix)
    return export_glb(scene, include_normals=True, tree_postprocessor=finish)


def _write_obj(surface: Surface, path: Path) -> None:
    """Writes an OBJ file; vertex colors follow the coordinates, as MeshLab and Blender expect."""
    if surface.texture is None:
        mesh = _mesh(surface, vertex_colors=_levels(surface.colors))
        write_text_atomic(path, export_obj(mesh, include_normals=True, digits=DIGITS, header=None))
        return
    image, mtl = path.with_suffix(".png"), path.with_suffix(".mtl")
    texture = Image.fromarray(surface.texture)
    material = SimpleMaterial(image=texture, name="surface")
    text, _ = export_obj(
        _mesh(surface, visual=trimesh.visual.TextureVisuals(uv=surface.uv, material=material)),
        include_normals=True, digits=DIGITS, header=None, return_texture=True, mtl_name=mtl.name,
    )  # fmt: skip
    write_atomic(image, lambda file: texture.save(file, format="PNG"))
    write_text_atomic(mtl, f"newmtl surface\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nmap_Kd {image.name}\n")
    write_text_atomic(path, text)
