import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import pytest
import torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells leave it in the background; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # tiny tensors, and the machine may be busy


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """A random CLIP in open_clip's ``local-dir:`` layout: 32 px, patch 8, so a 4×4 grid."""
    from tests.tiny_clip import save_tiny_clip

    return f"local-dir:{save_tiny_clip(tmp_path_factory.mktemp('clip'))}"
