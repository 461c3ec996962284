"""Files that cannot be written."""

import pytest
import torch
from safetensors.torch import save_file

from delta.errors import StorageError
from tests.conftest import files_up_to
from workers.files import storage_errors


def test_what_cannot_be_written_is_the_users_to_mend(tmp_path):
    with files_up_to(4096):
        with pytest.raises(StorageError, match=r"^learner rank 3: .*too large"), storage_errors("learner rank 3"):
            save_file({"weight": torch.zeros(2048)}, tmp_path / "weights")
        remedied = storage_errors("cannot write it", remedy="Free space.")
        with pytest.raises(StorageError, match=r"^cannot write it: .*too large\. Free space\.$"), remedied:
            (tmp_path / "text").write_bytes(bytes(8192))
