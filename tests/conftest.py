"""Loads the fixtures, which import torch, where tests run: not into the process that only hands them out to others."""

import importlib

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.register(importlib.import_module("kit.fixtures"))
