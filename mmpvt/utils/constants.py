"""Conventions of the field, and names, that several rooms share."""

# Of annotated images; voc0 and voc1 are voc with coordinates that count from 0 or 1, where the data
# doesn't tell.
FORMATS = ("coco", "voc", "voc0", "voc1", "yolo", "labelme", "cvat", "masks", "folders")
WRITTEN_FORMATS = ("coco", "voc", "yolo", "masks")
LAYOUTS = ("mmpvt", "published", "mmdet", "timm", "huggingface")  # of checkpoints to write
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
DOWNLOADS = ("coco", "ade20k", "weights", "detectors")
# By a launcher's name, the variable that tells each process which one of a run it is. SLURM's come
# last: its tasks may start the others.
RANKS = {"pytorch": "RANK", "mpi": "OMPI_COMM_WORLD_RANK", "slurm": "SLURM_PROCID"}
IGNORE_LABEL = 255  # of label maps: pixels of no class, which no loss and no score counts
SCORE = 0.3  # instances below are not shown, unless asked for
# The variable that OpenCV reads as it is imported: of formats that Pillow doesn't know, whose size
# isn't known before they are decoded, it alone refuses those of too many pixels.
OPENCV_LIMIT = "OPENCV_IO_MAX_IMAGE_PIXELS"
MAX_PIXELS = 2 * 89_478_485  # 179 million, of an image: from there on Pillow, too, sees an attack
MAX_PAGE_PIXELS = 50_000_000  # of an image on the page
# of files that are taken for images in a folder
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff",
     ".jp2", ".pbm", ".pgm", ".ppm", ".pnm")
)  # fmt: skip
