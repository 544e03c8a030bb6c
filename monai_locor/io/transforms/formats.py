# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Table of all transform file formats."""

from __future__ import annotations

from ...roles import ROLES
from ..dicom.registration import read_registration, write_registration
from . import fsl, matrices, nifti_vectors, niftyreg
from .ants import ants_files, read_ants, write_ants
from .base import Format
from .elastix import elastix_files, read_elastix, write_elastix
from .itk_fields import read_nifti, read_vector_image, write_nifti, write_vector_image
from .itk_files import itk_files, read_itk, write_itk
from .learn2reg import read_learn2reg, write_learn2reg
from .lta import read_lta, write_lta
from .x5 import read_x5, write_x5

__all__ = ["FORMATS", "formats_text"]

_NIFTI = (".nii.gz", ".nii")

_TABLE = (
    Format(
        "itk",
        "ITK, ANTs, Slicer, c3d: any chain in .h5 (a known inverse in a second file), affine in .tfm, .txt, .mat",
        "content",
        (".h5", ".hdf5", ".tfm", ".txt", ".mat"),
        read_itk,
        write_itk,
        files=itk_files,
    ),
    Format(
        "nifti",
        "ITK, ANTs, Slicer, greedy: displacement field in LPS mm",
        "intent 1007 (or 1006, then RAS) and no positions in it",
        _NIFTI,
        read_nifti,
        write_nifti,
    ),
    Format(
        "vector",
        "ITK, elastix, Slicer: displacement field in LPS mm as NRRD or MetaImage",
        "name, and no positions in it",
        (".nrrd", ".mha"),
        read_vector_image,
        write_vector_image,
    ),
    Format(
        "ants",
        "0GenericAffine.mat, 1Warp.nii.gz and 1InverseWarp.nii.gz of antsRegistration",
        "prefix of these names",
        (),
        read_ants,
        write_ants,
        files=ants_files,
    ),
    Format(
        "elastix",
        "elastix: TransformParameters of transformix, with a displacement field in a second file",
        "content",
        (".txt",),
        read_elastix,
        write_elastix,
        files=elastix_files,
    ),
    Format(
        "niftyreg-def",
        "NiftyReg: where each voxel goes, RAS mm",
        "intent name NREG_TRANS",
        _NIFTI,
        niftyreg.read_deformation,
        niftyreg.write_deformation,
    ),
    Format(
        "niftyreg-disp",
        "NiftyReg: how far each voxel moves, RAS mm",
        "intent name NREG_TRANS",
        _NIFTI,
        niftyreg.read_displacement,
        niftyreg.write_displacement,
    ),
    Format(
        "niftyreg-cpp",
        "NiftyReg: control points of a cubic B-spline; fitted with one a voxel if it was none",
        "intent name NREG_TRANS",
        _NIFTI,
        niftyreg.read_spline,
        niftyreg.write_spline,
    ),
    Format(
        "niftyreg-affine",
        "NiftyReg: affine matrix, reference to floating, RAS mm",
        "",
        (".txt",),
        matrices.read_ras_matrix,
        matrices.write_ras_matrix,
        affine_only=True,
    ),
    Format(
        "greedy",
        "greedy, c3d_affine_tool: affine matrix, fixed to moving, RAS mm",
        "in .mat, if FLIRT's reading moves the images apart",
        (".mat", ".txt"),
        matrices.read_ras_matrix,
        matrices.write_ras_matrix,
        affine_only=True,
    ),
    Format(
        "lps-matrix",
        "four lines of four numbers, fixed to moving, LPS mm",
        "",
        (".txt", ".mat"),
        matrices.read_lps_matrix,
        affine_only=True,
    ),
    Format(
        "fsl",
        "FSL: relative warp of applywarp; read also absolute ones and FNIRT's coefficients",
        "intents 2006 to 2009",
        _NIFTI,
        fsl.read_fsl,
        fsl.write_relative,
        ("moving",),
        ("moving",),
    ),
    Format("fsl-rel", "FSL: relative warp", "", _NIFTI, fsl.read_relative, fsl.write_relative, ("moving",), ("moving",)),
    Format("fsl-abs", "FSL: absolute warp", "", _NIFTI, fsl.read_absolute, fsl.write_absolute, ("moving",), ("moving",)),
    Format(
        "flirt",
        "FSL: matrix of FLIRT",
        "two spaces after every number; or, in .mat, if greedy's reading moves the images apart",
        (".mat",),
        fsl.read_flirt,
        fsl.write_flirt,
        ROLES,
        ROLES,
        affine_only=True,
    ),
    Format(
        "learn2reg",
        "Learn2Reg: disp_*.nii.gz, or .npz of half resolution and precision, in voxels",
        "names disp_*_*.nii.gz without intent, .npz",
        (".nii.gz", ".nii", ".npz"),
        read_learn2reg,
        write_learn2reg,
    ),
    Format(
        "spm",
        "SPM, CAT: y_*.nii and iy_*.nii, where each voxel goes, RAS mm",
        "intent name Mapping, or description Deformation",
        _NIFTI,
        nifti_vectors.read_ras_positions,
    ),
    Format(
        "ras-positions",
        "MRtrix and others: where each voxel goes, RAS mm",
        "numbers close to the voxels' own positions, in these units only",
        _NIFTI,
        nifti_vectors.read_ras_positions,
    ),
    Format(
        "lps-positions",
        "where each voxel goes, LPS mm",
        "likewise, without intent",
        _NIFTI,
        nifti_vectors.read_lps_positions,
    ),
    Format(
        "voxel-positions",
        "where each voxel goes, in voxels of the moving image (if not given, of the fixed one)",
        "",
        _NIFTI,
        nifti_vectors.read_voxel_positions,
    ),
    Format(
        "ras-displacement",
        "how far each voxel moves, RAS mm",
        "",
        _NIFTI,
        nifti_vectors.read_ras_displacement,
    ),
    Format(
        "lps-displacement",
        "how far each voxel moves, LPS mm",
        "",
        _NIFTI,
        nifti_vectors.read_lps_displacement,
    ),
    Format(
        "lta",
        "FreeSurfer: affine map, RAS to RAS; read also voxels to voxels",
        "content",
        (".lta",),
        read_lta,
        write_lta,
        (),
        ROLES,
        affine_only=True,
    ),
    Format(
        "minc",
        "MINC, FreeSurfer: linear map, moving to fixed, RAS mm; of ITK the reverse, as ITK reads it",
        "content",
        (".xfm",),
        matrices.read_minc,
        matrices.write_minc,
        affine_only=True,
    ),
    Format(
        "afni",
        "AFNI: .aff12.1D of 3dAllineate, base to source, LPS mm",
        "content",
        (".1D",),
        matrices.read_afni,
        affine_only=True,
    ),
    Format(
        "x5",
        "X5 of BIDS and nitransforms: a chain of affine maps and fields, RAS mm; needs h5py",
        "content",
        (".x5",),
        read_x5,
        write_x5,
    ),
    Format(
        "dicom",
        "DICOM Spatial Registration, or Deformable Spatial Registration; needs pydicom",
        "content",
        (".dcm",),
        read_registration,
        header_writer=write_registration,
        needs_to_write=ROLES,
    ),
)

#: formats by name
FORMATS: dict[str, Format] = {kind.name: kind for kind in _TABLE}


def formats_text() -> str:
    """Return the table as text: a line for each format, followed by a line on how it is recognized."""
    return "\n".join(_lines(kind) for kind in _TABLE)


def _lines(kind: Format) -> str:
    access = "/".join(word for word, can in (("read", kind.reads), ("write", kind.writes)) if can)
    needs = {*kind.needs_to_read, *kind.needs_to_write}
    when = "" if set(kind.needs_to_read) == needs else " to be written"
    note = f"; needs the {' and the '.join(sorted(needs))} image{when}" if needs else ""
    line = f"{kind.name:<16} {' '.join(kind.suffixes) or '(prefix)':<28} {access:<10} {kind.description}{note}"
    return f"{line}\n{'':<16} recognized by: {kind.recognized or 'nothing, name it'}"
