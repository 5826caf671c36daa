"""NVIDIA's management library, behind a port: what it tells of each accelerator.

A figure that a card does not tell (many tell no utilisation under MIG) counts as 0; a library that fails on one card
says nothing about the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pynvml  # type: ignore[import-untyped]

Figure = TypeVar("Figure")
MAX_GPUS = 64


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator at one moment."""

    name: str
    utilization: float
    """0 to 1."""
    temperature_celsius: int
    used_bytes: int
    total_bytes: int


class Nvml(Protocol):
    """What is used of the `pynvml` module."""

    NVML_TEMPERATURE_GPU: int

    @property
    def NVMLError(self) -> type[Exception]:
        """What its functions raise."""

    def nvmlInit(self) -> None:
        """Loads the driver's library. Raises NVMLError where there is none."""

    def nvmlSystemGetDriverVersion(self) -> str:
        """For example `570.86.15`."""

    def nvmlDeviceGetCount(self) -> int:
        """How many accelerators."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        """One of them."""

    def nvmlDeviceGetName(self, handle: Any) -> str:
        """Its product name."""

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        """`.gpu` in percent."""

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        """In degrees Celsius."""

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        """`.used` and `.total` in bytes."""


class Gpus:
    """The machine's accelerators."""

    def __init__(self, nvml: Nvml) -> None:
        """Raises the library's NVMLError where there is no driver."""
        self._nvml = nvml
        nvml.nvmlInit()
        self.driver_version = _text(self._or(nvml.nvmlSystemGetDriverVersion, ""))

    def read(self) -> list[Gpu]:
        """Each of them now."""
        count = min(self._or(self._nvml.nvmlDeviceGetCount, 0), MAX_GPUS)
        return [self._one(handle) for handle in map(self._handle, range(count)) if handle is not None]

    def _handle(self, index: int) -> Any:
        return self._or(lambda: self._nvml.nvmlDeviceGetHandleByIndex(index), None)

    def _one(self, handle: Any) -> Gpu:
        nvml = self._nvml
        memory = self._or(lambda: nvml.nvmlDeviceGetMemoryInfo(handle), None)
        rates = self._or(lambda: nvml.nvmlDeviceGetUtilizationRates(handle), None)
        return Gpu(
            name=_text(self._or(lambda: nvml.nvmlDeviceGetName(handle), "")),
            utilization=min(max(rates.gpu / 100, 0.0), 1.0) if rates is not None else 0.0,
            temperature_celsius=max(
                int(self._or(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU), 0)), 0
            ),
            used_bytes=int(memory.used) if memory is not None else 0,
            total_bytes=int(memory.total) if memory is not None else 0,
        )

    def _or(self, read: Callable[[], Figure], otherwise: Figure) -> Figure:
        try:
            return read()
        except self._nvml.NVMLError:
            return otherwise


def open_gpus(nvml: Nvml = pynvml) -> Gpus | None:
    """The machine's accelerators; None where there is no driver."""
    try:
        return Gpus(nvml)
    except nvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    """Older libraries give bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
