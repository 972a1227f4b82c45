"""Changes to other packages, one function each: what for, for which versions, until when.

=============================  ===========================================  ========================
function                       package and what fails without it            for how long
=============================  ===========================================  ========================
``fix_package_lookup``         MMEngine: ``mmdet::`` needs pkg_resources     ``setup_environment``
``format_config_once``         MMEngine: each checkpoint runs yapf          ``setup_environment``
``keep_image_in_place``        MMEngine: drawn images shift and shrink       ``setup_environment``
``load_checkpoints_with``      MMEngine: its checkpoints are not read        ``setup_environment``
``map_labels_by_name``         MMDetection: labels follow a file's order     ``setup_environment``
``weigh_ignored_pixels``       MMSegmentation: class weights beside 255      ``setup_environment``
``import_torchvision``         torchvision: the import fails                 ``setup_environment``
``switch_off_multimodal``      mmpretrain: the import fails                  ``setup_environment``
``weights_only_globals``       PyTorch: types that a checkpoint may hold     while one is read
=============================  ===========================================  ========================

None is made by ``import mmpvt``, which supplies ``mmcv._ext`` where it is missing
(:mod:`mmpvt.ops`) and changes nothing else. A change takes an ``ExitStack`` that undoes it.
"""

from mmpvt.compat.openmmlab import (
    fix_package_lookup,
    format_config_once,
    get_installed_path,
    import_torchvision,
    keep_image_in_place,
    load_checkpoints_with,
    map_labels_by_name,
    switch_off_multimodal,
    weigh_ignored_pixels,
)

__all__ = [
    "fix_package_lookup",
    "format_config_once",
    "get_installed_path",
    "import_torchvision",
    "keep_image_in_place",
    "load_checkpoints_with",
    "map_labels_by_name",
    "switch_off_multimodal",
    "weigh_ignored_pixels",
]
