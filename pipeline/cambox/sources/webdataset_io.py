"""WebDataset's own grouping and writing of samples, without waiting for torch.

The library takes torch for its loaders where that is installed, and does without where it is not;
none of what is used here needs it. Commands that only move files (pack, export, gallery) would wait
for seconds, so they take the library as if torch were not there. A process that has torch already
takes it as it is, and a later ``import webdataset`` elsewhere gets all of it.
"""

from __future__ import annotations

import sys

_HIDES_TORCH = "torch" not in sys.modules and "webdataset" not in sys.modules

if _HIDES_TORCH:
    # What Python makes of None is that there is no such module.
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    from webdataset.handlers import reraise_exception
    from webdataset.tariterators import base_plus_ext, group_by_keys
    from webdataset.writer import TarWriter
finally:
    if _HIDES_TORCH:
        del sys.modules["torch"]
        for _name in [name for name in sys.modules if name.partition(".")[0] == "webdataset"]:
            del sys.modules[_name]

__all__ = ["TarWriter", "base_plus_ext", "group_by_keys", "reraise_exception"]
