"""What each probe saw, file by file and call by call, so that a bug report can be acted upon.

A report may be posted in public, so it names nobody: no names of the computer or its user, no serial numbers,
unique ids cut short, the home folder as `~`, of variables that may hold a secret only that they are set. It
works where a probe crashes: this is a boundary, at which any exception becomes a line of the report.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from weigh.machine import kernel_files, pci
from weigh.machine.commands import Run, output

MOST_CHARACTERS = 400  # of one line
MOST_LINES = 60  # of one probe


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a probe looked at.

    Attributes:
        probe: which one (``amd``).
        source: the file, call, command or variable it read.
        saw: what that said, made fit to be shown; errors too.
    """

    probe: str
    source: str
    saw: str


Seen = Iterator[tuple[str, object]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """Where to look: this system, or a recording of one."""

    root: Path
    run: Run
    environment: Mapping[str, str]

    @property
    def recorded(self) -> bool:
        return self.root != Path("/")


def examine(
    root: Path = Path("/"), *, run: Run = output, environment: Mapping[str, str] | None = None
) -> tuple[Finding, ...]:
    """Everything the probes look at, in their order. Nothing is measured; it takes well under 2 s.

    Args:
        root: a folder that looks like the / of another machine, to examine a recording; one without
            /proc/meminfo is given this machine's memory.
        run, environment: stand in for the system's commands and `os.environ`.
    """
    asked = _Asked(root, run, os.environ if environment is None else environment)
    hide = _hider(asked.environment)
    return tuple(
        Finding(probe, hide(source), hide(_said(saw)))
        for probe, look in _PROBES.items()
        for source, saw in _without_crash(look, asked)
    )


def _without_crash(look: Callable[[_Asked], Seen], asked: _Asked) -> list[tuple[str, object]]:
    seen: list[tuple[str, object]] = []
    try:
        for found in look(asked):
            seen.append(found)
            if len(seen) == MOST_LINES:
                seen.append(("more", "left out"))
                break
    except Exception as error:  # whatever a probe does, the others are still asked
        seen.append(("crashed", f"{type(error).__name__}: {error}"))
    return seen or [("looked", "nothing of it is here")]


# --- what may be shown --------------------------------------------------------------------------------------


def _said(saw: object) -> str:
    """A value of ours field by field, without those that say nothing."""
    if is_dataclass(saw) and not isinstance(saw, type):
        told = ((field, getattr(saw, field.name)) for field in fields(saw))
        return ", ".join(f"{field.name}={value!r}" for field, value in told if value != field.default)
    return str(saw)


def _hider(environment: Mapping[str, str]) -> Callable[[str], str]:
    """Cuts what names somebody, escapes what a terminal would obey, and bounds the length."""
    homes = {environment.get("HOME", ""), os.path.expanduser("~")} - {"", "/", "~"}  # noqa: PTH111
    who = {environment.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER", "HOSTNAME")}
    who |= {platform.node(), platform.node().partition(".")[0], *(Path(home).name for home in homes)}
    names = sorted((n for n in who if len(n) > 2 and n not in _NOBODY), key=len, reverse=True)
    name = re.compile("|".join(rf"(?<![A-Za-z0-9]){re.escape(n)}(?![A-Za-z0-9])" for n in names) or r"(?!)")

    def hide(text: str) -> str:
        for home in sorted(homes, key=len, reverse=True):
            text = re.sub(rf"{re.escape(home)}(?=/|\W|$)", "~", text)
        text = re.sub(r"(/home|/Users)/[^/\s:,'\"]+", "~", text)
        text = _UNIQUE.sub(lambda found: f"{found[0][:8]}…", _ADDRESS.sub("NAME", name.sub("NAME", text)))
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"

    return hide


_NOBODY = frozenset(
    ("root", "localhost", "user", "ubuntu", "linux", "debian", "admin", "runner", "container")
)
_ADDRESS = re.compile(r"[\w.+-]+@[A-Za-z][\w.-]*")  # of mail, or who built the kernel where
# UUIDs and container ids, of which the first 8 characters are enough to tell two apart. Numbers have no letter.
_UNIQUE = re.compile(
    r"(?<![0-9A-Za-z])[0-9a-fA-F]{8}-[0-9a-fA-F]{4}(?:-[0-9a-fA-F]{2,12})+"
    r"|(?<![0-9A-Za-z])(?=[0-9]*[a-f])[0-9a-f]{16,}(?![0-9A-Za-z])"
)


def _file(asked: _Asked, place: str, most_characters: int = 1 << 12) -> tuple[str, object]:
    """A file as it reads, or why it does not."""
    path = asked.root / place
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(most_characters).strip("\0\n ")
    except OSError as error:
        return f"/{place}", error.strerror or type(error).__name__
    return f"/{place}", text.replace("\0", " ") or "empty"


def _files(asked: _Asked, places: Iterable[str]) -> Seen:
    yield from (_file(asked, place) for place in places if (asked.root / place).exists())


def _lines(text: str, wanted: str) -> str:
    return "; ".join(" ".join(line.split()) for line in text.splitlines() if re.match(wanted, line))


def _command(asked: _Asked, words: tuple[str, ...], wanted: str = "") -> tuple[str, object]:
    printed = asked.run(words)
    told = _lines(printed, wanted) if wanted else "; ".join(printed.split("\n"))
    return " ".join(words), told or "printed nothing, or is not there"


# --- the probes ---------------------------------------------------------------------------------------------


def _system(asked: _Asked) -> Seen:
    yield "python", f"{platform.python_version()} {platform.python_implementation()} on {sys.platform}"
    if not asked.recorded:
        yield "uname", f"{platform.system()} {platform.release()} {platform.machine()}"
    name, text = _file(asked, "etc/os-release")
    yield name, _lines(str(text), "NAME=|VERSION=") or text
    yield _file(asked, "proc/version")
    for place in (".dockerenv", "run/.containerenv", "run/systemd/container"):
        if (asked.root / place).exists():
            yield f"/{place}", "there: this is a container"
    yield "packages", _versions()


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    def said(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return ""

    names = (
        *("weigh", "xllamacpp", "llama-cpp-python", "nvidia-ml-py", "amdsmi", "psutil", "click", "rich"),
        *("torch", "transformers", "vllm"),
    )
    return ", ".join(filter(None, map(said, names))) or "none"


def _cpu(asked: _Asked) -> Seen:
    from weigh.machine.cpu import read_cpu

    info = kernel_files.text(asked.root / "proc/cpuinfo", 1 << 16)
    wanted = "model name|CPU implementer|CPU part|Model|Hardware|cpu\t|isa|Features|features"
    yield "/proc/cpuinfo", "; ".join(dict.fromkeys(_lines(info, wanted).split("; "))) or "nothing"
    flags = next((line for line in info.splitlines() if line.startswith("flags")), "")
    yield (
        "its flags for kernels",
        " ".join(re.findall(r"\b(?:avx|amx|fma|f16c|bmi2|hypervisor)\S*", flags)) or "none",
    )
    places = ("sys/devices/system/cpu/online", "sys/devices/system/node/online")
    yield from _files(asked, (*places, "sys/class/dmi/id/sys_vendor", "sys/class/dmi/id/product_name"))
    status = kernel_files.text(asked.root / "proc/self/status")
    yield "/proc/self/status", _lines(status, "Cpus_allowed_list|Mems_allowed_list") or "nothing"
    if not asked.recorded or info:
        yield "read_cpu", read_cpu(asked.root)


def _memory(asked: _Asked) -> Seen:
    from weigh.machine.memory import read_memory

    info = kernel_files.text(asked.root / "proc/meminfo")
    wanted = "MemTotal|MemFree|MemAvailable|Active.file|Inactive.file|SwapTotal|SwapFree|HugePages_Total|Hugepagesize"
    yield "/proc/meminfo", _lines(info, wanted) or "nothing"
    if not asked.recorded or info:
        yield "read_memory", read_memory(asked.root, run=asked.run)


def _cgroup(asked: _Asked) -> Seen:
    from weigh.machine.cgroup import levels

    yield _file(asked, "proc/self/cgroup")
    for controller, names in _CGROUP_FILES.items():
        for level in levels(controller, asked.root):
            told = {name: kernel_files.text(level.folder / name) for name in names}
            said = ", ".join(f"{name}={text}" for name, text in told.items() if text)
            yield f"v{level.version} /{level.folder.relative_to(asked.root)}", said or "no limit files"


_CGROUP_FILES = {
    "memory": (
        *("memory.max", "memory.high", "memory.current", "memory.swap.max"),
        *("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ),
    "cpu": ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
    "cpuset": ("cpuset.cpus.effective", "cpuset.effective_cpus"),
}


def _disk(asked: _Asked) -> Seen:
    from weigh.machine.disk import models_folder, read_disk

    if not asked.recorded:
        disk = read_disk()
        yield "models folder", models_folder()
        yield "read_disk", f"{disk.free_bytes} of {disk.total_bytes} bytes free"


def _pci(asked: _Asked) -> Seen:
    """Every display and accelerator of the bus, those too that are no GPUs to weigh."""
    for folder in kernel_files.folders(asked.root / "sys/bus/pci/devices"):
        told = [kernel_files.text(folder / name) for name in ("vendor", "device", "revision", "class")]
        if told[3][:4] in ("0x03", "0x12"):
            driver = pci.bound_driver(folder) or "none"
            yield folder.name, f"{told[0]}:{told[1]} revision {told[2]} class {told[3]} driver {driver}"


def _nvidia(asked: _Asked) -> Seen:
    from weigh.machine.memory import read_memory
    from weigh.machine.nvidia import read_nvidia

    yield from _files(asked, ("proc/driver/nvidia/version", "sys/module/nvidia/version"))
    places = ("dev/nvidiactl", "dev/nvidia0", "dev/nvidia-uvm", "usr/lib/wsl/lib/libnvidia-ml.so.1")
    yield "device files", _there(asked, places)
    if not asked.recorded:
        yield from _nvml()
        cards = pci.gpu_devices(asked.root)
        for gpu in read_nvidia(cards, read_memory(asked.root), asked.root, None, asked.environment):
            yield "read_nvidia", gpu


def _there(asked: _Asked, places: Iterable[str]) -> str:
    """Which device files are there, and whether this process may open them."""
    said = []
    for place in places:
        path = asked.root / place
        if path.exists():
            said.append(
                f"/{place} ({'may be opened' if os.access(path, os.R_OK | os.W_OK) else 'no permission'})"
            )
    return ", ".join(said) or "none"


def _nvml() -> Seen:
    """Every answer or refusal of NVML by itself: the probe takes some refusals for an answer."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield "nvmlInit", error
        return
    try:
        yield "nvmlSystemGetDriverVersion", _answer(pynvml.nvmlSystemGetDriverVersion)
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            for name in _NVML_CALLS:
                yield f"{name} {index}", _answer(partial(getattr(pynvml, name), handle))
    finally:
        pynvml.nvmlShutdown()


_NVML_CALLS = (
    *("nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetBAR1MemoryInfo"),
    *("nvmlDeviceGetCudaComputeCapability", "nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount"),
    *("nvmlDeviceGetVirtualizationMode", "nvmlDeviceGetUUID"),
)


def _answer(ask: Callable[[], Any]) -> object:
    """What a call answers, or the error it ends with: a refusal is an answer too."""
    try:
        return ask()
    except (
        Exception
    ) as error:  # whichever: NVML's, ctypes' where a library is older than the call, the engine's
        return f"{type(error).__name__}: {error}"


def _amd(asked: _Asked) -> Seen:
    from weigh.machine.amd import read_amd
    from weigh.machine.memory import read_memory

    cards = [card for card in pci.gpu_devices(asked.root) if card.vendor == pci.AMD]
    for card in cards:
        names = sorted(path.name for path in kernel_files.folders(card.folder))
        wanted = [
            n
            for n in names
            if n.startswith("mem_info_") or n in ("product_name", "current_compute_partition")
        ]
        said = ", ".join(f"{name}={kernel_files.text(card.folder / name)}" for name in wanted)
        yield card.address, said or "no mem_info files"
        node = pci.render_node(card, asked.root)
        places = ["dev/kfd", *([str(node.relative_to(asked.root))] if node else [])]
        yield "device files", _there(asked, places)
    for folder in kernel_files.folders(asked.root / "sys/class/kfd/kfd/topology/nodes"):
        told = kernel_files.table(folder / "properties")
        if told.get("gfx_target_version"):
            keys = ("gfx_target_version", "simd_count", "location_id", "domain", "local_mem_size")
            yield f"kfd node {folder.name}", ", ".join(f"{key}={told.get(key)}" for key in keys)
    if cards:
        for gpu in read_amd(cards, read_memory(asked.root, run=asked.run), asked.root, asked.environment):
            yield "read_amd", gpu


def _intel(asked: _Asked) -> Seen:
    from weigh.machine.intel import read_intel
    from weigh.machine.memory import read_memory

    cards = [card for card in pci.gpu_devices(asked.root) if card.vendor == pci.INTEL]
    for card in cards:
        node = pci.render_node(card, asked.root)
        yield card.address, f"driver {card.driver or 'none'}, render node {node.name if node else 'none'}"
        if node and not asked.recorded:
            yield (
                f"memory regions of {node.name}",
                _answer(partial(_regions, node, card.driver)),
            )
    if cards:
        for gpu in read_intel(cards, read_memory(asked.root, run=asked.run), asked.root, asked.environment):
            yield "read_intel", gpu


def _regions(node: Path, driver: str) -> str:
    from weigh.machine.intel import own_memory, regions_reply

    reply = regions_reply(node, driver)
    return f"{own_memory(reply, driver)} of {reply.hex(' ', 8)}"


def _apple(asked: _Asked) -> Seen:
    from weigh.machine import apple

    if asked.recorded or platform.system() != "Darwin":
        return
    wanted = r"hw\.(mem|perf|logical|physical|optional\.arm\.FEAT_(Dot|I8|BF16|SME|FP16))|machdep\.cpu\.brand|iogpu"
    yield _command(asked, apple.SYSCTL, wanted)
    yield _command(asked, apple.VM_STAT, "Mach|Pages (free|inactive|spec|wired)|File")
    yield _command(asked, apple.GPU_CORES, r'.*"gpu-core-count"')
    yield _command(asked, apple.DISPLAYS, r"\s*(Chipset|Total Number|Metal)")


def _wsl(asked: _Asked) -> Seen:
    from weigh.machine.wsl import is_wsl, read_wsl_gpus

    if is_wsl(asked.root):
        yield "/dev/dxg", _there(asked, ("dev/dxg",))
        for place in ("usr/lib/wsl/lib", "usr/lib/wsl/drivers"):
            names = [path.name for path in kernel_files.folders(asked.root / place)]
            yield f"/{place}", ", ".join(names) or "nothing"
        for gpu in read_wsl_gpus((), asked.root):
            yield "read_wsl_gpus, were nothing else found", gpu


def _board(asked: _Asked) -> Seen:
    from weigh.machine.boards import POWER_MODE, jetson_gpu, read_board
    from weigh.machine.memory import read_memory

    board = read_board(asked.root)
    if board is None:
        return
    yield "/proc/device-tree", board
    yield from _files(asked, ("etc/nv_tegra_release",))
    if board.is_jetson:
        yield _command(asked, POWER_MODE)
        yield "jetson_gpu", jetson_gpu(board, read_memory(asked.root, run=asked.run), asked.root)


def _power(asked: _Asked) -> Seen:
    from weigh.machine.power import counters

    zones = [zone.name for zone in kernel_files.folders(asked.root / "sys/class/powercap")]
    for zone in zones:
        yield from _files(asked, (f"sys/class/powercap/{zone}/{file}" for file in ("name", "energy_uj")))
    if not asked.recorded:
        yield "counters", ", ".join(counter.name for counter in counters()) or "none can be read"


def _engine(asked: _Asked) -> Seen:
    from weigh.engines import default_engine

    if asked.recorded:
        return
    yield "default_engine", _answer(lambda: default_engine().name)
    yield "version", _answer(lambda: default_engine().version())


def _environment(asked: _Asked) -> Seen:
    """Variables that change what is found or how engines run; of those that may hold a secret, that they are set."""
    for name in sorted(asked.environment):
        if _MATTERS.match(name):
            value = asked.environment[name]
            yield name, "set, not shown" if _SECRET.search(name) or "@" in value else value or "set, empty"


_MATTERS = re.compile(
    r"(CUDA|NVIDIA|HIP|ROCR|ROCM|HSA|AMD|GPU|ZE|ZES|ONEAPI|SYCL|GGML|LLAMA|OLLAMA|VLLM|HF|HUGGINGFACE|TRANSFORMERS"
    r"|OMP|MKL|OPENBLAS|KMP|VK|WEIGH|WSL|XLLAMACPP)_|(LD_LIBRARY_PATH|LD_PRELOAD|XDG_(CACHE|CONFIG|DATA)_HOME"
    r"|NO_COLOR|PYTHONPATH|VIRTUAL_ENV|LANG|LC_ALL|(?i:https?_proxy|no_proxy))$"
)
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASS|AUTH|CREDENTIAL|PROXY|HOST|URL|ENDPOINT", re.IGNORECASE)

_PROBES: dict[str, Callable[[_Asked], Seen]] = {
    "system": _system,
    "cpu": _cpu,
    "memory": _memory,
    "cgroup": _cgroup,
    "disk": _disk,
    "pci": _pci,
    "nvidia": _nvidia,
    "amd": _amd,
    "intel": _intel,
    "apple": _apple,
    "wsl": _wsl,
    "board": _board,
    "power": _power,
    "engine": _engine,
    "environment": _environment,
}
