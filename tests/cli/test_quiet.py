from __future__ import annotations

import logging
import warnings

import pytest

from graftwork.cli.quiet import silence_libraries


@pytest.fixture(autouse=True)
def quiet():
    filters = {name: list(logging.getLogger(name).filters) for name in LOGGERS}
    with warnings.catch_warnings():
        silence_libraries()
        yield
    for name, found in filters.items():
        logging.getLogger(name).filters = found


LOGGERS = ("bitsandbytes.backends.cpu.ops",)


def heard(name: str, message: str) -> bool:
    logger = logging.getLogger(name)
    return bool(logger.filter(logger.makeRecord(name, logging.WARNING, "", 0, message, (), None)))


def test_a_kernel_that_nobody_calls_is_not_missed():
    assert not heard(LOGGERS[0], "Failed to load CPU gemm_4bit_forward from kernels-community: no")
    assert heard(LOGGERS[0], "Failed to load the library")


def test_other_warnings_are_shown():
    with pytest.warns(FutureWarning, match="another"):
        warnings.warn("another property is deprecated", FutureWarning, stacklevel=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        silence_libraries()
        warnings.warn(
            "`is_gradient_checkpointing` is deprecated and will be removed in v6.",
            FutureWarning,
            stacklevel=1,
        )
    assert not caught
