"""Training any config on a user's own data."""

from mmpvt.engine.own_data.config import DataOptions, use_own_data
from mmpvt.engine.own_data.model import check_supported

__all__ = ["DataOptions", "check_supported", "use_own_data"]
