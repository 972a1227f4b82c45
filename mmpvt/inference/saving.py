"""A trained model as a folder that is read without running code from it, here or on a hub."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmseg.models import BaseSegmentor

from mmpvt.checkpoint.hub import WEIGHTS_FILE, import_hub, reason_of
from mmpvt.checkpoint.loading import CLASSES, import_safetensors
from mmpvt.engine.class_names import is_classifier
from mmpvt.engine.saved_config import CONFIG_FILE, to_data
from mmpvt.errors import UserError
from mmpvt.utils.outputs import LISTING, CannotWriteError, Outputs
from mmpvt.utils.text import printable, to_json

CARD_FILE = "README.md"
CARD = """\
---
library_name: mmpvt
pipeline_tag: {tag}
tags:
- {tag}
- pvt
---
# {name}

{model} on {backbone}, {parameters:.1f} million parameters, in the format of mmpvt {version}:
the weights in `{weights}`; in `{config}`, as data, the model's config, how its images are prepared,
and the names of its classes. Nothing in them is run when they are read.

```python
import mmpvt

model = mmpvt.load_model(FOLDER)  # of these files, or "hf://OWNER/NAME"
sample = model("photo.jpg")
```

{count} classes, by label: {classes}.
"""


def save_pretrained(
    folder: str | os.PathLike, model: BaseModel, config: Config, meta: Mapping
) -> Path:
    """Writes a model's folder: its weights, config and class names, and a model card.

    A model card that was edited since it was written stays as it is.

    Args:
        folder (str | PathLike): a new or empty one, or one that this wrote.
        model (BaseModel): with its weights.
        config (Config): that it was built from.
        meta (Mapping): its ``classes`` and, perhaps, ``palette``.

    Returns:
        Path: the folder.

    Raises:
        OutputError: the folder holds other files, or can't be written.
        ConfigError: the config can't be written as data.
        CheckpointError: safetensors isn't installed.
    """
    folder = Path(folder)
    out = Outputs(folder, setting="folder")
    out.check_folder()
    out.check(WEIGHTS_FILE, CONFIG_FILE)
    safetensors = import_safetensors(folder / WEIGHTS_FILE)
    data = to_data(config, meta)
    tensors = {  # copies, as safetensors takes none that share their memory
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    described = {"format": "pt", CLASSES: json.dumps(data["classes"])}
    out.write(WEIGHTS_FILE, safetensors.save(tensors, metadata=described))
    out.write(CONFIG_FILE, to_json(data, indent=1))
    try:
        out.write(CARD_FILE, _card(folder.absolute().name, model, config, data).encode())
    except CannotWriteError:
        if not (folder / CARD_FILE).is_file():
            raise
    return folder


def push_to_hub(
    repo: str,
    model: BaseModel,
    config: Config,
    meta: Mapping,
    *,
    private: bool = False,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Uploads what :func:`save_pretrained` writes to a repository of the Hugging Face hub.

    Args:
        repo (str): ``'OWNER/NAME'``; made where there is none.
        model (BaseModel): with its weights.
        config (Config): that it was built from.
        meta (Mapping): its ``classes`` and, perhaps, ``palette``.
        private (bool): whether a new repository is. Default: False.
        message (str | None): of the commit. Default: None, ``'Upload a model of mmpvt'``.
        token (str | None): of the hub. Default: None, the one that ``hf auth login`` has stored.

    Returns:
        str: the commit's URL.

    Raises:
        UserError: huggingface_hub isn't installed, or the hub refuses or can't be reached.
        ConfigError: the config can't be written as data.
        CheckpointError: safetensors isn't installed.
    """
    hub = import_hub()
    with tempfile.TemporaryDirectory(prefix="mmpvt-") as temporary:
        folder = Path(temporary) / repo.rpartition("/")[2]
        save_pretrained(folder, model, config, meta)
        api = hub.HfApi(token=token)
        try:
            repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
            done = api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                commit_message=message or "Upload a model of mmpvt",
                ignore_patterns=LISTING,
            )
        except Exception as error:  # its own, and those of what it uploads with
            raise UserError(f"{repo} can't be uploaded: {reason_of(error)}", where=repo) from error
    return str(done.commit_url)


def _card(name: str, model: BaseModel, config: Config, data: dict) -> str:
    backbone = config.model.get("backbone") or {}
    arch = backbone.get("arch")
    tag = "image-segmentation" if isinstance(model, BaseSegmentor) else "object-detection"
    return CARD.format(
        tag="image-classification" if is_classifier(config.model) else tag,
        name=printable(name),
        model=type(model).__name__,
        backbone=type(getattr(model, "backbone", model)).__name__
        + (f" {arch}" if isinstance(arch, str) else ""),
        parameters=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        version=data["version"],
        weights=WEIGHTS_FILE,
        config=CONFIG_FILE,
        count=len(data["classes"]),
        classes=printable(", ".join(map(str, data["classes"]))),
    )
