"""What settings can be, apart from the code that takes them: for ``--help``, without PyTorch."""

AMP_DTYPES = ("float16", "bfloat16")
LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
ON_BAD_DATA = ("auto", "stop", "skip")
REACTIONS = ("stop", "skip")  # to NaN and Inf
EMA_MOMENTUM = 0.0002  # MMEngine's
LOGGERS = {  # packages, and what writes for them
    "tensorboard": "TensorboardVisBackend",
    "mlflow": "MLflowVisBackend",
    "wandb": "WandbVisBackend",
}
