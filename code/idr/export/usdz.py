"""Colored meshes as USDZ, the format of Apple's AR Quick Look; needs the package usd-core.

V vertices, T faces. Meters, y up, the middle of the object's bottom at the origin, where AR viewers place it.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idr.errors import MissingInputError
from idr.export.surface import Array, Surface, srgb_to_linear

COLOR, TEXTURE_UV = "displayColor", "st"


def import_usd(name: str) -> Any:
    """Imports a module of usd-core such as ``Usd``; raises `MissingInputError` if it is not installed."""
    try:
        return importlib.import_module(f"pxr.{name}")
    except ImportError as error:
        raise MissingInputError(
            "a .usdz needs usd-core, which is not installed: pip install 'idr-surface[usd]'"
        ) from error


def usdz_content(surface: Surface, lit: bool, upright: Array | None = None, scale: float = 1.0) -> bytes:
    """Returns the content of a USDZ file.

    Args:
        surface: The surface.
        lit: Let viewers light the colors. Without it they are emitted, since they contain the light of the
            photographs.
        upright: (3, 3) rotation to axes with y up, None for the surface's own.
        scale: Meters per unit of the surface.

    Raises:
        MissingInputError: usd-core is not installed.
    """
    usd, usd_utils = import_usd("Usd"), import_usd("UsdUtils")
    with tempfile.TemporaryDirectory() as folder:
        layer, package = Path(folder, "surface.usdc"), Path(folder, "surface.usdz")
        stage = usd.Stage.CreateNew(str(layer))
        if surface.texture is not None:
            Image.fromarray(surface.texture).save(layer.with_name("texture.png"))
        _define(stage, _standing(surface, upright, scale), lit)
        stage.GetRootLayer().Save()
        usd_utils.CreateNewUsdzPackage(str(layer), str(package))
        return package.read_bytes()


def _standing(surface: Surface, upright: Array | None, scale: float) -> Surface:
    """The surface in meters, upright, with the middle of its bottom at the origin."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * (np.eye(3) if upright is None else upright)
    turned = surface.moved(matrix)
    low, high = turned.vertices.min(axis=0), turned.vertices.max(axis=0)
    matrix[:3, 3] = -(low + high) / 2
    matrix[1, 3] = -low[1]
    return surface.moved(matrix)


def _define(stage: Any, surface: Surface, lit: bool) -> None:
    """Adds the mesh with its material to an empty stage."""
    geom, sdf, vt = import_usd("UsdGeom"), import_usd("Sdf"), import_usd("Vt")
    geom.SetStageUpAxis(stage, geom.Tokens.y)
    geom.SetStageMetersPerUnit(stage, 1.0)
    stage.SetDefaultPrim(geom.Xform.Define(stage, "/object").GetPrim())
    mesh = geom.Mesh.Define(stage, "/object/surface")
    vertices = vt.Vec3fArray.FromNumpy(surface.vertices.astype(np.float32))
    mesh.CreatePointsAttr(vertices)
    mesh.CreateExtentAttr(geom.PointBased.ComputeExtent(vertices))
    mesh.CreateFaceVertexCountsAttr(vt.IntArray.FromNumpy(np.full(len(surface.faces), 3, np.int32)))
    mesh.CreateFaceVertexIndicesAttr(vt.IntArray.FromNumpy(surface.faces.astype(np.int32).ravel()))
    mesh.CreateNormalsAttr(vt.Vec3fArray.FromNumpy(surface.normals.astype(np.float32)))
    mesh.SetNormalsInterpolation(geom.Tokens.vertex)
    mesh.CreateSubdivisionSchemeAttr(geom.Tokens.none)
    mesh.CreateDoubleSidedAttr(True)  # decimation may flip slivers, which would look like holes
    values, kinds = geom.PrimvarsAPI(mesh), sdf.ValueTypeNames
    if surface.texture is not None and surface.uv is not None:
        uv = vt.Vec2fArray.FromNumpy(surface.uv.astype(np.float32))
        values.CreatePrimvar(TEXTURE_UV, kinds.TexCoord2fArray, geom.Tokens.vertex).Set(uv)
    elif surface.colors is not None:
        colors = vt.Vec3fArray.FromNumpy(_linear(surface.colors))
        values.CreatePrimvar(COLOR, kinds.Color3fArray, geom.Tokens.vertex).Set(colors)
    else:
        return
    _add_material(stage, mesh, lit, surface.texture is not None)


def _linear(colors: Array) -> NDArray[np.float32]:
    return np.ascontiguousarray(srgb_to_linear(colors), dtype=np.float32)


def _add_material(stage: Any, mesh: Any, lit: bool, textured: bool) -> None:
    """Binds a matte material to the mesh that shows its texture or its vertex colors."""
    shade, kinds = import_usd("UsdShade"), import_usd("Sdf").ValueTypeNames

    def shader(name: str, identifier: str, **inputs: tuple[Any, Any]) -> Any:
        made = shade.Shader.Define(stage, f"/object/material/{name}")
        made.CreateIdAttr(identifier)
        for key, (kind, value) in inputs.items():
            made.CreateInput(key, kind).Set(value)
        return made

    source = shader(
        "primvar",
        "UsdPrimvarReader_float2" if textured else "UsdPrimvarReader_float3",
        varname=(kinds.String, TEXTURE_UV if textured else COLOR),
    )
    output = source.CreateOutput("result", kinds.Float2 if textured else kinds.Float3)
    if textured:
        image = shader(
            "texture", "UsdUVTexture", file=(kinds.Asset, "texture.png"),
            sourceColorSpace=(kinds.Token, "sRGB"),
            wrapS=(kinds.Token, "clamp"), wrapT=(kinds.Token, "clamp"),
        )  # fmt: skip
        image.CreateInput("st", kinds.Float2).ConnectToSource(output)
        output = image.CreateOutput("rgb", kinds.Float3)
    black = (0.0, 0.0, 0.0)
    surface = shader(
        "surface", "UsdPreviewSurface", roughness=(kinds.Float, 1.0), useSpecularWorkflow=(kinds.Int, 1),
        specularColor=(kinds.Color3f, black), diffuseColor=(kinds.Color3f, black),
    )  # fmt: skip
    surface.CreateInput("diffuseColor" if lit else "emissiveColor", kinds.Color3f).ConnectToSource(output)
    material = shade.Material.Define(stage, "/object/material")
    material.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", kinds.Token))
    shade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)
