import os

import pytest
import torch

from mae.training.determinism import NotDeterministicError, deterministic


def settings():
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark


def test_it_holds_within_and_only_there(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = settings()
    with deterministic():
        assert settings() == (True, True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert settings() == before
    with deterministic(False):
        assert settings() == before


def test_a_choice_of_cublas_workspace_is_the_users(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic():
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_an_operation_without_a_deterministic_form_is_one_line_that_names_it():
    before = settings()
    message = r"--deterministic can't be had here: put_ "
    with pytest.raises(NotDeterministicError, match=message) as caught, deterministic():
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    assert "\n" not in str(caught.value)
    assert settings() == before


def test_another_error_stays_what_it_is():
    before = settings()
    with pytest.raises(RuntimeError, match="size"), deterministic():
        torch.zeros(3) + torch.zeros(2)
    assert settings() == before
